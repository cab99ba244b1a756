"""The migration guide says of every old name what the program makes of it."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from typer.main import get_command

from flts_ray.cli import app
from flts_ray.config import Settings
from flts_ray.config_layers import environment_settings, load_settings, setting_fields
from flts_ray.data.plan import make_plan
from flts_ray.env_names import FLTS_NAMES, LEGACY_NAMES, SWITCHES
from flts_ray.errors import ConfigError, DataError
from flts_ray.evaluation.leaderboard import Row
from flts_ray.models.bundle import MANIFEST_FILE, WEIGHTS_FILE
from flts_ray.tracking.candidate_runs import EPOCH_METRICS
from flts_ray.tracking.client import BUNDLE
from flts_ray.tracking.registry import CHAMPION, PREVIOUS
from tests.manifests.pages import ROOT, Page, code_in, programs

pytestmark = pytest.mark.manifests

PAGE = Page(ROOT / "docs" / "migration.md")
CREDENTIALS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
SWITCHED_ON = {"CLIP_ENABLE": "1", "LAGS_ENABLE": "1", "LAGS_N": "3"}
SAMPLES = ("7", "percentile", "gru", "yes", "multiplicative", "standardscaler")
"""Texts of which every old variable understands one, other than those above."""

# What the old deployment has, listed by hand and not taken from the page: a name that the page forgets is missed here.
COMPOSE = """
    kafka minio minio-init fastapi-app preprocess train train_gru train_lstm nonml_prophet eval inference inference-lb
    postgres mlflow eda prometheus grafana locust locust-worker metrics
    druid zookeeper coordinator broker historical middlemanager router superset
"""
KUBERNETES = """
    train-gru train-lstm nonml-prophet mlflow-postgres locust-master
    inference-hpa inference-guardrail-hpa inference-slo-hpa inference-keda-scaledobject inference-keda-scaler
"""
"""Names in Helm's chart and the raw manifests that Compose spells otherwise or does not have."""
BUCKETS = "dataset processed-data mlflow model-promotion inference-logs inference-txt-logs"
TOPICS = """
    training-data inference-data model-training model-selected performance-eval
    DLQ-preprocess DLQ-model-training DLQ-model-selected DLQ-performance-eval
"""
PORTS = """
    5000 5005 5432 8000 8010 8020 8021 8023 8050 8089 9000 9001 9091 9092 9100 30089 30889
"""
ENDPOINTS = """
    /predict /healthz /ready /predict_ping /metrics /prometheus /queue_stats /scale_workers /reload_latest
    /publish_inference_claims /upload /download
"""
OLD_METRICS = """
    inference_queue_len inference_active_workers inference_workers_total inference_workers_busy inference_workers_idle
    inference_worker_utilization inference_queue_wait_latest_seconds inference_latency_latest_seconds
    inference_queue_oldest_wait_seconds inference_jobs_processed_total inference_jobs_outcome_total
    inference_queue_wait_seconds inference_latency_seconds inference_model_ready
"""
IN_MLFLOW = """
    Default NonML KFP-Pipeline GRU LSTM PROPHET train_loss test_loss train_mse test_mse train_rmse test_rmse train_mae
    test_mae score config_hash <TYPE>/weights.pt scaler/scaler_<epoch>.pkl preprocess/preprocess_config.json
    plots/loss_curve.png runs:/<id>/<TYPE> promoted=true current.json global/current.json <identifier>/current.json
    <identifier>/<config_hash>/promotion-<ts>.json
"""
OLD_FILES = ("PobleSec.csv", "PobleSec_test.csv", "ElBorn.csv", "ElBorn_test.csv", "full_dataset.csv", "README.md")
"""What the old gateway put into its bucket."""


class Variable(NamedTuple):
    """One old variable of one old service."""

    service: str
    name: str
    read: bool
    now: str


