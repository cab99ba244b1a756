"""Object store, database and tracker together, as `make services` starts them."""

from __future__ import annotations

import contextlib
import fcntl
import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.services.database import Postgres, why_no_postgres
from tests.services.object_store import S3Server
from tests.services.tracker import MlflowServer

BUCKETS = ("flts", "mlflow")
ENV_FILE = "services.env"
MARKER = ".flts-services"


@dataclass
class Stack:
    """The three servers, and what a client has to know of them.

    Attributes:
        folder: Where they keep their files; ``services.env`` is there too.
    """

    folder: Path
    objects: S3Server
    database: Postgres
    tracker: MlflowServer

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make ``flts`` use these servers, and ``psql`` the database."""
        return {
            **self.objects.environment,
            "FLTS_STORAGE__ENDPOINT_URL": self.objects.endpoint_url,
            "FLTS_STORAGE__ROOT": "s3://flts/store",
            "FLTS_TRACKING__URI": self.tracker.uri,
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.database.port),
            "PGUSER": self.database.database,
            "PGDATABASE": self.database.database,
            "PGPASSWORD": self.database.password,
        }

    @property
    def env_file(self) -> Path:
        return self.folder / ENV_FILE

    def dead(self) -> list[str]:
        """Names of the servers that ended by themselves."""
        servers = {"object store": self.objects, "database": self.database, "tracker": self.tracker}
        return [name for name, server in servers.items() if not server.running]

    def watch(self, every_s: float = 2.0) -> str:
        """Wait until a server ends by itself, and name it."""
        while not (dead := self.dead()):
            time.sleep(every_s)
        return dead[0]


@contextlib.contextmanager
def running_stack(folder: Path) -> Iterator[Stack]:
    """Start all three with new credentials and empty stores; stop them at the end and keep the logs.

    Raises:
        RuntimeError: If one cannot be started, or the folder is in use or holds something else.
    """
    if reason := why_no_postgres():
        raise RuntimeError(reason)
    folder = folder.absolute()
    with _claimed(folder), contextlib.ExitStack() as ending:
        objects = S3Server(folder / "objects")
        ending.callback(objects.stop)
        objects.start()
        for bucket in BUCKETS:
            objects.make_bucket(bucket)
        database = Postgres()
        ending.callback(database.remove)
        database.start()
        tracker = MlflowServer(
            folder / "tracker",
            backend_uri=database.uri,
            artifacts="s3://mlflow/artifacts",
            environment={**objects.environment, "MLFLOW_S3_ENDPOINT_URL": objects.endpoint_url},
        )
        ending.callback(tracker.stop)
        tracker.start()
        stack = Stack(folder, objects, database, tracker)
        ending.callback(stack.env_file.unlink, missing_ok=True)  # nobody answers to these any more
        stack.env_file.touch(mode=0o600)
        stack.env_file.write_text(
            "".join(f"{name}={shlex.quote(value)}\n" for name, value in stack.environment.items())
        )
        yield stack


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """An empty folder that nobody else starts servers in."""
    marker = folder / MARKER
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise RuntimeError(f"{folder} holds something else: name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with marker.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(f"services run in {folder} already: stop them, or name another folder") from error
        for old in folder.iterdir():
            if old.is_dir():
                shutil.rmtree(old)
            elif old != marker:
                old.unlink()
        (folder / ".gitignore").write_text("*\n")
        yield
