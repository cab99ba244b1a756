"""The profiles, as what Ray Serve reads from the environment. Knows no Ray: it is needed before Ray is imported."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from pathlib import Path

from flts_ray.config_layers import load_settings
from flts_ray.config_serving import ServeSettings

FIRST_PORT = "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"


def environment(settings: ServeSettings, *, scratch: Path | None = None) -> dict[str, str]:
    """What must stand in the environment before Ray starts, on every node.

    All profiles let each replica answer on its own port, since the Python proxy costs 8 to 14 ms of CPU a request.

    Args:
        settings: The service's.
        scratch: Folder for HAProxy's files, so that two services on one machine keep apart; a new one if None.
    """
    common = {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": f"{settings.drain_s:g}",
        "OMP_NUM_THREADS": "1",
    }
    if settings.own_port:
        # One port a node, free again as soon as its replica is gone: the address stays when the replica is replaced.
        return common | {
            FIRST_PORT: str(settings.port),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(settings.port + 1),  # not included
            "RAY_SERVE_PORT_QUARANTINE_S": "0",
        }
    folder = scratch or Path(tempfile.mkdtemp(prefix="flts-haproxy-"))
    return common | {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # A forecast changes nothing, so a request whose replica died, is full or has no model yet may go to another.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response 503",
        "RAY_SERVE_HAPROXY_RETRIES": "2",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(64 * 1024),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
    }


def has_own_port(settings: ServeSettings) -> bool:
    """Whether this process runs under the variables of one port a node: without them Ray Serve's proxy has the port."""
    return settings.own_port and os.environ.get(FIRST_PORT) == str(settings.port)


def main() -> None:
    """Print the variables as shell exports, for `eval` before `ray start`."""
    parser = argparse.ArgumentParser(prog="python -m serve.environment", description=__doc__)
    parser.add_argument("--config", type=Path, help="YAML file of settings.")
    parser.add_argument("--profile", help="local, cluster or throughput; default: as the settings say.")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="Set any setting.")
    arguments = parser.parse_args()
    options = {"serve.profile": arguments.profile}
    settings = load_settings(file=arguments.config, assignments=arguments.set, options=options).settings
    for name, value in environment(settings.serve, scratch=Path(tempfile.gettempdir(), "flts-haproxy")).items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")


if __name__ == "__main__":
    main()
