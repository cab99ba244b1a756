"""One container: a process that has its own file system, process ids and user, in the network of its pod."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.harness.image import Image

ENTER = Path(__file__).with_name("enter.py")
BEGIN_LIMIT_S = 120.0
CGROUPS = Path("/sys/fs/cgroup/memory")


@dataclass(frozen=True)
class Volume:
    """Something mounted into a container.

    Attributes:
        source: On this machine.
        target: The mountPath.
        read_only: As rendered; ConfigMaps and Secrets always are.
    """

    source: Path
    target: str
    read_only: bool = False


@dataclass
class Container:
    """A container from its first process to its end.

    Attributes:
        name: As rendered, with the pod's name before it.
        folder: Its log and its description.
        pause: Process that holds the pod's namespaces.
        image: What its root file system is.
        argv: Command and arguments, variables expanded.
        env: All of its environment.
        volumes: Above the image.
        user: Who it runs as.
        groups: Its groups, the primary one first.
        read_only_root: Whether only volumes can be written.
        memory_bytes: What it may use before the kernel kills it; 0: no limit.
        workdir: Where it starts.
        peak_bytes: Most memory it has used, known after its end where there is a limit.
    """

    name: str
    folder: Path
    pause: int
    image: Image
    argv: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    volumes: Sequence[Volume] = ()
    user: int = 1000
    groups: Sequence[int] = (1000,)
    read_only_root: bool = False
    memory_bytes: int = 0
    workdir: str = "/"
    peak_bytes: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        if self._process is None:
            return None
        code = self._process.poll()
        return 128 - code if code is not None and code < 0 else code

    @property
    def first(self) -> psutil.Process:
        """Its first process, as this machine sees it: the child that ``unshare --fork`` made."""
        assert self._process is not None
        return psutil.Process(self._process.pid).children()[0]

    def start(self) -> None:
        """Start it, and wait until its command has taken over."""
        root = self.folder / "root"
        root.mkdir(parents=True)
        limit = self._limit_memory()
        # What is limited has to be seen: Ray reads there how much memory it has.
        volumes = [*self.volumes, *([Volume(limit, str(CGROUPS), read_only=True)] if limit else [])]
        spec = {
            "root": str(root),
            "begun": str(self._begun),
            "links": self.image.links,
            "folders": self.image.folders,
            "files": self.image.files,
            "image": self.image.binds,
            "volumes": [[str(volume.source), volume.target, volume.read_only] for volume in volumes],
            "read_only_root": self.read_only_root,
            "cgroup": str(limit or ""),
            "workdir": self.workdir,
            "user": self.user,
            "groups": list(self.groups),
            "env": dict(self.env),
            "argv": list(self.argv),
        }
        description = self.folder / "container.json"
        description.touch(mode=0o600)  # it holds the secrets that the container is given
        description.write_text(json.dumps(spec), encoding="utf-8")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig=KILL"),  # nothing outlives the session that started it
                    *("nsenter", "--net", "--uts", "--ipc", f"--target={self.pause}"),
                    *("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL"),
                    *(sys.executable, "-I", "-S", str(ENTER), str(description)),
                ],
                env={"PATH": os.environ["PATH"]},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

        until = time.monotonic() + BEGIN_LIMIT_S
        while self.running and not self._begun.exists():
            if time.monotonic() > until:
                raise TimeoutError(f"{self.name} did not begin:\n{self.tail()}")
            time.sleep(0.02)

    def wait(self, timeout_s: float) -> int:
        """Wait for its end.

        Returns:
            The exit code.
        """
        assert self._process is not None
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} still runs after {timeout_s:.0f} s:\n{self.tail()}") from None
        assert self.code is not None
        return self.code

    def run(
        self, argv: Sequence[str], timeout_s: float, env: Mapping[str, str] | None = None, *, given: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run one more command in it, as ``kubectl exec`` and exec probes do; ``given`` is its standard input."""
        command = [
            *("nsenter", "--mount", "--pid", "--net", "--uts", "--ipc", "--root", "--wd"),
            *(f"--target={self.first.pid}", f"--setuid={self.user}", f"--setgid={self.groups[0]}", "--", *argv),
        ]
        return subprocess.run(
            command,
            env={**self.env, **(env or {})},
            input=given,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def stop(self, grace_s: float) -> None:
        """SIGTERM to its first process, and after the grace period SIGKILL to all."""
        if self.running:
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                self.first.send_signal(signal.SIGTERM)
            assert self._process is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        self.kill()

    def kill(self) -> None:
        """SIGKILL: the first process takes all others of its namespace with it."""
        if self.running:
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                self.first.kill()
            assert self._process is not None
            self._process.wait(20)
        self._forget_limit()

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    @property
    def _begun(self) -> Path:
        """There as soon as the file system is ready and the command is about to take over."""
        return self.folder / "begun"

    @property
    def _cgroup(self) -> Path:
        return CGROUPS / f"flts-{self.pause}-{self.name}"

    def _limit_memory(self) -> Path | None:
        """A memory limit that the kernel enforces, where it can be set."""
        if not self.memory_bytes or not os.access(CGROUPS / "memory.limit_in_bytes", os.W_OK):
            return None
        self._cgroup.mkdir(exist_ok=True)
        (self._cgroup / "memory.limit_in_bytes").write_text(str(self.memory_bytes), encoding="ascii")
        return self._cgroup

    def _forget_limit(self) -> None:
        if self._cgroup.exists():
            self.peak_bytes = int((self._cgroup / "memory.max_usage_in_bytes").read_text(encoding="ascii"))
        until = time.monotonic() + 10
        while self._cgroup.exists():
            try:
                self._cgroup.rmdir()
            except OSError:  # its last processes are on their way out
                if time.monotonic() > until:
                    return
                time.sleep(0.05)
        shutil.rmtree(self.folder / "root", ignore_errors=True)