def variables() -> Iterator[Variable]:
    for table in PAGE.tables():
        for row in table.rows if "read" in table.rows[0] else ():
            for name in code_in(row["old name"]):
                yield Variable(table.heading, name, row["read"] == "yes", row["now"])


VARIABLES = list(variables())
READ = [one for one in VARIABLES if one.read]


def keys_set_by(name: str) -> set[str]:
    """Settings that the program changes when it finds an old variable."""
    others = {other: text for other, text in SWITCHED_ON.items() if other != name}
    before = environment_settings(others)
    for text in SAMPLES:
        try:
            after = environment_settings({**others, name: text})
        except ConfigError:
            continue
        if changed := {key for key, found in after.items() if found != before.get(key)}:
            return changed
    return set()


def names_of(one: Variable) -> str:
    return f"{one.service}: {one.name}"


@pytest.mark.parametrize("one", [one for one in READ if one.name not in CREDENTIALS], ids=names_of)
def test_a_name_that_is_read_sets_what_the_page_says(one: Variable) -> None:
    assert keys_set_by(one.name) == set(code_in(one.now))


def test_every_old_name_that_is_read_is_on_the_page() -> None:
    assert {one.name for one in READ} == {*LEGACY_NAMES, *SWITCHES, *CREDENTIALS}


def test_a_name_that_is_not_read_is_not_one_of_ours() -> None:
    ours = {one.name: LEGACY_NAMES[one.name][0] for one in VARIABLES if not one.read and one.name in LEGACY_NAMES}
    assert ours == {"BATCH_SIZE": "training.batch_size"}, "the same name means another thing in inference only"


def test_no_name_stands_twice_in_one_service() -> None:
    places = [(one.service, one.name) for one in VARIABLES]
    assert len(places) == len(set(places)) > 150


def test_every_name_says_what_became_of_it() -> None:
    silent = [names_of(one) for one in VARIABLES if one.now != "gone" and not code_in(one.now)]
    assert silent == []


def test_every_new_name_exists() -> None:
    known: set[str] = {*setting_fields(), *FLTS_NAMES}
    assert [
        name
        for name in PAGE.spans
        if re.fullmatch(r"[a-z_]+\.(?!(?:json|yaml|csv|png|html)$)[a-z_]+", name) and name not in known
    ] == []
    settings = {f"FLTS_{key.upper().replace('.', '__')}" for key in setting_fields()}
    unknown = {name for name in PAGE.spans if name.startswith("FLTS_")} - known - settings
    assert unknown == {"FLTS_<SECTION>__<KEY>", "FLTS_"}, "patterns, which are not names"


def test_metrics_are_those_of_the_service() -> None:
    source = (ROOT / "serve" / "instruments.py").read_text(encoding="utf-8")
    now = {name for row in PAGE.table("Metrics of the service").rows for name in code_in(row["now"])}
    ours = {name.removeprefix("ray_").removesuffix("_total") for name in now if name.startswith("ray_flts_")}
    assert len(ours) >= 4
    assert [name for name in ours if f'"{name}"' not in source] == []


def test_links_lead_somewhere() -> None:
    assert PAGE.broken_links() == []


def old_names(heading: str) -> set[str]:
    """What stands in backticks in the first column of the table below a heading."""
    return {name for row in PAGE.table(heading).rows for name in code_in(next(iter(row.values())))}


@pytest.mark.parametrize("name", f"{COMPOSE} {KUBERNETES}".split())
def test_every_old_service_is_on_the_page(name: str) -> None:
    assert name in old_names("Services")


def test_every_old_bucket_topic_and_metric_is_on_the_page_and_no_other() -> None:
    assert old_names("Buckets") == set(BUCKETS.split())
    assert old_names("Topics") == set(TOPICS.split())
    assert old_names("Metrics of the service") == set(OLD_METRICS.split())


