"""What the harness has in the place of a container image: this machine's system folders and the tests' environment.

Read-only, under the paths they have here; nothing else of this machine is seen in a pod: no home, no ``/tmp``.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from flts_ray.build import code_version

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("flts_ray", "jobs", "serve")
BIN = Path(sys.prefix) / "bin"
STAND_INS = Path(__file__).with_name("stand_ins")
USERS = {"root": 0, "postgres": 999, "ray": 1000}
SYSTEM = (
    *(
        "/usr",
        "/etc/ssl",
        "/etc/alternatives",
        "/etc/fonts",
        "/etc/ld.so.cache",
        "/etc/ld.so.conf",
        "/etc/ld.so.conf.d",
    ),
    *("/etc/mime.types", "/etc/localtime", "/etc/services", "/etc/protocols"),
)


@dataclass(frozen=True)
class Image:
    """A root file system and what its configuration says.

    Attributes:
        env: Variables that the image sets.
        workdir: Where its commands start.
        user: Who they are if the pod does not say.
        entrypoint: What runs if the pod names no command.
        cmd: Its arguments if the pod names none.
        stand_ins: Whether it holds the programs of ``stand_ins/``.
        health: Where HTTP probes ask instead, if what stands in has another path for it.
    """

    env: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: int = 0
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    stand_ins: bool = False
    health: str = ""

    @property
    def links(self) -> dict[str, str]:
        """``/bin`` and the like, which are links into ``/usr``."""
        names = ("bin", "sbin", "lib", "lib64")
        return {name: str(Path("/", name).readlink()) for name in names if Path("/", name).is_symlink()}

    @property
    def binds(self) -> list[str]:
        """What of this machine is seen, under the same path."""
        # The interpreter may be a link out of the environment; a package may lie in the repository.
        here = {Path(sys.prefix), Path(sys.base_prefix).resolve(), *(REPOSITORY / name for name in PACKAGES)}
        whole = [path for path in here if not path.is_relative_to("/usr")]
        folders = [
            str(path)
            for path in sorted(whole)
            if not any(path != other and path.is_relative_to(other) for other in whole)
        ]
        return [path for path in SYSTEM if Path(path).exists()] + folders + ([str(STAND_INS)] if self.stand_ins else [])

    @property
    def folders(self) -> list[tuple[str, int, int]]:
        """Folders of the image's own: name, owner, mode."""
        return [("/home/ray", 1000, 0o755), ("/tmp", 0, 0o1777), ("/run", 0, 0o755), ("/var/tmp", 0, 0o1777)]

    @property
    def files(self) -> dict[str, str]:
        """The users it knows, and that names come from ``/etc/hosts``."""
        users = "".join(f"{name}:x:{number}:{number}::/home/{name}:/bin/bash\n" for name, number in USERS.items())
        groups = "".join(f"{name}:x:{number}:\n" for name, number in USERS.items())
        return {
            "/etc/passwd": users,
            "/etc/group": groups,
            "/etc/nsswitch.conf": "hosts: files\n",
            "/etc/resolv.conf": "",
        }


_PATH = f"{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_WITH_STAND_INS = f"{STAND_INS}:{_PATH}"

STANDING_IN = {
    "quay.io/minio/minio": Image(
        env={"PATH": _WITH_STAND_INS}, entrypoint=("minio",), stand_ins=True, health="/healthz"
    ),
    "quay.io/minio/mc": Image(env={"PATH": _WITH_STAND_INS}, entrypoint=("mc",), stand_ins=True),
    "postgres": Image(
        env={"PATH": _WITH_STAND_INS, "PGDATA": "/var/lib/postgresql/data"},
        entrypoint=("docker-entrypoint.sh",),
        cmd=("postgres",),
        stand_ins=True,
    ),
}
"""Images of others, by name."""


def find_image(name: str) -> Image:
    """What stands for an image, whatever its tag and registry.

    Raises:
        LookupError: If nothing does.
    """
    repository = name.partition("@")[0]
    if ":" in repository.rpartition("/")[2]:
        repository = repository.rpartition(":")[0]
    if repository.rpartition("/")[2] == "flts-ray":
        return _flts_ray()
    if repository not in STANDING_IN:
        raise LookupError(f"the harness has nothing to run in the place of {name}")
    return STANDING_IN[repository]


def _flts_ray() -> Image:
    """Our own image, with the variables of its Dockerfile."""
    commit = code_version().partition("+")[2]
    text = (REPOSITORY / "kuberay/image/Dockerfile").read_text(encoding="utf-8")
    env = image_env(text, {"BUILD_ID": "harness", "GIT_COMMIT": commit})
    return Image(env={**env, "PATH": _PATH}, workdir="/home/ray", user=1000)


def image_env(dockerfile: str, arguments: Mapping[str, str]) -> dict[str, str]:
    """The variables that a Dockerfile's last stage sets."""
    stage = re.split(r"(?m)^FROM ", dockerfile)[-1].replace("\\\n", " ")
    words = [word for line in re.findall(r"(?m)^ENV (.*)$", stage) for word in shlex.split(line)]
    return {
        name: Template(value).safe_substitute(arguments) for name, _, value in (word.partition("=") for word in words)
    }
