"""Fixtures that several suites share."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in make and in the commands under test: sums are added up alike

from tests.services import MlflowServer, Postgres, S3Server, why_no_postgres

settings.register_profile("flts", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("flts")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the published Barcelona files; the test is skipped where they are not at hand."""
    folder = Path(os.environ.get("FLTS_DATA_DIR", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (folder / "PobleSec.csv").exists():
        pytest.skip(f"PobleSec.csv is not in {folder}; set FLTS_DATA_DIR")
    return folder


@pytest.fixture(scope="session")
def s3_credentials() -> Iterator[dict[str, str]]:
    """Throw-away credentials in the environment, before Ray starts: its workers inherit them."""
    credentials = {
        "AWS_ACCESS_KEY_ID": secrets.token_hex(8),
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in credentials.items():
            patch.setenv(name, value)
        yield credentials


@pytest.fixture(scope="session")
def local_ray(s3_credentials: dict[str, str]) -> Iterator[None]:
    """A Ray with two CPUs on this machine, for the whole session."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    started = not ray.is_initialized()
    if started:
        # Workers import the tests' own functions and, without an installation, the package.
        root = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}},
        )
    yield
    if started:
        ray.shutdown()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory, s3_credentials: dict[str, str]) -> Iterator[S3Server]:
    """A real S3 server that takes the credentials in the environment."""
    server = S3Server(
        tmp_path_factory.mktemp("s3"),
        access_key=s3_credentials["AWS_ACCESS_KEY_ID"],
        secret_key=s3_credentials["AWS_SECRET_ACCESS_KEY"],
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL with an empty database."""
    if reason := why_no_postgres():
        pytest.skip(reason)
    server = Postgres()
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def mlflow_server(
    tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server, postgres: Postgres
) -> Iterator[MlflowServer]:
    """A real MLflow server on PostgreSQL that keeps its artifacts in the bucket ``tracker`` of the S3 server."""
    s3_server.make_bucket("tracker")
    server = MlflowServer(
        tmp_path_factory.mktemp("mlflow-server"),
        backend_uri=postgres.uri,
        artifacts="s3://tracker/artifacts",
        environment={**s3_server.environment, "MLFLOW_S3_ENDPOINT_URL": s3_server.endpoint_url},
    )
    server.start()
    yield server
    server.stop()
