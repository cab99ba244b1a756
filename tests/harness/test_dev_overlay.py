"""The dev overlay, from `kubectl apply -k` to a forecast, and held against a run on a laptop.

One story, told in the order of the tests: they share one cluster, and what they need of it is what a fixture waits for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.harness.cluster import ask
from tests.harness.container import Container
from tests.harness.pod import Pod
from tests.harness.rayjob import RayJob
from tests.harness.rayservice import RayService
from tests.harness.system import CONFIG, System, flts

pytestmark = [pytest.mark.manifests, pytest.mark.service, pytest.mark.e2e, pytest.mark.timeout(2400)]

HOLDERS = {
    ("minio-root", "MINIO_ROOT_PASSWORD"): {"minio", "minio-setup"},
    ("flts-s3", "AWS_SECRET_ACCESS_KEY"): {"minio-setup", "flts-sample-data", "flts-pipeline"},
    ("mlflow-s3", "AWS_SECRET_ACCESS_KEY"): {"minio-setup", "mlflow"},
    ("postgres", "POSTGRES_PASSWORD"): {"postgres", "mlflow"},
    ("ray-token", "auth_token"): {"flts-pipeline"},
    ("serve-token", "token"): set(),
    ("redis", "password"): set(),
}
"""Who may know which secret, by the workload's name; of the pods that run until the pipeline is done."""


def test_mlflow_answers_by_every_name_that_clients_use_and_by_no_other(system: System, insider: Container) -> None:
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    names = ["mlflow", *(f"mlflow.{system.cluster.namespace}{end}" for end in ("", ".svc", ".svc.cluster.local"))]
    answers = {name: ask(insider, f"http://{name}:5000{path}") for name in names}
    assert {name: status for name, (status, _) in answers.items()} == dict.fromkeys(names, 200), answers
    assert ask(insider, f"http://mlflow:5000{path}", headers={"Host": "tracker.example"})[0] == 403


