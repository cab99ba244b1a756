"""A tracker that is backed up and restored as docs/deploy.md says has its champion again, artifacts and all."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from mlflow import MlflowClient

from tests.manifests.pages import ROOT, Page, programs
from tests.services.database import Postgres, postgres_binaries
from tests.services.object_store import S3Server
from tests.services.tracker import MlflowServer

pytestmark = pytest.mark.service

MODEL, WEIGHTS = "flts-restored", b"weights" * 10_000


def command_of_the_page(program: str) -> list[str]:
    """The one call of a program by ``kubectl exec`` on the page: what runs in the pod of PostgreSQL."""
    calls = [words for line in Page(ROOT / "docs" / "deploy.md").commands for words in programs(line)]
    (inner,) = [words[words.index("--") + 1 :] for words in calls if program in words]
    return [word for word in inner if word not in "<>" and not word.endswith(".dump")]


def run_beside(database: Postgres, program: str, **streams: Any) -> None:
    """Run a command of the page as if in the pod of a database."""
    name, *arguments = command_of_the_page(program)
    binaries = postgres_binaries()
    assert binaries is not None
    where = {"PGHOST": "127.0.0.1", "PGPORT": str(database.port), "PGPASSWORD": database.password}
    subprocess.run([binaries / name, *arguments], env={"PATH": os.defpath, **where}, check=True, timeout=60, **streams)


@pytest.fixture
def fresh(tmp_path: Path, s3_server: S3Server, postgres: Postgres) -> Iterator[tuple[Postgres, MlflowServer]]:
    """A database and a tracker as in an empty cluster; the tracker is not started yet."""
    s3_server.make_bucket("restored")
    database = Postgres()
    database.start()
    server = MlflowServer(
        tmp_path / "server",
        backend_uri=database.uri,
        artifacts="s3://restored/artifacts",
        environment={**s3_server.environment, "MLFLOW_S3_ENDPOINT_URL": s3_server.endpoint_url},
    )
    yield database, server
    server.stop()
    database.remove()


def make_champion(server: MlflowServer, folder: Path) -> None:
    client = MlflowClient(server.uri)
    run = client.create_run(client.create_experiment(MODEL)).info.run_id
    (folder / "weights.bin").write_bytes(WEIGHTS)
    client.log_artifact(run, str(folder / "weights.bin"), "bundle")
    client.set_terminated(run)
    client.create_registered_model(MODEL)
    version = client.create_model_version(MODEL, f"runs:/{run}/bundle", run)
    client.set_registered_model_alias(MODEL, "champion", version.version)


def mirror(server: S3Server, source: str, target: str) -> None:
    """What ``aws s3 sync`` does, there and back."""
    client = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=server.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )
    for found in client.list_objects_v2(Bucket=source)["Contents"]:
        client.copy_object(Bucket=target, Key=found["Key"], CopySource={"Bucket": source, "Key": found["Key"]})
    client.close()


def test_the_champion_is_back(
    tmp_path: Path,
    mlflow_server: MlflowServer,
    postgres: Postgres,
    s3_server: S3Server,
    fresh: tuple[Postgres, MlflowServer],
) -> None:
    database, server = fresh
    make_champion(mlflow_server, tmp_path)
    with (tmp_path / "mlflow.dump").open("wb") as dump:
        run_beside(postgres, "pg_dump", stdout=dump)
    mirror(s3_server, "tracker", "restored")

    with (tmp_path / "mlflow.dump").open("rb") as dump:
        run_beside(database, "pg_restore", stdin=dump)
    server.start()

    client = MlflowClient(server.uri)
    version = client.get_model_version_by_alias(MODEL, "champion")
    back = Path(client.download_artifacts(version.run_id, "bundle/weights.bin", str(tmp_path)))
    assert back.read_bytes() == WEIGHTS
