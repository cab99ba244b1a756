"""Whatever is compared: nothing is hidden, sides can be swapped, and people and programs can read it."""

from __future__ import annotations

import io
import json
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from flts_ray.config_layers import load_settings, setting_fields
from flts_ray.reconcile import Comparison, Side, compare, print_comparison
from flts_ray.reconcile.inputs import NO_EFFECT
from flts_ray.run_record import SettingRecord
from tests.reconcile import deployments
from tests.reconcile.runs import Lab

pytestmark = pytest.mark.unit

DEFAULTS = {key: SettingRecord(value=value, origin=origin) for key, value, origin in load_settings(environ={}).rows()}


def printed(comparison: Comparison, width: int = 100) -> str:
    out = io.StringIO()
    print_comparison(comparison, Console(file=out, width=width))
    return out.getvalue()


@pytest.fixture(scope="module")
def sides(lab: Lab, base: Side, sampled: Side) -> list[Side]:
    assert sampled.claim
    return [
        base,
        sampled,
        lab.side(sampled.claim.dataset_id),
        lab.file("ours.yaml", "sampling: {train_rows: 50}\ntraining.epochs: 10\n"),
        lab.file("compose.yaml", deployments.COMPOSE),
        lab.file("helm.yaml", deployments.HELM),
        lab.file("manifests.yaml", deployments.MANIFESTS),
        lab.file("ray_job.yaml", deployments.RAY_JOB),
        lab.file("flts.env", deployments.DOTENV),
    ]


def test_every_kind_with_every_other_and_the_other_way_round(sides: list[Side]) -> None:
    assert {side.kind for side in sides} == {"run", "claim", "configuration", "deployment"}
    for a, b in product(sides, sides):
        one, other = compare(a, b), compare(b, a)
        assert {(d.area, d.key, d.where, str(d.a), str(d.b)) for d in one.differences} == {
            (d.area, d.key, d.where, str(d.b), str(d.a)) for d in other.differences
        }
        assert [cause.rule for cause in one.causes] == [cause.rule for cause in other.causes]
        assert one.equal == other.equal
        assert (one.exit_code == 0) == (not one.differences)
        if a is b:
            assert one.differences == ()
        document = json.dumps(one.document(), allow_nan=False)
        assert "planted-secret" not in document + printed(one)


@given(
    key=st.sampled_from(sorted(setting_fields())),
    values=st.lists(st.text(min_size=1), min_size=2, max_size=2, unique=True),
)
def test_any_changed_setting_is_reported_by_its_key(key: str, values: list[str]) -> None:
    def side(value: Any) -> Side:
        settings = {**DEFAULTS, key: SettingRecord(value=value, origin="file x")}
        return Side(kind="configuration", name="x", settings=settings)

    comparison = compare(side(values[0]), side(values[1]))
    found = [one for one in (*comparison.differences, *comparison.ignored) if one.key == key]
    assert [(one.a, one.b) for one in found] == [tuple(values)]
    assert comparison.unexplained == ()
    if not key.startswith((*NO_EFFECT, "data.train", "data.test")):
        assert [len(cause.differences) for cause in comparison.causes] == [1]
        assert comparison.exit_code == 1


def test_where_a_run_ran_and_from_which_build_is_no_difference_that_matters(
    lab: Lab, base: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLTS_BUILD_ID", "flts-ray:7")
    where = {
        "storage.endpoint_url": "http://minio:9000",
        "tracking.uri": "http://mlflow:5000",
        "run.ray_address": "auto",
        "serve.port": 8001,
        "watchdog.stall_timeout_s": 900,
    }
    environ = {"FLTS_BUILD_ID": "flts-ray:7", "FLTS_RUN__HOME": "/var/lib/flts", "RAY_ADDRESS": "head:6379"}
    resolved = lab.resolve(**{key.replace(".", "__"): value for key, value in where.items()})
    cluster = lab.run("cluster", resolved, environ=environ)
    found = compare(base, cluster)
    assert (found.verdict, found.exit_code) == ("No difference that matters.", 0)
    ignored = {one.key for one in found.ignored}
    assert {"storage.endpoint_url", "tracking.uri", "run.ray_address", "build_id", "RAY_ADDRESS"} <= ignored


def test_what_is_printed_is_short_and_in_order(lab: Lab, base: Side, sampled: Side) -> None:
    text = printed(compare(base, sampled))
    lines = text.splitlines()
    assert lines[0].startswith("A  run base")
    assert lines[1].startswith("B  run sampled")
    assert "1 cause, none unexplained" in lines[3]
    for words in ("1. Sampling is set differently: train_rows all → 120", "leads to", "dataset_id", "do: ", "Equal: "):
        assert words in text
    assert len(lines) < 30
    assert "No difference that matters." in printed(compare(base, base))


def test_what_has_no_known_cause_is_shown(lab: Lab) -> None:
    a = lab.file("a.yaml", "services: {preprocess: {environment: {NANS_KNN: 2}}}")
    b = lab.file("b.yaml", "services: {preprocess: {environment: {NANS_KNN: 3}}}")
    comparison = compare(a, b)
    assert [one.name for one in comparison.unexplained] == ["NANS_KNN (preprocess)"]
    assert "Without a known cause" in printed(comparison)
    assert comparison.document()["unexplained"] == ["NANS_KNN (preprocess)"]


def test_the_document_ties_differences_to_causes(base: Side, sampled: Side) -> None:
    document = compare(base, sampled).document()
    names = {one["name"] for one in document["differences"]}
    for cause in document["causes"]:
        assert set(cause["differences"]) | set(cause["consequences"]) <= names
    assert all(one["explained_by"] == ["sampling"] for one in document["differences"])
    assert document["a"] == {
        "kind": "run", "name": "base", "run_id": "base",
        "dataset_id": base.claim.dataset_id if base.claim else "", "code_version": "1.0+aaaa",
    }  # fmt: skip


def test_sides_with_nothing_in_common_say_so(lab: Lab) -> None:
    a = lab.file("a.yaml", "services: {minio: {environment: {X: 1}}}")
    b = lab.file("b.yaml", "services: {kafka: {environment: {Y: 1}}}")
    assert compare(a, b).verdict.startswith("Nothing to compare")