def test_each_key_opens_its_own_bucket_only(system: System, insider: Container) -> None:
    def reads(secret: str, bucket: str) -> bool:
        env = {key: system.secret(secret, key) for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        return insider.run(["python", "-c", _LIST, bucket], 120, env).returncode == 0

    assert {
        (secret, bucket): reads(secret, bucket) for secret in ("flts-s3", "mlflow-s3") for bucket in ("flts", "mlflow")
    } == {
        ("flts-s3", "flts"): True,
        ("flts-s3", "mlflow"): False,
        ("mlflow-s3", "flts"): False,
        ("mlflow-s3", "mlflow"): True,
    }


def test_the_pipeline_succeeds_at_once(pipeline: RayJob) -> None:
    assert [attempt.status for attempt in pipeline.attempts] == ["SUCCEEDED"], pipeline.story()
    answer = answer_of(pipeline)
    assert answer["run_id"] == pipeline.attempts[0].job_id
    assert answer["exit_code"] in (0, 30, 31, 33), answer


def test_mlflow_has_the_run_finished_and_the_champion(system: System, insider: Container, pipeline: RayJob) -> None:
    states = run_states(system, insider)
    assert states
    assert set(states.values()) == {"FINISHED"}
    found = system.registered(insider, "registered-models/search", None)["registered_models"]
    assert [model["name"] for model in found] == ["flts-base-stations"]


def test_no_pod_holds_a_secret_that_it_was_not_given(system: System, pipeline: RayJob) -> None:
    pods = [pod for pod in [*system.cluster.pods(), *pods_of(pipeline)] if pod.name not in ("client", "insider")]
    held = {name: {workload(pod) for pod in pods if system.secret(*name) in everything_in(pod)} for name in HOLDERS}
    assert held == HOLDERS


def test_no_log_tells_a_secret(system: System, pipeline: RayJob) -> None:
    logs = {log: log.read_text(errors="replace") for log in system.cluster.folder.glob("pods/*/*/log")}
    assert not [str(log) for log, text in logs.items() for name in HOLDERS if system.secret(*name) in text]


def test_a_laptop_comes_to_the_same(system: System, pipeline: RayJob, tmp_path: Path) -> None:
    days = system.rendered.get("Job", "flts-sample-data")["spec"]["template"]["spec"]["containers"][0]["command"][-1]
    assert flts("sample-data", "--out", "rows", "--days", days, cwd=tmp_path).returncode == 0
    home = str(tmp_path / "home")
    rows = ("--train", str(tmp_path / "rows/train"), "--test", str(tmp_path / "rows/test"))
    done = flts("run", "--config", str(CONFIG), "--home", home, *rows, "--json", cwd=tmp_path)
    assert done.returncode == answer_of(pipeline)["exit_code"], done.stderr[-3000:]
    here, there = json.loads(done.stdout), answer_of(pipeline)
    assert here["dataset_id"] == there["dataset_id"]

    run = f"s3://flts/store/runs/{there['run_id']}"
    compared = flts(
        "reconcile", here["run_id"], run, "--home", home, "--json", cwd=tmp_path, env=system.store_environment()
    )
    assert compared.returncode == 0, compared.stdout + compared.stderr


def test_the_service_asks_for_the_token(system: System, client: Container, forecast: RayService) -> None:
    status, text = ask(client, "http://flts-forecast-serve-svc:8000/v1/model")
    assert status == 401, text
    status, text = ask(
        client, "http://flts-forecast-serve-svc:8000/v1/model", headers={"Authorization": "Bearer wrong"}
    )
    assert status == 401, text


def test_the_service_forecasts(system: System, client: Container, forecast: RayService, tmp_path: Path) -> None:
    bearer = {"Authorization": f"Bearer {system.secret('serve-token', 'token')}"}
    service = f"http://flts-forecast-serve-svc.{system.cluster.namespace}:8000"
    status, text = ask(client, f"{service}/v1/model", headers=bearer)
    assert status == 200, text
    rows = int(json.loads(text)["context_rows"])

    assert flts("sample-data", "--out", "rows", "--days", "4", cwd=tmp_path).returncode == 0
    station = pd.read_csv(tmp_path / "rows/test/Harbour.csv").tail(rows)
    # Through pandas' own JSON: missing values are null there.
    history = {"series": "Harbour", "rows": json.loads(station.to_json(orient="records"))}
    status, text = ask(client, f"{service}/v1/forecast", headers=bearer, body={"history": history})
    assert status == 200, text
    assert json.loads(text)["forecasts"]


def test_both_workers_answer_and_the_head_does_not(system: System, client: Container, forecast: RayService) -> None:
    assert forecast.ray is not None
    assert forecast.ray.head is not None
    assert len(forecast.ray.workers) == 2
    for worker in forecast.ray.workers:
        assert ask(client, f"http://{worker.address}:8000/readyz")[0] == 200
    assert ask(client, f"http://{forecast.ray.head.address}:8000/readyz")[0] == 0


def test_every_connection_that_was_made_is_one_that_the_network_policies_allow(
    system: System, forecast: RayService
) -> None:
    assert {flow.port for flow in system.cluster.flows.seen} >= {5000, 5432, 6379, 9000}
    assert system.refused_flows() == []


_LIST = """
import os, sys, botocore.session
from botocore.exceptions import ClientError
client = botocore.session.get_session().create_client("s3", endpoint_url="http://minio:9000", region_name="us-east-1")
try:
    client.list_objects_v2(Bucket=sys.argv[1])
except ClientError as error:
    sys.exit(error.response["Error"]["Code"])
"""


def answer_of(job: RayJob) -> dict[str, Any]:
    """The document that a job ends with: the only one in its log that is more than a line long."""
    text = job.log()
    document: dict[str, Any] = json.loads(text[text.rindex("\n{\n") : text.rindex("\n}\n") + 2])
    return document


def runs_of(system: System, client: Container) -> list[dict[str, Any]]:
    """Every run that MLflow knows."""
    experiments = system.registered(client, "experiments/search", {"max_results": 100})["experiments"]
    query = {"experiment_ids": [each["experiment_id"] for each in experiments], "max_results": 1000}
    return list(system.registered(client, "runs/search", query).get("runs", []))


def run_states(system: System, client: Container) -> dict[str, str]:
    """How each of them ended."""
    return {run["info"]["run_id"]: run["info"]["status"] for run in runs_of(system, client)}


def pods_of(job: RayJob) -> list[Pod]:
    found = [pod for attempt in job.attempts for pod in (attempt.ray.head, *attempt.ray.workers, attempt.submitter)]
    return [pod for pod in found if pod is not None]


def workload(pod: Pod) -> str:
    """What a pod belongs to, by its name."""
    names = {name for name, _ in HOLDERS} | {
        "minio",
        "minio-setup",
        "mlflow",
        "postgres",
        "flts-sample-data",
        "flts-pipeline",
        "flts-make-secrets",
    }
    return max((name for name in names if pod.name.startswith(name)), key=len, default=pod.name)


def everything_in(pod: Pod) -> str:
    """Environment and arguments of all its containers, and the files of its Secrets."""
    told = [file.read_text(encoding="utf-8") for file in pod.folder.glob("*/container.json")]
    volumes = [file for file in pod.folder.glob("volumes/*/*") if file.is_file() and file.stat().st_size < 10_000]
    return "\n".join(told + [file.read_text(errors="replace") for file in volumes])
