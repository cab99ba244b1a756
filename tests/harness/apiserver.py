"""The part of a Kubernetes API server that our pods use: Secrets, within the rights that the rendered Roles give."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import json
import secrets
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.harness.objects import Objects

NAME = "kubernetes.default.svc"


@dataclass
class ApiServer:
    """HTTPS on an address of the cluster's network, with a certificate that pods can check.

    Attributes:
        objects: What it serves.
        address: Where it listens, port 443.
        folder: Of its key.
    """

    objects: Objects
    address: str
    folder: Path
    certificate: bytes = b""
    _tokens: dict[str, str] = field(default_factory=dict)
    _server: http.server.ThreadingHTTPServer | None = None

    def start(self) -> None:
        self.folder.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = _certificate(key, self.address)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file = self.folder / "tls.pem"
        file.touch(mode=0o600)
        file.write_bytes(private + self.certificate)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(file)
        self._server = http.server.ThreadingHTTPServer((self.address, 443), _handler(self))
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, name="api-server", daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def token(self, account: str) -> str:
        """A token that stands for a ServiceAccount."""
        token = secrets.token_hex(16)
        self._tokens[token] = account
        return token

    def allowed(self, authorization: str, verb: str, name: str) -> bool:
        """Whether a Role that is bound to whoever asks allows it to do this with a Secret."""
        account = self._tokens.get(authorization.removeprefix("Bearer "))
        for binding in self.objects.all("RoleBinding"):
            subjects = [subject["name"] for subject in binding["subjects"] if subject["kind"] == "ServiceAccount"]
            if account not in subjects:
                continue
            for rule in self.objects.get("Role", binding["roleRef"]["name"])["rules"]:
                names = rule.get("resourceNames", [name])
                if "secrets" in rule["resources"] and verb in rule["verbs"] and name in names:
                    return True
        return False


def _handler(server: ApiServer) -> type[http.server.BaseHTTPRequestHandler]:
    prefix = f"/api/v1/namespaces/{server.objects.namespace}/secrets"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix(f"{prefix}/")
            if not server.allowed(self.headers["Authorization"], "get", name):
                return self._answer(403, {"reason": "Forbidden"})
            found = server.objects.find("Secret", name)
            return self._answer(200, found) if found else self._answer(404, {"reason": "NotFound"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            # A right to create cannot be bound to names.
            if self.path != prefix or not server.allowed(self.headers["Authorization"], "create", ""):
                return self._answer(403, {"reason": "Forbidden"})
            return (
                self._answer(201, body) if server.objects.add(body) else self._answer(409, {"reason": "AlreadyExists"})
            )

        def _answer(self, status: int, body: Any) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    return Handler


def _certificate(key: ec.EllipticCurvePrivateKey, address: str) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(NAME), x509.IPAddress(ipaddress.ip_address(address))])
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM)
