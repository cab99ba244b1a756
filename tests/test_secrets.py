"""Secrets are planted, the program does its work and fails in several ways, and everything that was written is read."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers import Answer, flts, sets, write_stations
from tests.services import Postgres, S3Server

pytestmark = [pytest.mark.service, pytest.mark.timeout(300)]

SETTINGS = {
    "candidates": "gru",
    "training.epochs": 2,
    "recurrent.hidden_size": 8,
    "run.num_cpus": 2,
    "tracking.experiment": "vault",  # the default one belongs to the server on the same database
}


@dataclass(frozen=True)
class Vault:
    """Real servers whose credentials are the secrets, and a folder that holds everything a run writes."""

    server: S3Server
    postgres: Postgres
    folder: Path
    ray: Path
    token: str

    @property
    def planted(self) -> dict[str, str]:
        return {
            "S3 secret key": self.server.secret_key,
            "database password": self.postgres.password,
            "Ray token": self.token,
        }

    def run(self, *more: str, uri: str = "", **env: str) -> Answer:
        train, test = write_stations(self.folder / "in", ("alpha",))
        settings = {**SETTINGS, "storage.root": "s3://vault/store", "tracking.uri": uri or self.postgres.uri}
        return flts(
            "run", "--json", "--train", train, "--test", test, *sets(settings), *more,
            cwd=self.folder,
            env={
                **self.server.environment,
                "AWS_ENDPOINT_URL": self.server.endpoint_url,
                "RAY_TMPDIR": str(self.ray),
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": self.token,
                **env,
            },
        )  # fmt: skip

    def leaks(self, answer: Answer, *folders: Path) -> list[str]:
        """Where a planted secret stands in what was written."""
        found = []
        for name, secret in self.planted.items():
            if secret in answer.out + answer.err:
                found.append(f"{name} in the output")
            found += [
                f"{name} in {file}"
                for folder in (self.folder / "flts_home", self.ray, *folders)
                for file in folder.rglob("*")
                if file.is_file() and secret.encode() in file.read_bytes()
            ]
        return found


@pytest.fixture(scope="module")
def vault(s3_server: S3Server, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    s3_server.make_bucket("vault")
    ray = Path(tempfile.mkdtemp(prefix="vault-"))  # short: Ray's sockets lie in it
    yield Vault(s3_server, postgres, tmp_path_factory.mktemp("vault"), ray, secrets.token_hex(32))
    shutil.rmtree(ray, ignore_errors=True)


def test_a_run_writes_no_secret_anywhere(vault: Vault, tmp_path: Path) -> None:
    answer = vault.run()
    assert answer.code in (0, 30), answer.err[-3000:]
    stored = tmp_path / "bucket"
    from flts_ray.data.storage import Store

    bucket = Store("s3://vault/store", vault.server.settings())
    for name in bucket.list():
        (stored / name).parent.mkdir(parents=True, exist_ok=True)
        (stored / name).write_bytes(bucket.read_bytes(name))
    (stored / "database.sql").write_bytes(dump(vault.postgres))
    assert list(vault.ray.rglob("*.log")), "Ray wrote its logs elsewhere"
    assert b"val_rmse_bits" in (stored / "database.sql").read_bytes()
    assert vault.leaks(answer, stored) == []


def dump(postgres: Postgres) -> bytes:
    """Everything that MLflow keeps in the database, as text."""
    done = subprocess.run(
        [shutil.which("pg_dump") or "pg_dump", postgres.uri.replace("postgresql+psycopg2", "postgresql")],
        capture_output=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("wrong", ["key", "database", "endpoint"])
def test_a_refusal_names_no_secret(wrong: str, vault: Vault) -> None:
    if wrong == "key":
        answer = vault.run(AWS_ACCESS_KEY_ID="wrong")
    elif wrong == "database":
        gone = vault.postgres.uri.replace(str(vault.postgres.port), "9")
        answer = vault.run("--set", "tracking.flush_timeout_s=2", uri=gone)
    else:
        address = vault.server.endpoint_url.replace("://", f"://user:{vault.server.secret_key}@")
        answer = vault.run("--set", "storage.deadline_s=2", AWS_ENDPOINT_URL=address.rpartition(":")[0] + ":9")
    assert answer.code in (50, 51), answer.err[-2000:]
    assert vault.leaks(answer) == []
