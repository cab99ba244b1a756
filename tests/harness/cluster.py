"""A namespace of a Kubernetes cluster on this machine: objects are applied, and controllers make pods of them."""

from __future__ import annotations

import copy
import json
import secrets
import shutil
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness.apiserver import NAME, ApiServer
from tests.harness.container import Container
from tests.harness.flows import Flows
from tests.harness.image import Image, find_image
from tests.harness.network import Network
from tests.harness.objects import Applied, Manifest, Objects
from tests.harness.pod import Pod
from tests.harness.services import Services, wait_until

PLAIN = ("ConfigMap", "Secret", "ServiceAccount", "Role", "RoleBinding", "PersistentVolumeClaim", "NetworkPolicy")


@dataclass
class Job(Applied):
    """A Kubernetes Job: a pod, and another one while one fails and the limit allows.

    Attributes:
        cluster: Where it runs.
        done: Whether it has ended.
        succeeded: And how.
    """

    cluster: Cluster
    done: bool = False
    succeeded: bool = False
    pods: list[Pod] = field(default_factory=list)

    def start(self) -> None:
        threading.Thread(target=self._control, name=self.name, daemon=True).start()

    def wait(self, timeout_s: float) -> None:
        """Wait for its success.

        Raises:
            RuntimeError: If it failed.
        """
        wait_until(lambda: self.done, timeout_s, lambda: f"Job {self.name} is not done\n{self.story()}")
        if not self.succeeded:
            raise RuntimeError(f"Job {self.name} failed\n{self.story()}")

    def story(self) -> str:
        return "\n".join(f"{pod.name}: {pod.phase} {pod.why}\n{pod.story()}" for pod in self.pods)

    def _control(self) -> None:
        template = copy.deepcopy(self.spec["template"])
        labels = template.setdefault("metadata", {}).setdefault("labels", {})
        labels["batch.kubernetes.io/job-name"] = self.name
        for _ in range(int(self.spec.get("backoffLimit", 6)) + 1):
            pod = self.cluster.pod(f"{self.name}-{suffix()}", template)
            self.pods.append(pod)
            while not pod.over:
                if self.cluster.ending.wait(0.1):
                    return
            if pod.phase == "Succeeded":
                self.succeeded = True
                break
        self.done = True


def suffix() -> str:
    """What controllers hang behind a name."""
    return secrets.token_hex(3)[:5]


