"""The deployment guide names only what there is: objects, ports, keys, folders, commands, options, sizes.

The migration guide is held to the same where it speaks of the cluster.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.main import get_command

from flts_ray.cli import app
from flts_ray.config_layers import setting_fields
from kuberay.lint.model import walk
from kuberay.lint.reading import read
from kuberay.lint.render import find_kubectl, render
from kuberay.lint.rules import RULES
from tests.manifests.pages import ROOT, Page, code_in, programs
from tests.manifests.renderings import COMPONENTS, OVERLAYS, text_of
from tests.manifests.schemas import KUBERNETES, faults, why_no_crds
from tests.manifests.sizing import Object, objects_of, page

pytestmark = pytest.mark.manifests

PAGE = Page(ROOT / "docs" / "deploy.md")
OVERLAYS_PAGE = Page(ROOT / "docs" / "overlays.md")
PAGES = (PAGE, Page(ROOT / "docs" / "migration.md"), OVERLAYS_PAGE)
OURS = ("flts", "kubectl", "make", "python", "kustomize")
"""Programs whose calls in the running text are looked at too."""
OTHERS = {"aws", "base64", "cd", "curl", "docker", "git", "helm", "jq", "kind", "psql"}

LINES = [line for at in PAGES for line in (*at.commands, *(span for span in at.spans if span.split()[0] in OURS))]
CALLS = [words for line in LINES for words in programs(line) if len(words) > 1]


def calls_of(program: str) -> list[Any]:
    """Every call of a program on the pages, each with a readable name."""
    found = {" ".join(words[1:]): words[1:] for words in CALLS if words[0] == program}
    return [pytest.param(words, id=name[:60]) for name, words in found.items()]


@functools.cache
def objects() -> Mapping[str, Object]:
    """Everything in the overlays, and the RayCronJob, as ``kind/name`` in lower case."""
    found = [one for name in (*OVERLAYS, "prod+raycronjob") for one in objects_of(name)]
    return {f"{one['kind']}/{one['metadata']['name']}".lower(): one for one in found}


@functools.cache
def secrets() -> Mapping[str, set[str]]:
    """Secrets that the plan makes, and their keys."""
    plan = yaml.safe_load((ROOT / "kuberay" / "base" / "secrets" / "plan.yaml").read_text(encoding="utf-8"))
    return {name: set(keys) for name, keys in plan.items()}


@functools.cache
def heads() -> Mapping[str, Object]:
    """Services that KubeRay makes, and the pod template of the head behind them, which says their ports."""
    found: dict[str, Object] = {}
    for key, one in objects().items():
        kind, _, name = key.partition("/")
        if kind == "raycluster":
            found[f"service/{name}-head-svc"] = one["spec"]["headGroupSpec"]["template"]
        elif kind == "rayservice":
            for end in ("head", "serve"):
                found[f"service/{name}-{end}-svc"] = one["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]
    return found


def known() -> set[str]:
    """``kind/name`` of everything in a cluster that can be named."""
    return {*objects(), *heads(), *(f"secret/{name}" for name in secrets())}


@functools.cache
def commands() -> Mapping[str, Any]:
    """The commands of ``flts``, those of plugins included, by name."""
    extended = typer.Typer()
    extended.add_typer(app)
    for plugin in entry_points(group="flts_ray.commands"):
        extended.add_typer(plugin.load())
    root: Any = get_command(extended)
    return {**root.commands, **root.commands["flts"].commands}


def command_of(words: list[str]) -> Any:
    """The command that some words call."""
    inner = commands()
    for word in words:
        assert word in inner, f"flts has no command {word}"
        if not hasattr(inner[word], "commands"):
            return inner[word]
        inner = inner[word].commands
    raise AssertionError(f"`flts {' '.join(words)}` names no command")


@functools.cache
def help_of_kubectl(verb: str) -> str:
    """What ``kubectl VERB --help`` says, general options included."""
    kubectl = str(find_kubectl())
    environment = {"HOME": "/nonexistent", "PATH": os.defpath}
    asked = ([kubectl, *verb.split(), "--help"], [kubectl, "options"])
    return "".join(subprocess.run(a, capture_output=True, text=True, check=True, env=environment).stdout for a in asked)


def options(words: list[str]) -> list[str]:
    """Options among the words of a call, without their values; those of the program that it calls are left out."""
    own = words[: words.index("--")] if "--" in words else words
    return [re.split("=", word)[0] for word in own if word.startswith("-") and word != "-"]


def named_objects(words: list[str]) -> list[str]:
    """Objects that a call of kubectl names, as ``kind/name``."""
    kinds = {key.partition("/")[0] for key in known()}
    found = [match[1] for word in words if (match := re.match(r"(?:--from=)?(\w+/[a-z0-9-]+)$", word))]
    for position, word in enumerate(words):
        if word in kinds and words[0] != "create":
            for name in words[position + 1 :]:
                if name.startswith("-"):
                    break
                found.append(f"{word}/{name}")
    return found


def test_every_program_is_one_that_somebody_looks_at() -> None:
    assert {words[0] for words in CALLS} <= {*OURS, *OTHERS}


@pytest.mark.parametrize("words", calls_of("flts"))
def test_our_commands_exist_with_their_options(words: list[str]) -> None:
    command = command_of(words)
    has = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert [name for name in options(words) if name not in has] == []


@pytest.mark.parametrize("words", calls_of("kubectl"))
def test_kubectl_has_these_verbs_and_options(words: list[str]) -> None:
    verb = " ".join(words[:2]) if words[0] in ("config", "rollout", "create") else words[0]
    said = help_of_kubectl(verb)
    known_options = set(re.findall(r"^ +(?:(-\w), )?(--[\w-]+)=", said, re.MULTILINE))
    flat = {name for pair in known_options for name in pair if name}
    assert [name for name in options(words) if name not in flat] == []


@pytest.mark.parametrize("words", calls_of("kubectl"))
def test_kubectl_is_pointed_at_what_there_is(words: list[str]) -> None:
    assert [name for name in named_objects(words) if name not in known()] == []


def test_keys_of_secrets_are_those_of_the_plan() -> None:
    found = [(m[1], m[2]) for line in LINES for m in re.finditer(r"get secret (\S+) .*?\.data\.(\w+)", line)]
    assert len(found) > 3
    assert [(name, key) for name, key in found if key not in secrets()[name]] == []


def test_ports_are_those_of_the_services() -> None:
    found = [m.groups() for line in LINES for m in re.finditer(r"port-forward (service/\S+) \d+:(\d+)", line)]
    assert len(found) > 2
    for name, port in found:
        ports = (
            [entry["containerPort"] for entry in heads()[name]["spec"]["containers"][0]["ports"]]
            if name in heads()
            else [entry["port"] for entry in objects()[name]["spec"]["ports"]]
        )
        assert int(port) in ports, name


def test_patches_reach_what_there_is() -> None:
    patched = [words for words in CALLS if words[:2] == ["kubectl", "patch"]]
    assert patched
    for words in patched:
        here: Any = objects()[f"{words[2]}/{words[3]}"]
        node = json.loads(words[words.index("--patch") + 1])
        while isinstance(node, dict) and isinstance(next(iter(node.values())), dict):
            key, node = next(iter(node.items()))
            assert key in here or key in ("annotations", "suspend"), f"{words[3]} has no {key}"
            here = here.get(key, {})


def test_status_fields_that_are_waited_for_exist() -> None:
    fields = [m[1] for line in LINES for m in re.finditer(r"rayjob[/ ]flts-pipeline .*?\.status\.(\w+)", line)]
    assert len(fields) > 1
    if missing := why_no_crds():
        pytest.skip(missing)
    job = {**objects()["rayjob/flts-pipeline"], "status": dict.fromkeys(fields, "SUCCEEDED")}
    assert [fault for fault in faults(job) if "status" in fault] == []


def test_modules_and_targets_exist() -> None:
    modules = [words[2] for words in CALLS if words[:2] == ["python", "-m"]]
    assert "kuberay.lint" in modules
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert [w[1] for w in CALLS if w[0] == "make" and not re.search(rf"^{w[1]}:", makefile, re.MULTILINE)] == []


def test_the_image_is_built_as_its_file_says() -> None:
    (build,) = (words for words in CALLS if words[:2] == ["docker", "build"])
    dockerfile = ROOT / build[build.index("--file") + 1]
    arguments = [build[i + 1].partition("=")[0] for i, word in enumerate(build) if word == "--build-arg"]
    declared = re.findall(r"^ARG (\w+)", dockerfile.read_text(encoding="utf-8"), re.MULTILINE)
    assert arguments
    assert [name for name in arguments if name not in declared] == []


@pytest.mark.parametrize("at", PAGES[:2], ids=lambda at: at.path.stem)
def test_objects_in_the_text_exist(at: Page) -> None:
    kinds = "RayJob|RayCluster|RayService|RayCronJob|CronJob|Job|Service|StatefulSet|Deployment|Secret|ConfigMap"
    found = re.findall(rf"\b({kinds}) `([a-z0-9-]+)`", at.prose)
    assert len(found) > 5
    assert [f"{kind}/{name}" for kind, name in found if f"{kind}/{name}".lower() not in known()] == []


@pytest.mark.parametrize("at", PAGES, ids=lambda at: at.path.stem)
def test_files_and_folders_in_the_text_exist(at: Page) -> None:
    found = [span for span in at.spans if re.fullmatch(r"(kuberay|overlays|components|docs|serve)/[\w./-]+", span)]
    assert found
    assert [name for name in found if not ((ROOT / name).exists() or (ROOT / "kuberay" / name).exists())] == []


def test_settings_in_the_text_exist() -> None:
    found = [span for span in PAGE.spans if re.fullmatch(r"[a-z]+\.[a-z_]+", span)]
    assert [name for name in found if name not in setting_fields()] == []


def test_labels_in_the_text_are_those_of_the_manifests() -> None:
    found = [span for span in PAGE.spans if re.fullmatch(r"[\w.-]+/[\w-]+: \S+", span)]
    assert len(found) > 1
    assert [label for label in found if label not in text_of("prod")] == []


def test_every_overlay_component_and_secret_is_told_of() -> None:
    columns = [
        [(name, code_in(cell)[:1]) for row in table.rows for name, cell in [*row.items()][:1]]
        for table in PAGE.tables()
    ]
    told = {rows[0][0]: {code for _, codes in rows for code in codes} for rows in columns}
    assert told["folder"] == {f"overlays/{name}" for name in OVERLAYS}
    assert told["component"] == set(COMPONENTS)
    assert told["Secret"] == set(secrets())


def test_sizes_are_what_the_manifests_ask_for() -> None:
    assert page() in PAGE.text, "write the output of `python -m tests.manifests.sizing` into docs/deploy.md"


def test_the_oldest_kubernetes_is_the_one_that_is_validated_against() -> None:
    assert f"Kubernetes {KUBERNETES[0].rpartition('.')[0]} or newer" in PAGE.text


@pytest.mark.parametrize("number", range(len(OVERLAYS_PAGE.blocks("yaml"))))
def test_an_overlay_of_ones_own_renders_and_is_clean(number: int, tmp_path: Path) -> None:
    block = OVERLAYS_PAGE.blocks("yaml")[number]
    tree = os.path.relpath(ROOT / "kuberay", tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(block.replace("flts-ray/kuberay", tree), encoding="utf-8")
    rendered = render(tmp_path)
    rendering = read(rendered)
    assert [str(found) for rule in RULES for found in rule.findings(rendering)] == []
    for image in yaml.safe_load(block).get("images", ()):
        assert f"image: {image['newName']}:{image['newTag']}" in rendered
        assert image["name"] not in rendered
    if missing := why_no_crds():
        pytest.skip(missing)
    assert [fault for resource in rendering.resources for fault in faults(resource.tree)] == []


def test_no_part_of_minio_is_left_where_a_bucket_of_the_cloud_takes_its_place(tmp_path: Path) -> None:
    (block,) = (block for block in OVERLAYS_PAGE.blocks("yaml") if "behavior: merge" in block)
    tree = os.path.relpath(ROOT / "kuberay", tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(block.replace("flts-ray/kuberay", tree), encoding="utf-8")
    rendering = read(render(tmp_path))
    assert [
        str(found) for found in rendering.resources if found.name in ("minio", "minio-setup", "setup-to-store")
    ] == []
    assert not [path for found in rendering.resources for path, value in walk(found.tree) if "minio:9000" in str(value)]


@pytest.mark.parametrize("at", (PAGE, OVERLAYS_PAGE), ids=lambda at: at.path.stem)
def test_links_lead_somewhere(at: Page) -> None:
    assert at.broken_links() == []
