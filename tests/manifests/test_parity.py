"""The laptop and the cluster read one file and resolve it to the same settings, but for where things are."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from flts_ray.config import Settings, canonical_digest
from flts_ray.config_layers import flatten, load_settings, setting_fields
from flts_ray.env_names import SAMPLING_NAMES
from jobs.cli import commands as submitting
from jobs.entry import Job
from kuberay.lint.clusters import jobs
from kuberay.lint.model import Rendering
from kuberay.lint.pods import pods, ray_pods
from kuberay.lint.reading import read
from kuberay.lint.render import render
from tests.manifests.renderings import KUBERAY, combinations, rendering_of
from tests.manifests.resolving import environment_of, given, ours, settings_of, settings_of_job

pytestmark = pytest.mark.manifests

FILE = KUBERAY / "config" / "flts.yaml"
MAKEFILE = KUBERAY.parent / "Makefile"

WHERE = {
    "data.train",
    "data.test",
    "storage.root",
    "storage.endpoint_url",
    "tracking.uri",
    "run.home",
}
"""Where things are: all that a cluster may say otherwise than a laptop."""

SERVED = {"serve.profile", "serve.host", "serve.replicas", "serve.max_replicas", "serve.drain_s"}
"""How the service is spread over machines and leaves them: what a RayService may say besides."""


def difference(one: Settings, other: Settings, *, but: set[str]) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ, and both values."""
    left, right = flatten(one), flatten(other)
    return {key: (left[key], right[key]) for key in left if key not in but and left[key] != right[key]}


def recipe_of(settings: Settings) -> str:
    """Digest of all that makes a run what it is, wherever it runs."""
    return canonical_digest({key: value for key, value in flatten(settings).items() if key not in WHERE | SERVED})


