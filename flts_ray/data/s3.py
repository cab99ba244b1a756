"""The one place that opens S3: two clients of the same server, region, credentials and patience.

Credentials are never settings: both clients find them in the environment, as ``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY`` and ``AWS_SESSION_TOKEN`` or as the platform provides them.
"""

from __future__ import annotations

from typing import Any

from flts_ray.config import StorageSettings

ARROW_ATTEMPTS = 10
"""Most attempts of one pyarrow request."""


def s3fs_client(settings: StorageSettings) -> Any:
    """The s3fs file system of these settings: every request is tried once, and bounded.

    Who calls it tries again (:mod:`flts_ray.data.retries`); connections are shared in a process, since fsspec keeps
    one instance for equal arguments.
    """
    import s3fs

    timeout_s = request_timeout_s(settings)
    filesystem = s3fs.S3FileSystem(
        endpoint_url=settings.endpoint_url or None,
        client_kwargs={"region_name": settings.region},
        config_kwargs={
            "connect_timeout": min(timeout_s, 10.0),
            "read_timeout": timeout_s,
            "retries": {"mode": "standard", "total_max_attempts": 1},
            "s3": {"addressing_style": settings.addressing_style},
            # Checksum trailers, botocore's default, are refused by older S3-compatible servers.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
        use_listings_cache=False,
    )
    filesystem.retries = 1  # its own retries would multiply ours, and leave out a server that refuses connections
    return filesystem


def arrow_client(settings: StorageSettings) -> Any:
    """The pyarrow file system of these settings, for those who bring no retries of their own (Ray Train).

    Amazon's servers, which no endpoint stands for, are always addressed by virtual host here.
    """
    from pyarrow import fs

    scheme, _, host = settings.endpoint_url.rpartition("://")
    attempts, timeout_s = arrow_patience(settings)
    return fs.S3FileSystem(
        endpoint_override=host or None,
        scheme=scheme or "https",
        region=settings.region,
        force_virtual_addressing=settings.addressing_style == "virtual",
        connect_timeout=min(5.0, timeout_s),
        request_timeout=timeout_s,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
    )


def request_timeout_s(settings: StorageSettings) -> float:
    """Seconds of silence after which one request is given up."""
    return min(settings.timeout_s, settings.deadline_s)


def arrow_patience(settings: StorageSettings) -> tuple[int, float]:
    """Attempts and time-out of one pyarrow request, so that all of them fit into ``deadline_s``, waits included.

    The SDK waits ``random(0, 1) * 2^(n-1)`` s, at most 20 s, after attempt ``n`` (aws-sdk-cpp,
    ``StandardRetryStrategy``); the mean is what is counted. With the defaults a server may be away for 20 s.
    """
    timeout_s = min(settings.timeout_s, max(0.5, settings.deadline_s / 15))
    attempts, spent_s = 1, timeout_s
    while attempts < ARROW_ATTEMPTS:
        spent_s += min(2.0 ** (attempts - 1), 20.0) / 2 + timeout_s
        if spent_s > settings.deadline_s:
            break
        attempts += 1
    return attempts, timeout_s