@pytest.mark.parametrize("name", f"{PORTS} {ENDPOINTS}".split())
def test_every_old_address_is_on_the_page(name: str) -> None:
    old = " ".join(row["old"] for row in PAGE.table("Addresses").rows)
    assert re.search(rf"(?<!\w){name}\b" if name.isdigit() else rf"{name}(?!\w)", old)


@pytest.mark.parametrize("name", IN_MLFLOW.split())
def test_every_old_name_in_mlflow_is_on_the_page(name: str) -> None:
    assert name in old_names("MLflow")


def test_new_names_in_mlflow_are_those_of_the_runs() -> None:
    now = {name for row in PAGE.table("MLflow").rows for name in code_in(row["now"])}
    scores = {f"test_{name}" for name, field in Row.model_fields.items() if field.annotation == float | None}
    metrics = {name for name in now if name.startswith(("train_", "val_", "test_"))}
    assert len(metrics) > 8
    assert metrics - scores - set(EPOCH_METRICS) == set()
    assert {name for name in now if name.startswith("bundle/")} == {
        f"{BUNDLE}/{MANIFEST_FILE}",
        f"{BUNDLE}/{WEIGHTS_FILE}",
    }
    assert {CHAMPION, PREVIOUS} <= set(PAGE.spans)
    told = "".join((ROOT / "flts_ray" / name).read_text("utf-8") for name in ("run_tracking.py", "pipeline.py"))
    files = {name for name in PAGE.spans if re.fullmatch(r"\w+\.(png|html)|(leaderboard|verdict)\.json", name)}
    assert len(files) >= 4
    assert [name for name in files if f'"{name}"' not in told] == []


def test_routes_of_the_service_exist() -> None:
    source = "".join((ROOT / "serve" / name).read_text("utf-8") for name in ("api.py", "pages.py"))
    routes = {found for name in PAGE.spans if (found := name[name.find("/v1/") :]) and "/v1/" in name}
    assert "/v1/leaderboard" in routes
    assert [route for route in routes if f'"{route}"' not in source] == []


@functools.cache
def program() -> Any:
    """``flts`` with its plugins, as its entry point makes it."""
    extended = typer.Typer()
    extended.add_typer(app)
    for plugin in entry_points(group="flts_ray.commands"):
        extended.add_typer(plugin.load())
    root: Any = get_command(extended)
    root.commands |= root.commands["flts"].commands
    return root


def parsed(words: Sequence[str]) -> dict[str, Any]:
    """The parameters that a call of ``flts`` gives its command; words in capitals are values like others.

    Raises:
        Exception: As the command line does: no such command or option, an argument too many, one too few.
    """
    command, name, words = program(), "flts", list(words)
    while hasattr(command, "commands"):
        name, *words = words
        assert name in command.commands, f"flts has no command {name}"
        command = command.commands[name]
    found: dict[str, Any] = command.make_context(name, words, resilient_parsing=False).params
    if name == "forecast":  # it asks for both itself
        assert found["sources"], "flts forecast needs --input"
        assert found["output"], "flts forecast needs --output"
    return found


CALLS = {
    " ".join(words): words[1:]
    for line in (*PAGE.commands, *(span for span in PAGE.spans if span.startswith("flts ")))
    for words in programs(line)
    if words[0] == "flts"
}


@pytest.mark.parametrize("words", CALLS.values(), ids=list(CALLS))
def test_every_call_of_flts_is_one_that_it_takes(words: list[str]) -> None:
    parsed(words)


def test_a_call_that_flts_does_not_take_is_noticed() -> None:
    assert len(CALLS) > 8
    for call, reason in {
        "leaderboard RUN": "unexpected extra argument",
        "evaluate": "Missing",
        "claim": "Missing",
        "reconcile A": "Missing",
        "champion --latest": "No such option",
        "forecast --input FILES": "needs --output",
        "leaderboards": "no command",
    }.items():
        with pytest.raises(Exception, match=reason):
            parsed(call.split())


