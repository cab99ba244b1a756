"""What a word on the command line can mean, and what is refused with a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flts_ray.data.storage import Store
from flts_ray.errors import ConfigError, FltsError, IntegrityError, StorageError
from flts_ray.reconcile import Side
from tests.reconcile.runs import Lab
from tests.services import S3Server


@pytest.mark.unit
def test_a_run_by_its_id_its_folder_or_its_files(lab: Lab, base: Side) -> None:
    folder = lab.home / "runs" / "base"
    (folder / "run.json").write_text(json.dumps({"run_id": "base", "dataset_id": "x", "leaderboard": []}))
    for text in ("base", folder, folder / "record.json", folder / "run.json"):
        side = lab.side(text)
        assert (side.kind, side.record, side.claim) == ("run", base.record, base.claim)
    (folder / "run.json").unlink()


@pytest.mark.unit
def test_a_run_of_another_home_finds_the_dataset_there(lab: Lab, base: Side, tmp_path: Path) -> None:
    elsewhere = Lab(tmp_path / "empty", lab.train, lab.test, pytest.MonkeyPatch())
    assert elsewhere.side(lab.home / "runs" / "base").claim == base.claim
    alone = tmp_path / "record.json"
    alone.write_bytes((lab.home / "runs" / "base" / "record.json").read_bytes())
    side = elsewhere.side(alone)
    assert side.claim is None
    assert "is gone, so rows and sampling are not compared" in side.notes[0]


@pytest.mark.unit
def test_a_run_whose_record_lies_in_the_store(lab: Lab, base: Side, tmp_path: Path) -> None:
    cluster = Lab(tmp_path / "short-lived", lab.train, lab.test, pytest.MonkeyPatch())
    cluster.store = lab.store
    assert cluster.side("base").record == base.record


@pytest.mark.service
def test_a_run_of_a_cluster_by_its_address(lab: Lab, base: Side, s3_server: S3Server, tmp_path: Path) -> None:
    """What the store of a cluster keeps of a run, seen from a laptop whose own store is a folder."""
    assert base.claim
    s3_server.make_bucket("cluster")
    there = Store("s3://cluster/store", s3_server.settings())
    run, dataset = "runs/flts-pipeline-x", f"datasets/{base.claim.dataset_id}"
    there.write_bytes(f"{run}/record.json", lab.store.read_bytes("runs/base/record.json"))
    there.write_bytes(f"{dataset}/claim.json", lab.store.read_bytes(f"{dataset}/claim.json"))
    laptop = Lab(tmp_path / "laptop", lab.train, lab.test, pytest.MonkeyPatch())
    for text in (run, f"{run}/", f"{run}/record.json"):
        side = laptop.side(there.uri_of(text.rstrip("/")) + "/" * text.endswith("/"), s3_server.settings())
        assert (side.record, side.claim, side.notes) == (base.record, base.claim, ())
    for text in (dataset, f"{dataset}/claim.json"):
        assert laptop.side(there.uri_of(text), s3_server.settings()).claim == base.claim
    with pytest.raises(StorageError, match="does not exist"):
        laptop.side("s3://cluster/store/runs/absent", s3_server.settings())


@pytest.mark.unit
def test_a_dataset_by_its_id_its_folder_or_its_claim(lab: Lab, base: Side, tmp_path: Path) -> None:
    assert base.claim
    folder = lab.home / "datasets" / base.claim.dataset_id
    copy = tmp_path / "copied.json"
    copy.write_bytes((folder / "claim.json").read_bytes())
    for text in (base.claim.dataset_id, folder, folder / "claim.json", copy):
        side = lab.side(text)
        assert (side.kind, side.claim) == ("claim", base.claim)
        assert side.settings["sampling.train_rows"].value == 0
        assert side.settings["scaling.scaler"].origin == "claim"


@pytest.mark.unit
def test_a_configuration_is_not_touched_by_this_environment(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPOCHS", "77")
    side = lab.file("ours.yaml", "training: {epochs: 3}\n")
    assert side.kind == "configuration"
    assert side.settings["training.epochs"].value == 3
    assert lab.file("empty.yaml", "").settings["training.epochs"].value == 8


@pytest.mark.unit
def test_an_altered_claim_is_refused(lab: Lab, base: Side, tmp_path: Path) -> None:
    assert base.claim
    altered = tmp_path / "claim.json"
    text = (lab.home / "datasets" / base.claim.dataset_id / "claim.json").read_text()
    altered.write_text(text.replace('"kept_rows": 240', '"kept_rows": 50'))
    with pytest.raises(IntegrityError, match="was altered"):
        lab.side(altered)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "content", "error", "sentence"),
    [
        ("x.yaml", "a: [", ConfigError, "is not valid YAML"),
        ("x.yaml", "trainng: {epochs: 3}", ConfigError, "unknown setting 'trainng.epochs'.*did you mean"),
        ("x.yaml", "- 1\n", ConfigError, "must hold a mapping"),
        ("x.yaml", "!!python/object/apply:os.system ['false']", ConfigError, "is not valid YAML"),
        ("x.yaml", b"\xff\xfe\x00", ConfigError, "is no text"),
        ("record.json", "{", IntegrityError, "is not valid JSON"),
        ("record.json", '{"run_id": 1, "settings": {}, "versions": {}}', IntegrityError, "is not the record of a run"),
        ("claim.json", '{"claim_sha256": ""}', IntegrityError, "is no claim"),
        ("run.json", '{"run_id": "r", "dataset_id": "d"}', ConfigError, "left no record.json"),
        ("other.json", "[]", ConfigError, "neither the record of a run nor a claim"),
    ],
)
def test_what_cannot_be_read_is_refused(
    lab: Lab, tmp_path: Path, name: str, content: str | bytes, error: type[FltsError], sentence: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(error, match=sentence):
        lab.side(path)


@pytest.mark.unit
@pytest.mark.parametrize("text", ["absent", "0123456789abcdef", "../base", "runs/..", "no/such/file.yaml"])
def test_what_is_not_there_is_refused(lab: Lab, text: str) -> None:
    with pytest.raises(ConfigError, match=r"is no run of .* no dataset of .* and no file"):
        lab.side(text)


@pytest.mark.unit
def test_a_folder_without_anything_is_refused(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no record\.json"):
        lab.side(tmp_path)
