from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flts_ray.data.claims import (
    CLAIM_FILE,
    Claim,
    SourceRecord,
    data_digest,
    dataset_id_of,
    dataset_store,
    read_claim,
    write_claim,
)
from flts_ray.data.storage import Store
from flts_ray.errors import DataError, IntegrityError

pytestmark = pytest.mark.unit


def claim(**changes: Any) -> Claim:
    fields: dict[str, Any] = {
        "config_hash": "c" * 64,
        "data_digest": "d" * 64,
        "identifier": "site",
        "created_at": "2026-01-01T00:00:00Z",
        "code_version": "1",
        "sampled": False,
        "columns": [{"name": "down", "unit": "bits"}],
        "targets": ["down"],
        "target_unit": "bits",
        "step_s": 120.0,
        "feature_names": ["down"],
        "sources": [],
        "series": [],
        "shaping": {"version": 1},
        **changes,
    }
    return Claim(dataset_id=dataset_id_of(fields["config_hash"], fields["data_digest"]), **fields)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def alter(store: Store, dataset_id: str, change: Any) -> None:
    place = dataset_store(store, dataset_id)
    raw = json.loads(place.read_bytes(CLAIM_FILE))
    change(raw)
    place.write_bytes(CLAIM_FILE, json.dumps(raw).encode())


def test_a_claim_comes_back_as_it_was_written(store: Store) -> None:
    written = write_claim(store, claim())
    assert read_claim(store, written.dataset_id) == written
    assert len(written.claim_sha256) == 64


def test_the_first_of_two_equal_claims_stands(store: Store) -> None:
    first = write_claim(store, claim())
    assert write_claim(store, claim(created_at="later", code_version="2")) == first
    assert read_claim(store, first.dataset_id) == first
    replaced = write_claim(store, claim(created_at="later"), replace=True)
    assert read_claim(store, first.dataset_id) == replaced != first


def test_an_intact_claim_is_not_replaced_by_another(store: Store) -> None:
    first = write_claim(store, claim())
    with pytest.raises(IntegrityError, match=r"another run published .* other content"):
        write_claim(store, claim(step_s=60.0))
    assert read_claim(store, first.dataset_id) == first


def test_a_damaged_claim_is_not_taken_for_an_equal_one(store: Store) -> None:
    first = write_claim(store, claim())
    alter(store, first.dataset_id, lambda raw: raw.update(step_s=60.0))
    with pytest.raises(IntegrityError, match="altered"):
        write_claim(store, claim())


def test_the_digest_says_what_the_data_are_not_when_or_by_whom_they_were_made() -> None:
    base = claim().digest()
    assert base == claim(created_at="later", code_version="2", identifier="other").digest()
    assert base == claim().sealed().digest()
    assert base != claim(step_s=60.0).digest()


@given(st.sampled_from(sorted(set(Claim.model_fields) - {"claim_sha256"})))
def test_no_field_can_be_altered_unseen(tmp_path_factory: pytest.TempPathFactory, field: str) -> None:
    store = Store(str(tmp_path_factory.mktemp("claims")))
    written = write_claim(store, claim())
    alter(store, written.dataset_id, lambda raw: raw.update({field: "altered"}))
    with pytest.raises(IntegrityError, match=r"has digest [0-9a-f]{12} but records") as caught:
        read_claim(store, written.dataset_id)
    assert written.claim_sha256[:12] in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'"x"', b"\xff"])
def test_unreadable_claims_are_refused(store: Store, content: bytes) -> None:
    dataset_store(store, "0" * 16).write_bytes(CLAIM_FILE, content)
    with pytest.raises(IntegrityError, match="not readable"):
        read_claim(store, "0" * 16)


def test_a_claim_of_another_dataset_is_refused(store: Store) -> None:
    written = write_claim(store, claim())
    content = dataset_store(store, written.dataset_id).read_bytes(CLAIM_FILE)
    dataset_store(store, "0" * 16).write_bytes(CLAIM_FILE, content)
    with pytest.raises(IntegrityError, match=written.dataset_id):
        read_claim(store, "0" * 16)


def test_a_later_format_is_refused(store: Store) -> None:
    written = write_claim(store, claim(schema_version=99))
    with pytest.raises(IntegrityError, match="format 99"):
        read_claim(store, written.dataset_id)


def test_a_dataset_that_is_not_there_is_named(store: Store) -> None:
    with pytest.raises(DataError, match="no dataset 123"):
        read_claim(store, "123")


def source(series: str, split: str, sha256: str) -> SourceRecord:
    return SourceRecord(split=split, series=series, name="x.csv", bytes=1, sha256=sha256)


@given(st.permutations([("a", "train", "1"), ("a", "test", "2"), ("b", "train", "3")]))
def test_the_data_digest_does_not_depend_on_order(files: list[tuple[str, str, str]]) -> None:
    expected = data_digest((source("a", "train", "1"), source("a", "test", "2"), source("b", "train", "3")))
    assert data_digest(tuple(source(*file) for file in files)) == expected


def test_the_data_digest_depends_on_content_split_and_station() -> None:
    digests = {
        data_digest((source("a", "train", "1"), source("a", "test", "2"))),
        data_digest((source("a", "train", "2"), source("a", "test", "1"))),
        data_digest((source("b", "train", "1"), source("b", "test", "2"))),
        data_digest((source("a", "train", "1"),)),
    }
    assert len(digests) == 4


def test_the_build_is_recorded_and_no_part_of_what_the_data_are(store: Store) -> None:
    bare, built = claim(), claim(build_id="image:7")
    assert built.digest() == bare.digest()
    assert read_claim(store, write_claim(store, built).dataset_id).build_id == "image:7"
    with pytest.raises(IntegrityError, match="altered"):
        alter(store, built.dataset_id, lambda raw: raw.update(build_id="image:8"))
        read_claim(store, built.dataset_id)


def test_a_claim_that_is_older_than_builds_is_read(store: Store) -> None:
    written = write_claim(store, claim())
    alter(store, written.dataset_id, lambda raw: raw.pop("build_id"))
    assert read_claim(store, written.dataset_id) == written


def test_the_identity_depends_on_all_three_parts() -> None:
    identities = {
        dataset_id_of("c", "d", 1),
        dataset_id_of("x", "d", 1),
        dataset_id_of("c", "x", 1),
        dataset_id_of("c", "d", 2),
    }
    assert len(identities) == 4 and all(len(i) == 16 for i in identities)
