"""``GET /healthz``, ``/readyz`` and ``/v1/model``: how the replica is, and which model it holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from flts_ray.build import build_id
from serve.answers import model_entry
from serve.exchange import exchange_of
from serve.forecasting import current_model
from serve.problems import not_ready
from serve.service import LoadedModel, Service


class StatusHandlers:
    """Answers who asks after the replica.

    Args:
        service: The replica.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def health(self, request: Request) -> Response:
        """Alive, with or without a model."""
        return _json({"status": "ok", "replica": self._service.replica})

    async def ready(self, request: Request) -> Response:
        """Ready to forecast.

        Raises:
            Refusal: If there is no model yet, or the replica is about to end.
        """
        if self._service.draining:
            raise not_ready("this replica is about to end", self._service.settings.serve.retry_after_s)
        model = self._current(request)
        self._service.joining.heard()
        return _json({"state": "ready", "version": model.version})

    async def model(self, request: Request) -> Response:
        """The model that answers.

        Raises:
            Refusal: If there is none yet.
        """
        return _json(self._story(self._current(request)))

    def _current(self, request: Request) -> LoadedModel:
        model = current_model(self._service)
        exchange_of(request.scope).model_version = model.version
        return model

    def _story(self, model: LoadedModel) -> dict[str, Any]:
        manifest, previous = model.engine.bundle.manifest, self._service.models.previous
        return {
            "lookback": manifest.lookback,
            "horizon": manifest.horizon,
            "step_s": manifest.step_s,
            "targets": manifest.targets,
            "target_unit": manifest.target_unit,
            "features": manifest.feature_names,
            "runtime": model.engine.runtime,
            **model.details,
            **model_entry(model),
            "loaded_at": model.loaded_at,
            "replica": self._service.replica,
            "build_id": build_id(),
            "previous_version": "" if previous is None else previous.version,
            "status": asdict(self._service.models.status()),
        }


def _json(content: dict[str, Any]) -> Response:
    return Response(
        to_json(content, inf_nan_mode="null"), media_type="application/json", headers={"Cache-Control": "no-store"}
    )
