"""The Job that sets the object store up: its script, run with an ``mc`` that answers as the real one does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.manifests.renderings import KUBERAY

pytestmark = pytest.mark.manifests

SCRIPT = KUBERAY / "base" / "services" / "setup.sh"
KEYS = {
    "flts": {"AWS_ACCESS_KEY_ID": "f" * 20, "AWS_SECRET_ACCESS_KEY": "1" * 40},
    "mlflow": {"AWS_ACCESS_KEY_ID": "a" * 20, "AWS_SECRET_ACCESS_KEY": "2" * 40},
}

FAKE_MC = '''\
"""mc, as far as the script uses it: what the server holds is in a file; what it refuses exits with 1."""
import json, pathlib, sys
place = pathlib.Path(__file__).with_name("server.json")
state = json.loads(place.read_text())
state["arguments"].append(sys.argv[1:])
words = [word for word in sys.argv[1:] if word != "--json"]
failed = False
match words:
    case ["ready", "store"]:
        failed = state["starting"] > 0
        state["starting"] -= 1
    case ["mb", *flags, bucket]:
        failed = bucket in state["buckets"] and "--ignore-existing" not in flags
        state["buckets"] = sorted({*state["buckets"], bucket})
    case ["admin", "policy", "create", "store", name, file]:
        state["policies"][name] = json.loads(pathlib.Path(file).read_text())
    case ["admin", "user", "add", "store"]:
        name, secret = sys.stdin.read().splitlines()
        state["users"][name] = {**state["users"].get(name, {}), "secret": secret}
    case ["admin", "user", "info", "store", name]:
        user = state["users"][name]
        policy = {"policyName": user["policy"]} if "policy" in user else {}
        print(json.dumps({"status": "success", "accessKey": name, **policy}, indent=1))
    case ["admin", "policy", "attach", "store", policy, "--user", name]:
        failed = policy not in state["policies"] or state["users"][name].get("policy") == policy
        state["users"][name]["policy"] = policy
    case _:
        sys.exit(f"mc: unknown command {words}")
place.write_text(json.dumps(state))
sys.exit(failed)
'''


@dataclass
class Store:
    folder: Path

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "server.json").read_text())
        return found

    def write_keys(self, keys: dict[str, dict[str, str]]) -> None:
        for name, values in keys.items():
            (self.folder / "keys" / name).mkdir(parents=True, exist_ok=True)
            for key, value in values.items():
                (self.folder / "keys" / name / key).write_text(value)

    def set_up(self) -> subprocess.CompletedProcess[str]:
        """Run the script as the Job does, with its folders here."""
        text = SCRIPT.read_text(encoding="utf-8").replace("/tmp/", f"{self.folder}/tmp-")
        script = self.folder / "setup.sh"
        script.write_text(text.replace("/etc/keys", str(self.folder / "keys")))
        # Only a shell, mc and sleep, as in the image.
        return subprocess.run(
            [shutil.which("bash") or "bash", script],
            env={"PATH": str(self.folder / "bin")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tmp_path / "mc.py").write_text(FAKE_MC)
    (tools / "mc").write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path / "mc.py"} "$@"\n')
    (tools / "sleep").write_text("#!/bin/sh\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    fresh = {"starting": 2, "buckets": [], "policies": {}, "users": {}, "arguments": []}
    (tmp_path / "server.json").write_text(json.dumps(fresh))
    found = Store(tmp_path)
    found.write_keys(KEYS)
    return found


def test_each_key_reaches_its_own_bucket_and_no_other(store: Store) -> None:
    done = store.set_up()
    assert done.returncode == 0, done.stderr
    state = store.state
    assert state["buckets"] == ["store/flts", "store/mlflow"]
    for name, key in KEYS.items():
        assert state["users"][key["AWS_ACCESS_KEY_ID"]] == {"secret": key["AWS_SECRET_ACCESS_KEY"], "policy": name}
        statements = state["policies"][name]["Statement"]
        reached = {resource for statement in statements for resource in statement["Resource"]}
        assert reached == {f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"}
        allowed = {action for statement in statements for action in statement["Action"]}
        assert {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"} <= allowed
        assert not any("*" in action or "Policy" in action or action == "s3:DeleteBucket" for action in allowed)


def test_it_can_run_again(store: Store) -> None:
    assert store.set_up().returncode == 0
    before = {key: value for key, value in store.state.items() if key not in ("arguments", "starting")}
    done = store.set_up()
    assert done.returncode == 0, done.stdout + done.stderr
    assert {key: value for key, value in store.state.items() if key not in ("arguments", "starting")} == before


def test_a_secret_that_was_rotated_is_the_users_after_the_next_run(store: Store) -> None:
    assert store.set_up().returncode == 0
    store.write_keys({"flts": {**KEYS["flts"], "AWS_SECRET_ACCESS_KEY": "9" * 40}})
    assert store.set_up().returncode == 0
    assert store.state["users"]["f" * 20] == {"secret": "9" * 40, "policy": "flts"}


def test_secrets_are_neither_arguments_nor_printed(store: Store) -> None:
    done = store.set_up()
    seen = json.dumps(store.state["arguments"]) + done.stdout + done.stderr
    for key in KEYS.values():
        assert key["AWS_SECRET_ACCESS_KEY"] not in seen


def test_a_key_that_is_not_there_ends_it(store: Store) -> None:
    (store.folder / "keys" / "mlflow" / "AWS_SECRET_ACCESS_KEY").unlink()
    assert store.set_up().returncode != 0
    assert "a" * 20 not in store.state["users"]
