"""A pod, lived through in a thread as the kubelet's worker does: sandbox, init containers, containers, probes, end."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness.container import Container
from tests.harness.description import Description, World
from tests.harness.network import run
from tests.harness.objects import Manifest
from tests.harness.probes import Watch

LOOK_S = 0.25
PENDING_LIMIT_S = 600.0


@dataclass
class _Live:
    """A container that should run, its probes, and how often it ran before."""

    manifest: Manifest
    container: Container
    watches: dict[str, Watch]
    restarts: int = 0
    done: int | None = None


@dataclass
class Pod:
    """A pod from its creation to its end.

    Attributes:
        name: Its name, which is its host name.
        manifest: ``metadata`` (labels, annotations) and ``spec``.
        world: The cluster.
        phase: Pending, Running, Succeeded or Failed.
        why: What it waits for, or why it failed.
        address: In the cluster's network; empty before it has one.
        ready: Whether all containers run and their readiness probes pass.
    """

    name: str
    manifest: Manifest
    world: World
    phase: str = "Pending"
    why: str = ""
    address: str = ""
    ready: bool = False
    started: dict[str, int] = field(default_factory=dict)
    _pause: subprocess.Popen[bytes] | None = None
    _live: list[_Live] = field(default_factory=list)
    _grace_s: float | None = None
    _ending: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def spec(self) -> Manifest:
        spec: Manifest = self.manifest["spec"]
        return spec

    @property
    def labels(self) -> Mapping[str, str]:
        labels: Mapping[str, str] = self.manifest["metadata"].get("labels", {})
        return labels

    @property
    def pid(self) -> int:
        """Of the process that holds its namespaces; 0 if there is none."""
        return self._pause.pid if self._pause is not None and self._pause.poll() is None else 0

    @property
    def folder(self) -> Path:
        return self.world.folder / "pods" / self.name

    @property
    def over(self) -> bool:
        return self.phase in ("Succeeded", "Failed")

    @property
    def ports(self) -> dict[str, int]:
        """Named ports of all containers."""
        listed = [port for each in self.spec["containers"] for port in each.get("ports", [])]
        return {port["name"]: int(port["containerPort"]) for port in listed if "name" in port}

    def container(self, name: str = "") -> Container:
        """One that runs, by name; the first without."""
        return next(live.container for live in self._live if name in ("", live.manifest["name"]))

    def start(self) -> None:
        self.folder.mkdir(parents=True)
        self._thread = threading.Thread(target=self._worker, name=self.name, daemon=True)
        self._thread.start()

    def wait(self, what: Callable[[Pod], bool], timeout_s: float) -> None:
        """Wait for a state.

        Raises:
            TimeoutError: With what it waits for and the end of its logs.
        """
        until = time.monotonic() + timeout_s
        while not what(self):
            if time.monotonic() > until:
                raise TimeoutError(f"pod {self.name} is {self.phase}, ready: {self.ready} ({self.why})\n{self.story()}")
            time.sleep(0.1)

    def kill(self) -> None:
        """What a lost node does: everything of the pod ends at once, and nobody says goodbye."""
        self.delete(0.0)

    def delete(self, grace_s: float | None = None) -> None:
        """End it: preStop, SIGTERM, grace period, SIGKILL."""
        self._grace_s = grace_s
        self._ending.set()
        if self._thread is not None:
            self._thread.join(60 + float(self.spec.get("terminationGracePeriodSeconds", 30)))

    def story(self, lines: int = 40) -> str:
        """The ends of its logs."""
        logs = sorted(self.folder.glob("*/log"), key=lambda log: log.stat().st_mtime)
        ends = [(log.parent.name, log.read_text(errors="replace").splitlines()[-lines:]) for log in logs]
        return "\n".join(f"--- {self.name}/{name}\n" + "\n".join(end) for name, end in ends)

    def log(self, container: str) -> str:
        """All that a container has said, its restarts included."""
        return "\n".join(file.read_text(errors="replace") for file in sorted(self.folder.glob(f"{container}-*/log")))

    def _worker(self) -> None:
        try:
            self._sandbox()
            if self._initialize():
                self._serve()
        except Exception as error:  # noqa: BLE001 - told by phase and why, which whoever waits for the pod raises
            self.phase, self.why = "Failed", f"{type(error).__name__}: {error}"
        finally:
            self.ready = False
            for live in self._live:
                live.container.kill()
            self.world.network.disconnect(self.name)
            if self._pause is not None:
                self._pause.kill()
                self._pause.wait()
            if not self.over:
                self.phase = "Failed" if self._ending.is_set() else self.phase

    def _sandbox(self) -> None:
        self._pause = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "unshare", "--net", "--uts", "--ipc", "sleep", "infinity"],
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        own = Path("/proc/self/ns/net").readlink()
        while Path(f"/proc/{self._pause.pid}/ns/net").readlink() == own or not _runs(self._pause.pid, "sleep"):
            time.sleep(0.01)
        target = f"--target={self._pause.pid}"
        run("nsenter", "--uts", target, "hostname", self.spec.get("hostname", self.name))
        self.address = self.world.network.connect(self._pause.pid, self.name)

    def _initialize(self) -> bool:
        """Run the init containers, each to its end before the next."""
        for manifest in self.spec.get("initContainers", []):
            for attempt in range(1000):
                container = self._make(manifest, attempt)
                if container is None:
                    return False
                self.why = f"init container {manifest['name']}"
                container.start()
                while container.running:
                    if self._ending.wait(LOOK_S):
                        container.kill()
                        return False
                container.kill()
                if container.code == 0:
                    break
                if self.spec.get("restartPolicy", "Always") == "Never":
                    self.phase, self.why = "Failed", f"init container {manifest['name']} ended with {container.code}"
                    return False
                if self._ending.wait(min(2.0**attempt, 60)):
                    return False
        return True

    def _serve(self) -> None:
        for manifest in self.spec["containers"]:
            container = self._make(manifest, 0)
            if container is None:
                return
            self._live.append(_Live(manifest, container, _watches(manifest)))
            self._begin(self._live[-1])
        self.phase, self.why = "Running", ""
        while not self._ending.wait(LOOK_S):
            for live in self._live:
                if live.done is None:
                    self._look(live)
            done = [live.done for live in self._live]
            if None not in done:
                self.phase = "Failed" if any(done) else "Succeeded"
                self.why = f"containers ended with {done}"
                return
            self.ready = all(live.done is None and _passes(live, "readinessProbe") for live in self._live)
        self.ready = False
        grace_s = float(self.spec.get("terminationGracePeriodSeconds", 30)) if self._grace_s is None else self._grace_s
        self._end(grace_s)

    def _begin(self, live: _Live) -> None:
        live.container.start()
        for watch in live.watches.values():
            watch.begin()

    def _look(self, live: _Live) -> None:
        """What the kubelet does for a container every so often."""
        if not live.container.running:
            code = live.container.code
            policy = self.spec.get("restartPolicy", "Always")
            if policy == "Never" or (policy == "OnFailure" and code == 0):
                live.done = code
                return
            self._restart(live, f"{live.manifest['name']} ended with {code}")
            return
        startup = live.watches.get("startupProbe")
        if startup is not None and not startup.good:
            if startup.look(live.container, self.address, self.ports):
                self._restart(live, f"startup probe of {live.manifest['name']}: {startup.last}")
            if not startup.good:
                self.why = f"startup probe of {live.manifest['name']}: {startup.last}"
                return
            for name in ("livenessProbe", "readinessProbe"):
                if name in live.watches:
                    live.watches[name].begin()
        if (alive := live.watches.get("livenessProbe")) and alive.look(live.container, self.address, self.ports):
            self._restart(live, f"liveness probe of {live.manifest['name']}: {alive.last}")
            return
        if (ready := live.watches.get("readinessProbe")) is not None:
            ready.look(live.container, self.address, self.ports)
            self.why = "" if ready.good else f"readiness probe of {live.manifest['name']}: {ready.last}"

    def _restart(self, live: _Live, why: str) -> None:
        """End a container, and start it anew unless it ran for the only time."""
        live.container.stop(float(self.spec.get("terminationGracePeriodSeconds", 30)))
        self.why = why
        if self.spec.get("restartPolicy", "Always") == "Never":
            live.done = live.container.code or 137
            return
        live.restarts += 1
        container = None if self._ending.wait(min(2.0**live.restarts, 30)) else self._make(live.manifest, live.restarts)
        if container is not None:
            live.container, live.watches = container, _watches(live.manifest)
            self._begin(live)

    def _end(self, grace_s: float) -> None:
        until = time.monotonic() + grace_s
        for live in self._live:
            hook = live.manifest.get("lifecycle", {}).get("preStop", {})
            if grace_s and live.container.running and "exec" in hook:
                live.container.run(hook["exec"]["command"], grace_s)
            elif grace_s and live.container.running and "sleep" in hook:
                time.sleep(min(float(hook["sleep"]["seconds"]), grace_s))
        for live in self._live:
            live.container.stop(max(0.0, until - time.monotonic()))

    def _make(self, manifest: Manifest, attempt: int) -> Container | None:
        """A container, once all that it names exists; None if the pod ends before."""
        until = time.monotonic() + PENDING_LIMIT_S
        while True:
            try:
                described = Description(self.name, self.manifest, self.world, self.address, self.folder)
                return described.container(manifest, attempt, pause=self.pid)
            except LookupError as error:
                self.why = f"CreateContainerConfigError: {error}"
                if time.monotonic() > until:
                    raise
            if self._ending.wait(0.5):
                return None


def _watches(manifest: Manifest) -> dict[str, Watch]:
    names = ("startupProbe", "livenessProbe", "readinessProbe")
    return {name: Watch(manifest[name]) for name in names if name in manifest}


def _passes(live: _Live, probe: str) -> bool:
    startup = live.watches.get("startupProbe")
    if startup is not None and not startup.good:
        return False
    return probe not in live.watches or live.watches[probe].good


def _runs(pid: int, name: str) -> bool:
    return Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip() == name


def all_ready(pods: Sequence[Pod]) -> bool:
    """Whether there are any, and all of them are ready."""
    return bool(pods) and all(pod.ready for pod in pods)
