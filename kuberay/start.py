"""``python -m kuberay.start RAYJOB [-- ARGUMENT…]``: runs a RayJob of the tree, as often as it is asked.

A RayJob runs once, and to change the applied one (``suspend: false``) is undone by the next ``kubectl apply``, which
stops what runs. So the applied one is a template that stays as it is, and what runs is a copy under a name of its own,
as with ``kubectl create job --from=cronjob/…``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from flts_ray.errors import ConfigError, FltsError, InfrastructureError
from kuberay.lint.rules.jobs import SHELL
from kuberay.lint.rules.names import LONGEST

TIMEOUT_S = 60.0
STARTED_FROM = "flts.io/started-from"
SUFFIX = 6
"""A dash and five characters, which the API server adds to ``generateName``."""


def copy_of(job: dict[str, Any], arguments: Sequence[str] = ()) -> dict[str, Any]:
    """A RayJob that runs now, of one that is there.

    Args:
        job: The RayJob, as the API server shows it.
        arguments: Appended to its entrypoint.

    Raises:
        ConfigError: If an argument holds what the submitter's shell would read.
    """
    metadata, spec = job["metadata"], job["spec"]
    name = str(metadata["name"])[: LONGEST["RayJob"] - SUFFIX]
    for argument in arguments:
        if found := SHELL.search(argument):
            raise ConfigError(
                f"argument {argument!r} holds {found[0]!r}, which the submitter's shell would read: leave it out, "
                "or put the setting into kuberay/config/flts.yaml"
            )
    entrypoint = " ".join([str(spec["entrypoint"]), *map(shlex.quote, arguments)])
    own = {key: value for key, value in spec.items() if key != "jobId"}
    return {
        "apiVersion": job["apiVersion"],
        "kind": "RayJob",
        "metadata": {
            "generateName": f"{name}-",
            "namespace": metadata["namespace"],
            "labels": metadata.get("labels", {}),
            "annotations": {STARTED_FROM: metadata["name"]},
        },
        "spec": {**own, "entrypoint": entrypoint, "suspend": False},
    }


def kubectl(*arguments: str, given: str | None = None) -> str:
    """What kubectl answers.

    Raises:
        InfrastructureError: If it is not installed, refuses, or does not answer.
    """
    try:
        done = subprocess.run(
            ["kubectl", *arguments], input=given, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise InfrastructureError("kubectl is not on PATH: install it") from error
    except subprocess.TimeoutExpired as error:
        raise InfrastructureError(f"kubectl {arguments[0]} did not answer in {TIMEOUT_S:.0f} s") from error
    if done.returncode:
        raise InfrastructureError(f"kubectl {arguments[0]} failed: {done.stderr.strip() or 'it said nothing'}")
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Start a copy, and say its name: the only line on stdout."""
    parser = argparse.ArgumentParser(
        prog="python -m kuberay.start",
        usage="%(prog)s RAYJOB [--namespace NAMESPACE] [-- ARGUMENT…]",
        description=__doc__,
    )
    parser.add_argument("rayjob", help="Such as flts-pipeline, flts-train or flts-tune.")
    parser.add_argument("--namespace", help="Default: that of kubectl's context.")
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    given, more = parser.parse_args(words[:end]), words[end + 1 :]
    where = ("--namespace", given.namespace) if given.namespace else ()
    try:
        job = json.loads(kubectl("get", f"rayjob/{given.rayjob}", *where, "--output=json"))
        started = kubectl("create", *where, "--filename=-", "--output=name", given=json.dumps(copy_of(job, more)))
    except FltsError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    print(started.strip())  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
