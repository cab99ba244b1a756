"""The operator's part, held against what KubeRay 1.7 was seen to do on a real API server."""

from __future__ import annotations

import pytest

from tests.harness.kuberay import auth, ray_start
from tests.harness.rayjob import submission

pytestmark = pytest.mark.unit

LIMITS = {"resources": {"limits": {"cpu": "1500m", "memory": "2Gi"}}}


def test_a_heads_command_has_what_follows_from_its_limits_unless_it_is_said() -> None:
    command = ray_start({"num-cpus": "0"}, LIMITS, head=True, address="")
    assert command == (
        "ulimit -n 65536; ray start --head --block --dashboard-agent-listen-port=52365 --dashboard-host=0.0.0.0 "
        "--memory=2147483648 --metrics-export-port=8080 --num-cpus=0"
    )


def test_a_workers_cpus_are_rounded_up() -> None:
    command = ray_start({}, LIMITS, head=False, address="head:6379")
    assert "--address=head:6379" in command
    assert "--num-cpus=2" in command


def test_without_a_mode_there_is_no_token_whatever_else_is_said() -> None:
    assert auth({"authOptions": {"secretName": "ray-token"}}, "cluster") == []
    assert auth({"authOptions": {"mode": "token"}}, "cluster")[1]["valueFrom"] == {
        "secretKeyRef": {"name": "cluster", "key": "auth_token"}
    }


def test_a_shell_of_the_submitter_reads_entrypoint_and_runtime_environment() -> None:
    spec = {"entrypoint": "python -m jobs.train && echo $HOME", "runtimeEnvYAML": "env_vars: {A: '1'}"}
    assert submission(spec) == (
        "if ! ray job status --address http://$RAY_DASHBOARD_ADDRESS $RAY_JOB_SUBMISSION_ID >/dev/null 2>&1 ; "
        'then ray job submit --address http://$RAY_DASHBOARD_ADDRESS --no-wait --runtime-env-json "{\\"env_vars\\": '
        '{\\"A\\": \\"1\\"}}" --submission-id $RAY_JOB_SUBMISSION_ID -- python -m jobs.train && echo $HOME ; fi ; '
        "ray job logs --address http://$RAY_DASHBOARD_ADDRESS --follow $RAY_JOB_SUBMISSION_ID"
    )