@dataclass
class Cluster:
    """What is applied, and the pods that come of it.

    Attributes:
        namespace: Of all objects.
        folder: Logs and volumes of the pods.
    """

    namespace: str
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="flts-pods-")))
    objects: Objects = field(init=False)
    network: Network = field(init=False)
    services: Services = field(init=False)
    flows: Flows = field(init=False)
    ending: threading.Event = field(default_factory=threading.Event)
    jobs: dict[str, Job] = field(default_factory=dict)
    _api: ApiServer = field(init=False)
    _pods: list[Pod] = field(default_factory=list)
    _ever: list[Pod] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.chmod(0o755)
        hosts = self.folder / "hosts"
        hosts.touch()
        hosts.chmod(0o644)
        self.objects = Objects(self.namespace)
        self.network = Network(hosts, self.namespace)
        self.services = Services(self.network, lambda: list(self._pods))
        self.flows = Flows(lambda: list(self._pods))

    def start(self) -> None:
        self.network.start()
        self.services.start()
        address = self.network.cluster_ip()
        self.network.call(NAME, address, short=True)
        self._api = ApiServer(self.objects, address, self.folder / "api")
        self._api.start()
        self.flows.start()

    def stop(self, *, keep: bool = False) -> None:
        """End every pod at once; what they stored goes too unless it is to be looked at."""
        self.ending.set()
        self.flows.stop()
        for pod in list(self._pods):
            pod.kill()
        self._api.stop()
        self.services.stop()
        self.network.stop()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def apply(self, manifest: Manifest) -> None:
        """Create one object, and what Kubernetes' own controllers make of it."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        if not self.objects.add(manifest):
            raise ValueError(f"{kind} {name} is there already")
        if kind == "Service":
            self.services.open(manifest)
        elif kind == "Job":
            self.jobs[name] = Job(manifest, self)
            self.jobs[name].start()
        elif kind in ("Deployment", "StatefulSet"):
            self._replicate(manifest)

    def pod(self, name: str, template: Manifest) -> Pod:
        """Start a pod of a template."""
        pod = Pod(name, copy.deepcopy(template), self)
        self._pods.append(pod)
        self._ever.append(pod)
        pod.start()
        return pod

    def delete(self, pod: Pod, grace_s: float | None = None) -> None:
        """End a pod, and forget it."""
        pod.delete(grace_s)
        self._pods.remove(pod)

    def pods(self, **labels: str) -> list[Pod]:
        """Pods by label; ``__`` in a name stands for ``/``, and ``_`` for ``-``."""
        wanted = {name.replace("__", "/").replace("_", "-"): value for name, value in labels.items()}
        return [pod for pod in self._pods if all(pod.labels.get(name) == value for name, value in wanted.items())]

    def known_pods(self) -> list[Pod]:
        """Every pod that ever was."""
        return list(self._ever)

    def owned(self, workload: str) -> list[Pod]:
        """Pods of a Deployment or StatefulSet."""
        return [pod for pod in self._pods if pod.name.rpartition("-")[0] == workload]

    def wait_ready(self, workload: str, timeout_s: float) -> None:
        """Wait until all pods of a Deployment or StatefulSet are ready."""
        for pod in self.owned(workload):
            pod.wait(lambda pod: pod.ready, timeout_s)

    def scale(self, deployment: str, replicas: int) -> None:
        """As ``kubectl scale``."""
        manifest = self.objects.get("Deployment", deployment)
        for pod in self.owned(deployment):
            self.delete(pod)
        self._replicate({**manifest, "spec": {**manifest["spec"], "replicas": replicas}})

    def image(self, name: str) -> Image:
        """What stands for an image."""
        return find_image(name)

    def account(self, name: str) -> tuple[str, bytes]:
        """Token of a ServiceAccount, and what the API server's certificate is checked against."""
        return self._api.token(name), self._api.certificate

    def client(self, name: str, labels: dict[str, str]) -> Container:
        """A pod that only waits for commands, as ``kubectl run`` makes it."""
        container = {"name": "client", "image": "flts-ray", "command": ["sleep", "infinity"]}
        spec = {"containers": [container], "automountServiceAccountToken": False, "enableServiceLinks": False}
        pod = self.pod(name, {"metadata": {"labels": labels}, "spec": spec})
        pod.wait(lambda pod: pod.ready, 60)
        return pod.container()

    def _replicate(self, manifest: Manifest) -> None:
        spec, name = manifest["spec"], manifest["metadata"]["name"]
        for number in range(int(spec.get("replicas", 1))):
            template = copy.deepcopy(spec["template"])
            for claim in spec.get("volumeClaimTemplates", []):
                volume = claim["metadata"]["name"]
                own = f"{volume}-{name}-{number}"
                self.objects.add({"kind": "PersistentVolumeClaim", "metadata": {"name": own}, "spec": claim["spec"]})
                template["spec"].setdefault("volumes", []).append(
                    {"name": volume, "persistentVolumeClaim": {"claimName": own}}
                )
            self.pod(f"{name}-{number if manifest['kind'] == 'StatefulSet' else suffix()}", template)


def ask(
    client: Container, url: str, *, headers: dict[str, str] | None = None, body: object = None, timeout_s: float = 60.0
) -> tuple[int, str]:
    """One HTTP request from inside a pod.

    Returns:
        Status and body; 0 and the reason if there was no answer.
    """
    told = {
        "url": url,
        "headers": headers or {},
        "body": None if body is None else json.dumps(body),
        "timeout": timeout_s,
    }
    try:
        done = client.run(["python", "-c", _ASK], timeout_s + 30, given=json.dumps(told))
    except subprocess.TimeoutExpired:
        return 0, "no answer in time"
    if done.returncode:
        return 0, done.stderr.strip()
    status, _, text = done.stdout.partition("\n")
    return int(status), text


_ASK = """
import json, sys, urllib.error, urllib.request
told = json.load(sys.stdin)
body = None if told["body"] is None else told["body"].encode()
headers = {**({"Content-Type": "application/json"} if body else {}), **told["headers"]}
try:
    answer = urllib.request.urlopen(urllib.request.Request(told["url"], body, headers), timeout=told["timeout"])
except urllib.error.HTTPError as error:
    answer = error
print(answer.status)
print(answer.read().decode(errors="replace"), end="")
"""
