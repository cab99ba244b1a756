"""A real PostgreSQL."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tests.services.ports import free_ports
from tests.services.processes import ServerProcess, quiet_environment

SYSTEM_USER = "postgres"
"""PostgreSQL refuses to run as root; root hands it to this user."""


def postgres_binaries() -> Path | None:
    """Folder of initdb and postgres: the newest of the system's packages, or what PATH knows."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: _version(file.parents[1].name))
    if versions:
        return versions[-1].parent
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def _version(name: str) -> float:
    try:
        return float(name)
    except ValueError:
        return 0.0


def why_no_postgres() -> str:
    """Why PostgreSQL cannot be started here; empty if it can."""
    if postgres_binaries() is None:
        return "PostgreSQL is not installed: apt install postgresql"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(SYSTEM_USER)
        except KeyError:
            return f"PostgreSQL does not run as root, and there is no user {SYSTEM_USER}"
    return ""


@dataclass
class Postgres:
    """A PostgreSQL cluster with one database, on 127.0.0.1, reached with a throw-away password.

    Attributes:
        database: Name of the database; its owner has the same name.
        password: Of that owner.
        port: Kept over restarts.
    """

    database: str = "mlflow"
    password: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    port: int = 0
    _folder: Path | None = None
    _process: ServerProcess | None = None

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.running

    @property
    def uri(self) -> str:
        """As SQLAlchemy reads it, password included."""
        return f"postgresql+psycopg2://{self.database}:{self.password}@127.0.0.1:{self.port}/{self.database}"

    def start(self, timeout_s: float = 60.0) -> None:
        if reason := why_no_postgres():
            raise RuntimeError(reason)
        self.port = self.port or free_ports(1)[0]
        fresh = self._folder is None
        folder = self._prepare() if self._folder is None else self._folder
        self._process = ServerProcess("PostgreSQL", folder / "postgres.log")
        command = [
            self._binary("postgres"),
            *("-D", str(folder / "data"), "-p", str(self.port)),
            *("-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"),
            *("-c", "fsync=off"),  # the data need not outlive the machine
        ]
        self._process.start(
            command, env=self._environment, user=self._user, cwd=folder, ready=self.answers, timeout_s=timeout_s
        )
        if fresh:
            self._run("createdb", *self._address, self.database)

    def answers(self) -> bool:
        """Whether it takes connections."""
        command = [self._binary("pg_isready"), "-q", "-t", "2", *self._address, "-d", "postgres"]
        return subprocess.run(command, env=self._environment, check=False).returncode == 0

    def stop(self) -> None:
        """End it, and open sessions with it; the data stay for the next start."""
        if self._process is not None:
            self._process.stop(signal.SIGINT)
            self._process = None

    def kill(self) -> None:
        """End every process of it at once."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def restart(self) -> None:
        """Stop and start, with the same data on the same port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it."""
        assert self._process is not None
        self._process.pause()

    def resume(self) -> None:
        assert self._process is not None
        self._process.resume()

    def remove(self) -> None:
        """Stop it and throw its data away."""
        self.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None

    @property
    def _user(self) -> str | None:
        return SYSTEM_USER if os.geteuid() == 0 else None

    @property
    def _environment(self) -> dict[str, str]:
        return quiet_environment({"PGPASSWORD": self.password, "LC_ALL": "C"})

    @property
    def _address(self) -> tuple[str, ...]:
        return ("-h", "127.0.0.1", "-p", str(self.port), "-U", self.database)

    def _prepare(self) -> Path:
        """A new cluster, where its own user can reach it: below a folder of root's it could not."""
        folder = Path(tempfile.mkdtemp(prefix="flts-pg-"))
        password = folder / "password"
        password.touch(mode=0o600)
        password.write_text(self.password)
        if self._user is not None:
            for path in (folder, password):
                shutil.chown(path, self._user, self._user)
        self._folder = folder
        self._run(
            *("initdb", "-D", str(folder / "data"), "-U", self.database, "-A", "scram-sha-256"),
            *(f"--pwfile={password}", "-E", "UTF8", "--locale=C", "--no-sync"),
        )
        password.unlink()
        return folder

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._binary(name), *arguments],
            env=self._environment,
            cwd=self._folder,
            user=self._user,
            group=self._user,
            extra_groups=None if self._user is None else [],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{name} failed: {done.stderr.strip()}")

    def _binary(self, name: str) -> str:
        folder = postgres_binaries()
        assert folder is not None
        return str(folder / name)
