"""Deploys the application again with a changed setting, as an operator of a running Ray would: a process of its own."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

POLL_S = 0.1


def main() -> None:
    """Connect to Ray, deploy, wait until the new replicas answer, print the seconds that it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True, help="host:port of Ray's GCS")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--identifier", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    import ray

    ray.init(address=given.address, log_to_driver=False, logging_level="warning")
    from ray import serve

    from flts_ray.config_layers import load_settings
    from serve.app import build
    from serve.running import APPLICATION

    settings = load_settings(assignments=given.set, options={"run.home": str(given.home)}, environ={}).settings
    before = _replicas(serve.status())
    started = time.monotonic()
    serve.run(build(settings, given.identifier), name=APPLICATION, blocking=False)
    while _replicas(serve.status()) & before or serve.status().applications[APPLICATION].status != "RUNNING":
        time.sleep(POLL_S)
    print(f"redeployed in {time.monotonic() - started:.2f} s")


def _replicas(status: object) -> set[str]:
    from ray.serve.context import _get_global_client

    details = _get_global_client().get_serve_details()
    return {
        replica["actor_id"]
        for application in details["applications"].values()
        for deployment in application["deployments"].values()
        for replica in deployment["replicas"]
    }


if __name__ == "__main__":
    main()
