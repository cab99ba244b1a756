"""A pod of the harness is what it claims to be; else nothing that runs in one shows anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.harness.cluster import Cluster, ask
from tests.harness.objects import Manifest
from tests.harness.pod import Pod

pytestmark = pytest.mark.service


def template(command: list[str], **spec: object) -> Manifest:
    container = {
        "name": "main",
        "image": "flts-ray:any",
        "command": command,
        "env": [
            {"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "door", "key": "code"}}},
        ],
        "volumeMounts": [{"name": "scratch", "mountPath": "/var/lib/scratch"}],
        "securityContext": {"readOnlyRootFilesystem": True},
        "resources": {"limits": {"memory": "64Mi"}},
    }
    pod = {
        "containers": [container],
        "securityContext": {"runAsUser": 1000, "fsGroup": 1000},
        "volumes": [{"name": "scratch", "emptyDir": {}}],
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
    }
    return {"metadata": {"labels": {"app": "main"}}, "spec": {**pod, **spec}}


@pytest.fixture
def cluster(pods: None, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster("test")
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
def door(cluster: Cluster) -> None:
    cluster.apply({"kind": "Secret", "metadata": {"name": "door"}, "stringData": {"code": "1234"}})


def says(cluster: Cluster, script: str) -> str:
    pod = cluster.pod("main-0", template(["bash", "-c", script]))
    pod.wait(lambda pod: pod.over, 60)
    return pod.log("main").strip()


def test_a_container_is_its_user_without_rights_on_a_root_it_cannot_write(cluster: Cluster, door: None) -> None:
    script = (
        "id -u; hostname; grep CapEff /proc/self/status | cut -f2; touch /x; touch /var/lib/scratch/x && echo written"
    )
    user, host, rights, refused, written = says(cluster, script).splitlines()
    assert (user, host, int(rights, 16), written) == ("1000", "main-0", 0, "written")
    assert "Read-only file system" in refused


def test_nothing_of_this_machine_is_seen(
    cluster: Cluster, door: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OF_THE_SHELL", "1")
    told = says(cluster, f"env; ls -A /tmp /home /root; ls {tmp_path}; cat /proc/1/comm; ps -e | wc -l")
    assert "OF_THE_SHELL" not in told
    assert "No such file" in told
    assert "WHO=main-0" in told
    assert "SECRET=1234" in told
    assert told.splitlines()[-2] == "bash"  # its own process ids: it is the first


def test_a_pod_waits_for_a_secret_that_is_not_there_yet(cluster: Cluster) -> None:
    pod = cluster.pod("main-0", template(["true"]))
    pod.wait(lambda pod: "CreateContainerConfigError" in pod.why, 30)
    cluster.apply({"kind": "Secret", "metadata": {"name": "door"}, "stringData": {"code": "1234"}})
    pod.wait(lambda pod: pod.phase == "Succeeded", 30)


def test_the_memory_limit_is_the_kernels(cluster: Cluster, door: None) -> None:
    pod = cluster.pod("main-0", template(["python", "-c", "print(len(bytearray(200 << 20)))"]))
    pod.wait(lambda pod: pod.over, 60)
    assert pod.phase == "Failed"
    assert "209715200" not in pod.log("main")


def test_a_killed_pod_leaves_no_process(cluster: Cluster, door: None) -> None:
    pod = cluster.pod("main-0", template(["bash", "-c", "sleep 987654 & setsid sleep 987654 & wait"]))
    pod.wait(lambda pod: len(sleepers()) == 2, 30)
    pod.kill()
    assert not sleepers()


def test_a_test_session_that_is_killed_leaves_no_process(cluster: Cluster, door: None) -> None:
    pod = cluster.pod("main-0", template(["bash", "-c", "sleep 987654"]))
    pod.wait(lambda pod: len(sleepers()) == 1, 30)
    first = pod.container().first
    outside = first.parent()  # it ends with the thread of the session that started it
    assert outside is not None
    outside.kill()
    pod.wait(lambda pod: not first.is_running() or first.status() == psutil.STATUS_ZOMBIE, 30)
    assert not sleepers()


def test_a_service_leads_only_to_pods_that_are_ready(cluster: Cluster, door: None) -> None:
    cluster.apply(
        {
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
        }
    )
    client = cluster.client("client", {})
    assert ask(client, "http://web.test.svc.cluster.local/")[0] == 0

    server = template(["python", "-m", "http.server", "8080", "--directory", "/var/lib/scratch"])
    server["metadata"]["labels"] = {"app": "web"}
    server["spec"]["containers"][0]["readinessProbe"] = {
        "httpGet": {"path": "/ready", "port": 8080},
        "periodSeconds": 1,
    }
    pod = cluster.pod("web-0", server)
    pod.wait(lambda pod: "404" in pod.why, 60)  # it answers, and is not ready
    assert ask(client, "http://web/")[0] == 0

    pod.container().run(["touch", "/var/lib/scratch/ready"], 10)
    pod.wait(lambda pod: pod.ready, 60)
    assert ask(client, "http://web/")[0] == 200


def sleepers() -> list[psutil.Process]:
    return [found for found in psutil.process_iter() if "987654" in _words(found) and found.name() == "sleep"]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_liveness_probe_that_fails_restarts_the_container(cluster: Cluster, door: None) -> None:
    spec = template(["bash", "-c", "echo begun; sleep 100"], restartPolicy="Always", terminationGracePeriodSeconds=0)
    spec["spec"]["containers"][0]["livenessProbe"] = {
        "exec": {"command": ["false"]},
        "periodSeconds": 1,
        "failureThreshold": 2,
    }
    pod: Pod = cluster.pod("main-0", spec)
    pod.wait(lambda pod: pod.log("main").count("begun") >= 2, 60)