def arguments_of_make_run() -> list[str]:
    found = re.findall(r"^\t\$\(BIN\)/flts run (.*)$", MAKEFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(found) == 1, "`make run` runs the pipeline once"
    return shlex.split(found[0])


@pytest.fixture(scope="module")
def laptop() -> Settings:
    """What ``make run`` resolves to."""
    said = given("run", arguments_of_make_run())
    return load_settings(
        file=MAKEFILE.parent / said["config"],
        assignments=said["assignments"],
        options=said["options"],
        environ={},
    ).settings


@pytest.fixture(params=combinations())
def rendering(request: pytest.FixtureRequest) -> Rendering:
    return rendering_of(request.param)


def test_make_run_reads_the_file_that_the_cluster_mounts() -> None:
    assert MAKEFILE.parent / given("run", arguments_of_make_run())["config"] == FILE


@pytest.mark.parametrize("combination", combinations())
def test_the_cluster_holds_that_very_file_and_no_other(combination: str) -> None:
    held = {
        name: data["flts.yaml"] for name, data in rendering_of(combination).config_maps.items() if "flts.yaml" in data
    }
    assert len(held) == 1, f"one ConfigMap holds the settings, not {sorted(held)}"
    assert next(iter(held.values())).encode() == FILE.read_bytes()


def test_the_file_says_nothing_of_where_things_are() -> None:
    """Else the laptop's places would be the cluster's, or the other way round."""
    alone = load_settings(file=FILE, environ={})
    assert {key for key in WHERE if alone.origins[key] != "default"} == set()


def test_where_names_settings_that_exist() -> None:
    assert set(setting_fields()) >= WHERE | SERVED


def test_every_ray_container_resolves_to_the_laptop_s_settings(
    rendering: Rendering, laptop: Settings, tmp_path: Path
) -> None:
    found = [container for container in ours(rendering) if container.is_ray]
    assert len(found) >= 10, "heads and workers of a cluster, three jobs and a service"
    for container in found:
        settings = settings_of(container, rendering, tmp_path)
        where = f"{container.pod.owner} {container.path}"
        allowed = WHERE | SERVED if container.pod.owner.kind == "RayService" else WHERE
        assert difference(settings, laptop, but=allowed) == {}, where
        assert settings.config_hash() == laptop.config_hash(), where
        assert recipe_of(settings) == recipe_of(laptop), where


def test_a_setting_that_only_the_cluster_has_would_be_found(laptop: Settings, tmp_path: Path) -> None:
    rendering = rendering_of("dev")
    head = next(pod.main for pod in ray_pods(rendering) if pod.role == "head")
    assert head is not None
    settings = settings_of(
        head, rendering, tmp_path, more_environment={"FLTS_TRAINING__EPOCHS": "3", "SAMPLE_TRAIN_ROWS": "9"}
    )
    assert difference(settings, laptop, but=WHERE).keys() == {"training.epochs", "sampling.train_rows"}
    assert recipe_of(settings) != recipe_of(laptop)
    assert settings.config_hash() != laptop.config_hash()


def test_every_job_resolves_to_the_laptop_s_settings(rendering: Rendering, laptop: Settings, tmp_path: Path) -> None:
    found = list(jobs(rendering))
    assert {job.owner.name for job in found} >= {"flts-pipeline", "flts-train", "flts-tune"}
    heads = {pod.owner.name: pod for pod in ray_pods(rendering) if pod.role == "head"}
    for job in found:
        head = heads[job.owner.name]
        settings = settings_of_job(head, job.get("entrypoint"), job.get("runtimeEnvYAML", ""), rendering, tmp_path)
        assert difference(settings, laptop, but=WHERE) == {}, str(job.owner)
        assert settings.config_hash() == laptop.config_hash(), str(job.owner)


@pytest.mark.parametrize("combination", [name for name in combinations() if "raycronjob" not in name])
def test_the_nightly_run_resolves_to_the_laptop_s_settings(combination: str, laptop: Settings, tmp_path: Path) -> None:
    """The CronJob sends its file along; the rest is the environment of the cluster that it asks."""
    rendering = rendering_of(combination)
    (nightly,) = (pod for pod in pods(rendering) if pod.role == "cronjob" and pod.owner.name == "flts-nightly")
    (head,) = (pod for pod in ray_pods(rendering) if pod.role == "head" and pod.owner.kind == "RayCluster")
    assert nightly.main is not None
    assert head.main is not None
    words = nightly.main.command
    sent = get_command(submitting).make_context("submit", words[words.index("submit") + 1 :]).params
    assert sent["job"] == Job.PIPELINE
    settings = settings_of(
        head.main,
        rendering,
        tmp_path,
        config=str(sent["config"] or environment_of(nightly.main, rendering)["FLTS_CONFIG"]),
        file_from=nightly.main,
        assignments=sent["assignments"] or (),
    )
    assert difference(settings, laptop, but=WHERE) == {}


def test_the_service_differs_only_in_how_its_replicas_come_and_go(
    rendering: Rendering, laptop: Settings, tmp_path: Path
) -> None:
    (service,) = rendering.of("RayService")
    (application,) = yaml.safe_load(service.get("spec.serveConfigV2"))["applications"]
    given_args = application.get("args", {})
    built_on = [pod.main for pod in ray_pods(rendering) if pod.owner is service]
    assert len(built_on) >= 2
    for container in built_on:  # Serve builds the application on any node
        assert container is not None
        settings = settings_of(
            container, rendering, tmp_path, config=given_args["config"], options=given_args.get("set", {})
        )
        assert difference(settings, laptop, but=WHERE | SERVED) == {}
    assert (given_args.get("identifier") or laptop.identifier) == laptop.identifier != ""


def test_all_that_run_look_in_one_place(rendering: Rendering, tmp_path: Path) -> None:
    """What one writes the others find: but for its own folder, every container that is told places is told the same."""
    told = [container for container in ours(rendering) if "FLTS_STORAGE__ROOT" in environment_of(container, rendering)]
    places = [flatten(settings_of(container, rendering, tmp_path)) for container in told]
    assert len(places) >= 10
    for key in WHERE:
        assert len({str(place[key]) for place in places}) == 1, key


def test_sample_data_lies_where_the_jobs_look(tmp_path: Path) -> None:
    rendering = rendering_of("dev")
    (writer,) = (pod.main for pod in pods(rendering) if pod.owner.name == "flts-sample-data")
    (reader,) = (pod.main for pod in ray_pods(rendering) if pod.owner.name == "flts-pipeline" and pod.role == "head")
    assert writer is not None
    assert reader is not None
    written = writer.command[writer.command.index("--out") + 1]
    sources = settings_of(reader, rendering, tmp_path).data
    assert (sources.train, sources.test) == ((f"{written}/train",), (f"{written}/test",))


@pytest.mark.parametrize("combination", combinations())
def test_no_sampling_reaches_a_container_of_ours(combination: str) -> None:
    """Sampling has one owner, the preprocess step, which reads the file."""
    rendering = rendering_of(combination)
    sampled = {
        (str(container.pod.owner), name)
        for container in ours(rendering)
        for name in environment_of(container, rendering)
        if name in SAMPLING_NAMES or name.startswith(("SAMPLE_", "FLTS_SAMPLING__"))
    }
    in_jobs = {
        str(job.owner) for job in jobs(rendering) if "SAMPL" in f"{job.get('runtimeEnvYAML')} {job.get('entrypoint')}"
    }
    assert (sampled, in_jobs) == (set(), set())


def test_a_change_of_the_file_starts_new_pods(tmp_path: Path) -> None:
    """KubeRay looks at no ConfigMap's content: only another name, in every template, rolls a change out."""
    copy = shutil.copytree(KUBERAY, tmp_path / "kuberay")
    with (copy / "config" / "flts.yaml").open("a", encoding="utf-8") as file:
        file.write("# a change\n")
    before, after = rendering_of("prod"), read(render(copy / "overlays" / "prod"))
    users = [
        (was, now)
        for was, now in zip(before.resources, after.resources, strict=True)
        if was.kind in ("RayCluster", "RayJob", "RayService", "CronJob")
    ]
    assert len(users) >= 5
    for was, now in users:
        assert (was.kind, was.name) == (now.kind, now.name)
        assert was.tree != now.tree, f"{was} would go on with the old settings"
