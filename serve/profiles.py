"""How Ray Serve runs the one deployment: replicas, queues, health checks, draining."""

from __future__ import annotations

from typing import Any

from ray.serve.config import AutoscalingConfig, BackpressureConfig

from flts_ray.config_serving import ServeSettings


def deployment_options(settings: ServeSettings) -> dict[str, Any]:
    """Options of the one deployment."""
    most = settings.max_replicas or settings.replicas
    scaling: dict[str, Any] = {"num_replicas": settings.replicas}
    if most > settings.replicas:
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=settings.replicas,
                max_replicas=most,
                target_ongoing_requests=settings.target_ongoing_requests,
                upscale_delay_s=settings.upscale_delay_s,
                downscale_delay_s=settings.downscale_delay_s,
                look_back_period_s=max(settings.upscale_delay_s, 1.0),
            )
        }
    if settings.profile == "cluster":
        scaling["max_replicas_per_node"] = 1  # a node has one port for them
    return scaling | {
        "ray_actor_options": {"num_cpus": settings.cpus_per_replica},
        # Serve lets twice as many in as the replica takes, which refuses the rest itself: it knows what they weigh.
        "max_ongoing_requests": 2 * settings.max_ongoing_requests,
        "max_queued_requests": settings.max_queued_requests,
        "backpressure_config": BackpressureConfig(status_code=503, retry_after_s=settings.retry_after_s),
        "graceful_shutdown_timeout_s": settings.drain_s + settings.shutdown_s,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": 5,
        "health_check_timeout_s": 15,
        # A new version starts beside the old one, which goes when it answers, unless a node has only one port for both:
        # then one replica after the other is replaced in its place.
        "max_surge_percent": 0 if settings.own_port else 100,
        "logging_config": {"encoding": "JSON", "enable_access_log": False},  # ours says more
    }