SYNCS = [words[words.index("sync") + 1 :] for line in PAGE.commands for words in programs(line) if words[0] == "aws"]
"""From where, to where, and what not."""


def copied(target: str) -> list[str]:
    """Which old files the page's command copies to a folder: of the filters that match a name the last one counts."""
    (words,) = (words for words in SYNCS if words[0] == "s3://dataset" and words[1] == target)
    rules = [(word, words[i + 1]) for i, word in enumerate(words) if word in ("--include", "--exclude")]
    said = {name: [rule for rule, pattern in rules if fnmatchcase(name, pattern)] for name in OLD_FILES}
    return [name for name in OLD_FILES if [*reversed(said[name]), "--include"][0] == "--include"]


def settings_with(folder: Path, files: dict[str, list[str]]) -> Settings:
    """Settings of sources that have these names, by split."""
    for split, names in files.items():
        (folder / split).mkdir()
        for name in names:
            (folder / split / name).write_text(name, encoding="utf-8")
    return load_settings(environ={f"FLTS_DATA__{split.upper()}": str(folder / split) for split in files}).settings


def test_the_files_that_are_copied_are_taken(tmp_path: Path) -> None:
    files = {split: copied(f"reports/{split}") for split in ("train", "test")}
    plan = make_plan(settings_with(tmp_path, files))
    assert [(one.series, len(one.train), len(one.test)) for one in plan.items] == [("ElBorn", 1, 1), ("PobleSec", 1, 1)]
    uploads = [words for words in SYNCS if words[0] != "s3://dataset"]
    assert uploads == [[f"reports/{split}", f"s3://flts/in/{split}"] for split in files]


def test_the_file_that_is_left_out_would_be_refused(tmp_path: Path) -> None:
    files = {"train": ["PobleSec.csv", "full_dataset.csv"], "test": ["PobleSec_test.csv"]}
    with pytest.raises(DataError, match="station 'full_dataset' has no test rows"):
        make_plan(settings_with(tmp_path, files))


def test_a_file_of_all_stations_can_be_read_by_column(tmp_path: Path) -> None:
    (block,) = PAGE.blocks("yaml")
    (tmp_path / "flts.yaml").write_text(block, encoding="utf-8")
    environ = {"FLTS_DATA__TRAIN": "s3://flts/in/train", "FLTS_DATA__TEST": ""}
    data = load_settings(file=tmp_path / "flts.yaml", environ=environ).settings.data
    assert (data.series_by, data.series_column, data.test) == ("column", "District", ())
    assert data.test_fraction == 1 / 5
    assert "\nFLTS_DATA__TEST=" in (ROOT / "kuberay" / "base" / "ray" / "flts.env").read_text(encoding="utf-8")


def test_old_values_mean_what_the_page_says() -> None:
    (told,) = re.findall(r"### Values that mean something else now\n(.*?)\n#", PAGE.text, re.DOTALL)
    assert {"SCALER=", "SCALER=none", "NANS_THRESHOLD", "FORCE_REPROCESS=1", "SAMPLE_TRAIN_ROWS"} <= set(code_in(told))
    default = load_settings(environ={}).settings
    scalers = [load_settings(environ={"SCALER": text}).settings.scaling.scaler for text in ("", "none")]
    assert scalers == [default.scaling.scaler, "none"] == ["log", "none"]
    assert load_settings(environ={}, assignments=["recipe=classic"]).settings.scaling.scaler == "minmax"
    threshold = load_settings(environ={"NANS_THRESHOLD": "0.33", "NANS_DROP_ROWS": "false"}).settings
    assert (threshold.data.max_missing_fraction, default.data.max_missing_fraction) == (0.33, 0.5)
    assert load_settings(environ={"FORCE_REPROCESS": "1"}).settings.run.force
    assert f"`serve.max_horizon` steps, {default.serve.max_horizon} unless set" in PAGE.text
    assert f"`{default.tracking.experiment}` unless set" in PAGE.text
