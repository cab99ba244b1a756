"""Environment variables that somebody reads: by our own tables, by the text of installed packages, by image."""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

from flts_ray.config_layers import setting_fields
from flts_ray.env_names import FLTS_NAMES, LEGACY_NAMES, PREFIX

EVERYWHERE = frozenset(
    {
        *(
            "HOME",
            "PATH",
            "TMPDIR",
            "TZ",
            "LANG",
            "LC_ALL",
            "HOSTNAME",
            "MPLCONFIGDIR",
            "XDG_CACHE_HOME",
            "XDG_CONFIG_HOME",
        ),
        *("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONFAULTHANDLER", "PYTHONHASHSEED"),
        *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_ARENA_MAX", "LD_PRELOAD"),
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"),
        *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE", "AWS_EC2_METADATA_DISABLED"),
        *("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"),
        *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
        *(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_SERVICE_NAME",
            "OTEL_SDK_DISABLED",
        ),
        *("OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG", "TRACEPARENT"),
        *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "NCCL_SOCKET_IFNAME"),
        *("GLOO_SOCKET_IFNAME", "PGPASSWORD", "PGUSER", "PGHOST", "PGDATABASE"),
    }
)
"""Read by the C library, Python, PyTorch, the AWS SDKs, OpenTelemetry, CUDA, libpq."""

FAMILIES = (
    *("NCCL_", "PYTORCH_", "TORCH_", "CUDA_", "CUBLAS_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_", "GRPC_", "OTEL_"),
    *("AWS_", "PYTHON", "SSL_CERT_"),
)
"""Beginnings of names that libraries beneath ours read, too many to list: a typo in one is not seen."""

PROXIES = frozenset({"http_proxy", "https_proxy", "no_proxy"})

BY_IMAGE = {
    "minio": (
        r"MINIO_(API_\w+|ROOT_(USER|PASSWORD)(_FILE)?|BROWSER|PROMETHEUS_AUTH_TYPE|REGION_NAME|SERVER_URL|VOLUMES|OPTS)"
    ),
    "mc": r"MC_(HOST_\w+|CONFIG_DIR|QUIET|JSON|NO_COLOR|INSECURE)",
    "postgres": r"POSTGRES_((DB|USER|PASSWORD)(_FILE)?|INITDB_ARGS|INITDB_WALDIR|HOST_AUTH_METHOD)|PGDATA",
    "redis": r"REDISCLI_AUTH",
}
"""Last part of an image's name → what its entry point reads."""

PACKAGES = {"RAY": "ray", "MLFLOW": "mlflow"}
"""Beginning of a variable's name → the installed package whose text names those that it reads."""


def is_known(name: str, image: str) -> bool:
    """Whether somebody in a container of that image reads a variable of that name."""
    if name in EVERYWHERE or name in LEGACY_NAMES or name in PROXIES or name.startswith(FAMILIES):
        return True
    if name.startswith(PREFIX):
        return name in FLTS_NAMES or name in {PREFIX + key.upper().replace(".", "__") for key in setting_fields()}
    package = PACKAGES.get(name.partition("_")[0])
    if package is not None and name in _names_in(package):
        return True
    pattern = BY_IMAGE.get(re.split(r"[:@]", image.rpartition("/")[2])[0])
    return pattern is not None and re.fullmatch(pattern, name) is not None


@functools.cache
def _names_in(package: str) -> frozenset[str]:
    """Names in the source and the binaries of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return frozenset()
    root, pattern = Path(found.origin).parent, re.compile(rb"\b" + package.upper().encode() + rb"_[A-Za-z0-9_]{2,}")
    files = [*root.rglob("*.py"), *root.glob("*.so")]  # Ray's own configuration is in its shared object
    return frozenset(name.decode() for file in files for name in pattern.findall(file.read_bytes()))
