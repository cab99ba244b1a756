"""Settings of what comes after promotion: serving, the log of predictions, and drift."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from flts_ray.config_base import Names, Section


class ServeSettings(Section):
    """The HTTP service of the champion. A bearer token comes from FLTS_SERVE_TOKEN or FLTS_SERVE_TOKEN_FILE only."""

    profile: Literal["local", "cluster", "throughput"] = Field(
        "local",
        description="local: one replica answers on its own port. cluster: one on each of several nodes, behind a load "
        "balancer such as a Kubernetes Service. throughput: HAProxy in front of several. The last two bind every "
        "interface, so put a NetworkPolicy before them.",
    )
    host: str = Field("127.0.0.1", description="Address to bind in the local profile.")
    port: int = Field(8000, ge=1024, le=65535, description="Port of the service.")
    replicas: int = Field(1, ge=1, description="Replicas at start and at least.")
    max_replicas: int | None = Field(
        None, ge=1, description="Replicas at most, added by load; empty: as many as at start."
    )
    target_ongoing_requests: float = Field(
        16.0, gt=0, description="Requests in progress per replica that autoscaling aims at."
    )
    upscale_delay_s: float = Field(15.0, ge=0, description="Seconds of load before replicas are added.")
    downscale_delay_s: float = Field(300.0, ge=0, description="Seconds without load before replicas are removed.")
    cpus_per_replica: float = Field(1.0, gt=0, description="CPUs that one replica reserves.")
    max_ongoing_requests: int = Field(
        256, ge=1, description="Requests in progress in one replica; more are refused, and so is what would be late."
    )
    max_queued_requests: int = Field(256, ge=0, description="Requests that Ray Serve keeps waiting before a replica.")
    retry_after_s: float = Field(1.0, gt=0, description="What a refused client is told to wait.")
    max_batch_size: int = Field(32, ge=1, description="Requests computed together.")
    deadline_s: float = Field(10.0, gt=0, description="Seconds a request may take; a client can ask for less only.")
    drain_s: float = Field(2.0, ge=0, description="Seconds that a stopping replica stays open for late requests.")
    shutdown_s: float = Field(20.0, gt=0, description="Seconds that requests in progress have to end at shutdown.")
    max_body_bytes: int = Field(8 * 2**20, ge=1024, description="Largest request body.")
    max_rows: int = Field(20_000, ge=1, description="Longest history.")
    max_histories: int = Field(64, ge=1, description="Histories in one request.")
    max_horizon: int = Field(720, ge=1, description="Steps that can be asked for; beyond the trained ones: recursive.")
    interval_rows: int = Field(
        40, ge=0, description="Latest rows of a history by which its intervals adapt, unless the request says."
    )
    max_filled_rows: int = Field(3, ge=0, description="Missing rows in a row that are filled with the one before.")
    poll_s: float = Field(2.0, gt=0, description="Seconds between looks at the registry for a new champion.")
    runtime: Literal["auto", "onnx", "torch"] = Field(
        "auto", description="What computes a network: ONNX Runtime where it gives the same numbers, or PyTorch."
    )
    cors_origins: Names = Field((), description="Origins whose pages may call the service; none by default.")

    @model_validator(mode="after")
    def _room_for_the_replicas(self) -> ServeSettings:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError("max_replicas must not be below replicas")
        if self.profile == "local" and (self.max_replicas or self.replicas) > 1:
            raise ValueError("the local profile has one replica: choose profile 'cluster' or 'throughput' for more")
        return self

    @property
    def own_port(self) -> bool:
        """Whether clients come straight to a replica, on the one port of its node."""
        return self.profile != "throughput"

    @property
    def address(self) -> str:
        """The address that is bound: clients of a cluster come from other machines."""
        return self.host if self.profile == "local" else "0.0.0.0"


class PredictionLogSettings(Section):
    """What the service writes down about its answers, as Parquet under predictions/ in the store."""

    enabled: bool = Field(True, description="Keep a log of predictions.")
    flush_s: float = Field(30.0, gt=0, description="Seconds between segments.")
    segment_rows: int = Field(20_000, ge=1, description="Rows after which a segment is written at once.")
    buffer_rows: int = Field(100_000, ge=1, description="Rows kept while the store is away; more are lost and counted.")


class DriftSettings(Section):
    """When live inputs or errors count as different from those of training."""

    psi_warn: float = Field(0.1, gt=0, description="Population stability index from which a column is watched.")
    psi_alarm: float = Field(0.25, gt=0, description="Population stability index from which a column has drifted.")
    min_rows: int = Field(200, ge=20, description="Rows below which nothing is concluded.")
    significance: float = Field(0.01, gt=0, lt=1, description="Level of the tests on residuals.")
    window_rows: int = Field(5_000, ge=100, description="Latest rows that a replica's own drift figures rest on.")

    @model_validator(mode="after")
    def _warns_before_it_alarms(self) -> DriftSettings:
        if self.psi_warn > self.psi_alarm:
            raise ValueError("psi_warn must not be above psi_alarm")
        return self
