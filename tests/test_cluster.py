"""Ray is started late, owned by whoever started it, and told nothing that the user told it otherwise."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from flts_ray import cluster as module
from flts_ray.cluster import Cluster, submission_id
from flts_ray.config import RunSettings
from flts_ray.errors import ClusterError
from tests.helpers import REPOSITORY, clean_environment


@pytest.mark.unit
def test_a_cluster_nobody_needs_is_never_started() -> None:
    code = "import sys; from flts_ray.cluster import Cluster; from flts_ray.config import RunSettings\n"
    code += "with Cluster(RunSettings()) as c: pass\nprint('ray' in sys.modules, c.start_s)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "0.0"]


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the variables that the program sets for Ray; what a test sets of them goes with it."""
    ours = {**module.DRIVER_ENVIRONMENT, **module.LOCAL_ENVIRONMENT, **module.SHARED_ENVIRONMENT}
    for name in (*ours, "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "before")
        monkeypatch.delenv(name)


@pytest.mark.unit
@pytest.mark.parametrize("local", [True, False])
def test_notice_of_a_nodes_end_is_listened_for_where_somebody_may_give_it(local: bool, nothing_set: None) -> None:
    module._prepare_environment(local=local)
    assert (os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER") == "0") is local
    assert ("RAY_TRAIN_ENABLE_STATE_TRACKING" in os.environ) is not local


@pytest.mark.unit
def test_what_the_user_set_for_ray_stays(monkeypatch: pytest.MonkeyPatch, nothing_set: None) -> None:
    monkeypatch.setenv("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "7")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    module._prepare_environment(local=True)
    assert os.environ["RAY_TRAIN_COLLECTIVE_TIMEOUT_S"] == "7"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN" not in os.environ, "their token is in a file of theirs"


@pytest.mark.unit
def test_the_submission_id_is_the_one_that_ray_job_submit_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert submission_id() is None
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"job_submission_id": "raysubmit_7"}}))
    assert submission_id() == "raysubmit_7"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {}}))
    assert submission_id() is None


@pytest.mark.unit
def test_sigterm_keeps_the_meaning_that_the_program_gave_it() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with module._own_sigterm():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.unit
@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        (
            "10.0.0.9:6379",
            r"^the Ray cluster at 10\.0\.0\.9:6379 cannot be reached \(no route\): check run\.ray_address",
        ),
        ("", r"^Ray could not be started on this machine \(no route\): check memory"),
    ],
)
def test_a_ray_that_does_not_answer_is_told_in_a_sentence(
    address: str, sentence: str, monkeypatch: pytest.MonkeyPatch, nothing_set: None
) -> None:
    import ray

    def init(**_: object) -> None:
        raise ConnectionError("no route.\nand much more")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ClusterError, match=sentence):
        Cluster(RunSettings(ray_address=address)).ensure()


@pytest.mark.unit
def test_what_ray_tells_of_dead_workers_is_no_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from ray._private import worker as session

    monkeypatch.setattr(session, "print_worker_logs", session.print_worker_logs)
    module._keep_off_stdout()
    lines = ["A worker died\nand a long report of it"]
    session.print_to_stdstream({"lines": lines, "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert capsys.readouterr().out == ""
    (record,) = caplog.records
    assert record.__dict__["fields"] == {"source": "raylet", "text": "A worker died"}


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_ray_that_runs_already_is_used_and_left_running() -> None:
    import ray

    with Cluster(RunSettings(num_cpus=1)) as cluster:
        cluster.ensure()
        cluster.ensure()
        assert cluster.cpus() == 2
        assert cluster.start_s == 0
    assert ray.is_initialized()


STARTS = """
import json, sys
import psutil, ray, ray._private.services as services
from flts_ray.cluster import Cluster
from flts_ray.config import RunSettings

times, asked, found = int(sys.argv[1]), [], services.get_node
def get_node(*arguments):
    asked.append(arguments)
    if len(asked) <= times:
        raise Exception("The current node timed out during startup. This could happen because")
    return found(*arguments)
services.get_node = get_node
with Cluster(RunSettings(num_cpus=1)) as cluster:
    cluster.ensure()
    names = [process.name() for process in psutil.Process().children(recursive=True)]
    print(json.dumps([names.count("raylet"), names.count("gcs_server"), cluster.cpus()]))
"""


def started(times: int) -> subprocess.CompletedProcess[str]:
    """Start a Ray that does not come up in time so many times; processes and CPUs of what stands then."""
    return subprocess.run(
        [sys.executable, "-c", STARTS, str(times)],
        cwd=REPOSITORY,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@pytest.mark.ray
def test_a_ray_that_comes_up_too_late_is_started_once_more_and_leaves_nothing() -> None:
    done = started(1)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == [1, 1, 1.0]
    assert "ray_start_timed_out" in done.stderr


@pytest.mark.ray
def test_a_ray_that_never_comes_up_is_told_in_a_sentence() -> None:
    done = started(2)
    assert done.returncode == 1
    assert "ClusterError: Ray could not be started on this machine (The current node timed out" in done.stderr
