"""Creates the Secrets of a plan that are missing, and touches none that is there: ``make_secrets.py PLAN``.

Runs in a pod, with the rights of its service account. Says which Secrets it made, never what is in them.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
HEX_DIGITS = {"identity": 20, "secret": 40}
LABELS = {"app.kubernetes.io/part-of": "flts", "app.kubernetes.io/managed-by": "flts-make-secrets"}
TIMEOUT_S = 30.0

Plan = Mapping[str, Mapping[str, str]]
"""Name of a Secret, its keys, and of which kind each is."""


class SecretsError(Exception):
    """What went wrong, where, and what to do."""


@dataclass(frozen=True)
class Api:
    """The part of a Kubernetes API server that concerns Secrets of one namespace.

    Attributes:
        url: ``https://host:port``.
        namespace: Where the Secrets are.
        token: Of the service account.
        tls: What the server's certificate is checked against.
    """

    url: str
    namespace: str
    token: str = field(repr=False)
    tls: ssl.SSLContext | None = None

    def keys(self, name: str) -> set[str] | None:
        """Keys of a Secret; None if there is no such Secret."""
        found = self._ask("GET", f"/{name}", missing=404)
        return None if found is None else set(found.get("data") or {})

    def create(self, name: str, values: Mapping[str, str]) -> bool:
        """Create a Secret. False if it was there already, in which case it is as it was."""
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "labels": LABELS},
            "type": "Opaque",
            "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
        }
        return self._ask("POST", "", body, missing=409) is not None

    def _ask(self, method: str, path: str, body: object = None, *, missing: int) -> dict[str, Any] | None:
        """The server's answer; None if its status is the one that is expected besides success."""
        address = f"{self.url}/api/v1/namespaces/{self.namespace}/secrets{path}"
        request = urllib.request.Request(
            address,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=self.tls) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            with error:
                if error.code == missing:
                    return None
            # Its body is left out: the server may repeat what it was sent.
            raise SecretsError(
                f"{method} {address} was answered with {error.code} {error.reason}: "
                "does the Role flts-make-secrets name this Secret, and does an admission rule refuse it?"
            ) from None
        except OSError as error:
            raise SecretsError(
                f"{method} {address} failed ({error}): does a NetworkPolicy close the way to the API server?"
            ) from error


def api_of_this_pod(environ: Mapping[str, str], account: Path = ACCOUNT) -> Api:
    """The API server as the kubelet told this pod of it.

    Args:
        environ: Has the server's address.
        account: Folder with token, namespace and certificate.

    Raises:
        SecretsError: If this is no pod, or it was given no token.
    """
    try:
        host, port = environ["KUBERNETES_SERVICE_HOST"], environ["KUBERNETES_SERVICE_PORT"]
        token, namespace = ((account / name).read_text(encoding="utf-8").strip() for name in ("token", "namespace"))
        tls = ssl.create_default_context(cafile=str(account / "ca.crt"))
    except (KeyError, OSError) as error:
        raise SecretsError(
            f"the API server is not known here ({error!r}): run this in a pod with automountServiceAccountToken: true"
        ) from error
    host = f"[{host}]" if ":" in host else host
    return Api(url=f"https://{host}:{port}", namespace=namespace, token=token, tls=tls)


def read_plan(file: Path) -> Plan:
    """The plan of a file, checked whole before the first Secret is made.

    Raises:
        SecretsError: If it names a kind that is not known, or no key at all.
    """
    plan = yaml.safe_load(file.read_text(encoding="utf-8"))
    for name, kinds in plan.items():
        if not kinds:
            raise SecretsError(f"{file}: Secret {name} has no keys: name at least one")
        for key, kind in kinds.items():
            if kind not in HEX_DIGITS:
                raise SecretsError(f"{file}: {name}.{key} is of kind {kind!r}: use one of {', '.join(HEX_DIGITS)}")
    checked: Plan = plan
    return checked


def make_value(kind: str) -> str:
    """A new random value: hexadecimal, since it becomes part of addresses."""
    return secrets.token_hex(HEX_DIGITS[kind] // 2)


def make_missing(api: Api, plan: Plan) -> dict[str, str]:
    """Create what is missing.

    Returns:
        What became of each Secret: ``created`` or ``kept``.

    Raises:
        SecretsError: If a Secret that is there lacks a key. It is left so: whoever made it knows which value belongs.
    """
    outcome = {}
    lacking = []
    for name, kinds in plan.items():
        there = api.keys(name)
        if there is None and api.create(name, {key: make_value(kind) for key, kind in kinds.items()}):
            outcome[name] = "created"
            continue
        outcome[name] = "kept"
        # Somebody else may have made it between the two requests.
        there = api.keys(name) if there is None else there
        lacking += [f"{name}.{key}" for key in sorted(set(kinds) - (there or set()))]
    if lacking:
        raise SecretsError(
            f"Secrets in namespace {api.namespace} lack keys: {', '.join(lacking)}. "
            "Add them by kubectl patch secret, or delete the Secret to have it made anew"
        )
    return outcome


def main(arguments: list[str]) -> int:
    """Make what is missing, and say so.

    Returns:
        Exit status: 0 if every Secret of the plan is there.
    """
    try:
        (file,) = arguments
        outcome = make_missing(api_of_this_pod(os.environ), read_plan(Path(file)))
    except SecretsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for name, what in outcome.items():
        sys.stdout.write(f"{name}: {what}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
