"""The Job that makes Secrets, against an API server that answers as Kubernetes does."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import re
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kuberay.base.secrets import make_secrets
from kuberay.base.secrets.make_secrets import Api, SecretsError, api_of_this_pod, make_missing, read_plan
from tests.manifests.renderings import KUBERAY, rendering_of

pytestmark = pytest.mark.manifests

PLAN_FILE = KUBERAY / "base" / "secrets" / "plan.yaml"
PLAN = {"postgres": {"POSTGRES_PASSWORD": "secret"}, "flts-s3": {"ID": "identity", "KEY": "secret"}}
TOKEN = "token-of-the-account"


@dataclass
class Cluster:
    """Secrets of the namespace ``flts``, and who may do what.

    Attributes:
        secrets: Name to values, decoded.
        refuses: Methods that are answered with 403.
        races: Names that somebody else creates just before we do.
    """

    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    refuses: set[str] = field(default_factory=set)
    races: dict[str, dict[str, str]] = field(default_factory=dict)
    methods: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, token: str, body: Any) -> tuple[int, dict[str, Any]]:
        self.methods.append(method)
        if token != f"Bearer {TOKEN}":
            return 401, {}
        if method in self.refuses:
            return 403, {"message": f"forbidden, and what was sent was {body}"}
        prefix, _, name = path.partition("/api/v1/namespaces/flts/secrets")
        if prefix:
            return 404, {}
        if method == "GET":
            found = self.secrets.get(name.removeprefix("/"))
            return (404, {}) if found is None else (200, {"kind": "Secret", "data": dict.fromkeys(found, "eA==")})
        name = body["metadata"]["name"]
        self.secrets |= {name: self.races.pop(name)} if name in self.races else {}
        if name in self.secrets:
            return 409, {"reason": "AlreadyExists"}
        self.secrets[name] = {key: base64.b64decode(value).decode() for key, value in body["data"].items()}
        return 201, body


@dataclass
class Server:
    cluster: Cluster
    port: int
    certificate: bytes

    def account(self, folder: Path) -> Path:
        """What the kubelet mounts."""
        (folder / "token").write_text(TOKEN)
        (folder / "namespace").write_text("flts")
        (folder / "ca.crt").write_bytes(self.certificate)
        return folder

    @property
    def environ(self) -> dict[str, str]:
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.port)}


def self_signed() -> tuple[bytes, bytes]:
    """Certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(pem), private


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    cluster = Cluster()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, answer = cluster.answer(self.command, self.path, self.headers.get("Authorization", ""), body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    certificate, private = self_signed()
    pair = tmp_path / "server.pem"
    pair.write_bytes(certificate + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.socket = context.wrap_socket(http.socket, server_side=True)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield Server(cluster, http.server_address[1], certificate)
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture
def api(server: Server, tmp_path: Path) -> Api:
    return api_of_this_pod(server.environ, server.account(tmp_path))


def test_what_is_missing_is_made_of_hexadecimal_digits_and_what_is_there_stays(server: Server, api: Api) -> None:
    mine = {"POSTGRES_PASSWORD": "chosen-by-a-person"}
    server.cluster.secrets["postgres"] = dict(mine)
    assert make_missing(api, PLAN) == {"postgres": "kept", "flts-s3": "created"}
    assert server.cluster.secrets["postgres"] == mine
    made = server.cluster.secrets["flts-s3"]
    assert re.fullmatch(r"[0-9a-f]{20}", made["ID"])
    assert re.fullmatch(r"[0-9a-f]{40}", made["KEY"])


def test_a_second_run_changes_nothing_and_asks_for_no_right_to_change(server: Server, api: Api) -> None:
    make_missing(api, PLAN)
    before = json.dumps(server.cluster.secrets)
    assert set(make_missing(api, PLAN).values()) == {"kept"}
    assert json.dumps(server.cluster.secrets) == before
    assert set(server.cluster.methods) == {"GET", "POST"}


def test_no_two_values_are_alike(server: Server, api: Api) -> None:
    make_missing(api, read_plan(PLAN_FILE))
    values = [value for secret in server.cluster.secrets.values() for value in secret.values()]
    assert len(values) == len(set(values)) == sum(len(keys) for keys in read_plan(PLAN_FILE).values())


def test_a_secret_that_somebody_makes_at_the_same_moment_is_theirs(server: Server, api: Api) -> None:
    server.cluster.races["flts-s3"] = {"ID": "theirs", "KEY": "theirs"}
    assert make_missing(api, PLAN)["flts-s3"] == "kept"
    assert server.cluster.secrets["flts-s3"] == {"ID": "theirs", "KEY": "theirs"}


def test_a_secret_that_lacks_a_key_is_named_and_left_while_the_others_are_made(server: Server, api: Api) -> None:
    server.cluster.secrets["flts-s3"] = {"ID": "theirs"}
    with pytest.raises(SecretsError, match=r"flts-s3\.KEY.*kubectl patch"):
        make_missing(api, {"flts-s3": PLAN["flts-s3"], "postgres": PLAN["postgres"]})
    assert server.cluster.secrets["flts-s3"] == {"ID": "theirs"}
    assert set(server.cluster.secrets) == {"flts-s3", "postgres"}


def test_a_refusal_says_what_to_look_at_and_repeats_no_value(
    server: Server, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_secrets, "make_value", lambda kind: "planted-value")
    server.cluster.refuses = {"POST"}
    with pytest.raises(SecretsError, match=r"403.*Role flts-make-secrets") as caught:
        make_missing(api, PLAN)
    planted = base64.b64encode(b"planted-value").decode()
    assert planted not in str(caught.value)
    assert TOKEN not in str(caught.value) + repr(api)


def test_a_server_with_another_certificate_gets_no_token(server: Server, tmp_path: Path) -> None:
    account = server.account(tmp_path)
    (account / "ca.crt").write_bytes(self_signed()[0])
    with pytest.raises(SecretsError, match="CERTIFICATE_VERIFY_FAILED"):
        make_missing(api_of_this_pod(server.environ, account), PLAN)
    assert server.cluster.methods == []


def test_outside_of_a_pod_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(SecretsError, match="automountServiceAccountToken"):
        api_of_this_pod({}, tmp_path)


@pytest.mark.parametrize("plan", ["a: {b: password}", "a: {}"])
def test_a_plan_with_a_fault_makes_nothing(plan: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(f"good: {{key: secret}}\n{plan}\n")
    with pytest.raises(SecretsError, match=r"plan.yaml.*\ba\b"):
        read_plan(file)


def test_the_program_says_what_it_did_and_no_value(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make_secrets, "api_of_this_pod", lambda environ: api)
    api = api_of_this_pod(server.environ, server.account(tmp_path))
    assert make_secrets.main([str(PLAN_FILE)]) == 0
    said = "".join(capsys.readouterr())
    assert "postgres: created" in said
    assert not any(value in said for secret in server.cluster.secrets.values() for value in secret.values())
    del server.cluster.secrets["minio-root"]["MINIO_ROOT_USER"]
    assert make_secrets.main([str(PLAN_FILE)]) == 1
    assert "minio-root.MINIO_ROOT_USER" in capsys.readouterr().err


def test_the_role_allows_what_the_program_does_for_the_names_of_the_plan_and_nothing_else() -> None:
    (role,) = (found for found in rendering_of("dev").of("Role") if found.name == "flts-make-secrets")
    create, get = role.get("rules")
    assert create == {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]}
    assert get.pop("resourceNames") == list(read_plan(PLAN_FILE))
    assert get == {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}


def test_the_job_is_given_the_program_and_the_plan() -> None:
    (job,) = (found for found in rendering_of("dev").of("Job") if found.name == "flts-make-secrets")
    (config,) = (found for found in rendering_of("dev").of("ConfigMap") if found.name == "secret-plan")
    assert yaml.safe_load(config.get("data")["plan.yaml"]) == read_plan(PLAN_FILE)
    pod = job.get("spec.template.spec")
    (volume,) = pod["volumes"]
    assert volume["configMap"]["name"] == config.name
    (container,) = pod["containers"]
    (mount,) = container["volumeMounts"]
    given = {f"{mount['mountPath']}/{name}" for name in config.get("data")}
    assert set(container["command"][1:]) == given
