"""The rules of the house, read off the source: who imports what, how big modules are, what importing does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "flts_ray"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
RAY_MODULES = {
    "flts_ray.cluster",
    "flts_ray.training.relay",
    "flts_ray.training.trainer",
    "flts_ray.training.worker",
    "flts_ray.training.backtest_tasks",
    "flts_ray.training.prophet_tasks",
    "flts_ray.training.series_tasks",
    "flts_ray.training.refit",
    "flts_ray.training.sweep",
    "flts_ray.training.sweep_desk",
    "flts_ray.training.sweep_worker",
    "flts_ray.data.items",
    "flts_ray.inference.batch_actors",
    "flts_ray.telemetry.figures",
}
SERVICE = {path.stem: path for path in sorted((ROOT / "serve").glob("*.py"))}
SERVICE_RAY_MODULES = {"address", "app", "compute", "draining", "profiles", "replica", "running"}
HEAVY = ("torch", "ray", "mlflow", "prophet", "matplotlib", "pandas", "captum", "optuna", "opentelemetry")
MAX_LINES = 400


def tree_of(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imports_of(name: str, *, top_level: bool = False) -> Iterator[str]:
    """Dotted names that a module imports; without lazy ones and those for type checkers if ``top_level``."""
    tree = tree_of(name)
    nodes = tree.body if top_level else list(ast.walk(tree))
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base


def roots_of(name: str) -> set[str]:
    return {imported.partition(".")[0] for imported in imports_of(name)}


def test_there_are_modules_to_look_at() -> None:
    assert "flts_ray.cli" in MODULES
    assert set(imports_of("flts_ray.cli", top_level=True)) >= {"flts_ray.errors", "typer"}


def test_the_library_knows_nothing_of_jobs_and_serving() -> None:
    assert [name for name in MODULES if roots_of(name) & {"jobs", "serve", "tests", "benchmarks"}] == []


def test_mlflow_is_touched_from_tracking_only() -> None:
    users = {name for name in MODULES if "mlflow" in roots_of(name)}
    assert users, "nobody imports mlflow: this test looks at the wrong thing"
    assert [name for name in users if not name.startswith("flts_ray.tracking.")] == []


def test_ray_is_touched_from_these_modules_only() -> None:
    assert {name for name in MODULES if "ray" in roots_of(name)} == RAY_MODULES


def test_of_the_service_only_what_runs_it_knows_ray() -> None:
    users = {
        name
        for name, path in SERVICE.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "ray")
        or (isinstance(node, ast.Import) and any(alias.name.partition(".")[0] == "ray" for alias in node.names))
    }
    assert users == SERVICE_RAY_MODULES


@pytest.mark.parametrize("name", SERVICE)
def test_a_module_of_the_service_is_small_and_says_what_it_is(name: str) -> None:
    text = SERVICE[name].read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(tree)
    assert list(_undocumented(tree.body, name)) == []
    assert "mlflow" not in {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }


def test_one_module_opens_s3() -> None:
    assert {name for name in MODULES if "s3fs" in roots_of(name)} == {"flts_ray.data.s3"}
    named = {
        name
        for name in MODULES
        for node in ast.walk(tree_of(name))
        if (isinstance(node, ast.Attribute) and node.attr in {"S3FileSystem", "create_client"})
        or (isinstance(node, ast.alias) and node.name in {"S3FileSystem", "boto3", "aiobotocore"})
    }
    assert named == {"flts_ray.data.s3"}


def test_models_and_evaluation_need_no_orchestration() -> None:
    """What forecasts and what scores runs and is tested without a cluster or a tracker."""
    pure = [n for n in MODULES if n.startswith(("flts_ray.models.", "flts_ray.evaluation."))]
    outside = (
        "flts_ray.cluster",
        "flts_ray.pipeline",
        "flts_ray.cli",
        "flts_ray.tracking",
        "flts_ray.training.relay",
        "flts_ray.training.trainer",
        "flts_ray.training.worker",
    )
    assert [(n, i) for n in pure for i in imports_of(n) if i.startswith(outside)] == []


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_pickled(name: str) -> None:
    assert roots_of(name) & {"pickle", "cPickle", "joblib", "cloudpickle", "dill", "shelve"} == set()
    loads = [
        node
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.Attribute)
        and (ast.unparse(node) in ("torch.load", "torch.save") or node.attr == "allow_pickle")
    ]
    assert [ast.unparse(node) for node in loads] == []


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_small(name: str) -> None:
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("name", MODULES)
def test_what_is_public_says_what_it_is(name: str) -> None:
    tree = tree_of(name)
    assert ast.get_docstring(tree), f"{name} has no docstring"
    assert list(_undocumented(tree.body, name)) == []


def _undocumented(body: list[ast.stmt], where: str) -> Iterator[str]:
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield f"{where}.{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(node.body, f"{where}.{node.name}")


@pytest.mark.parametrize("name", MODULES)
def test_no_paths_of_one_machine(name: str) -> None:
    text = MODULES[name].read_text(encoding="utf-8")
    assert "../shared" not in text
    assert "/work/" not in text


def test_no_module_imports_itself_through_others() -> None:
    graph = {
        name: {
            imported
            for imported in imports_of(name, top_level=True)
            if imported in MODULES and imported != name and MODULES[imported].name != "__init__.py"
        }
        for name in MODULES
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path[path.index(name) :], name))
        if name not in done:
            for imported in sorted(graph[name]):
                visit(imported, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())
