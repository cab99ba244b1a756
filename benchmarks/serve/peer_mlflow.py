"""Peer (b): an MLflow model from code, for ``mlflow models serve``. It reads ``inputs`` as arrays by column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from benchmarks.serve.peer import Answerer


class BundleModel(PythonModel):
    """Loads the bundle once and answers one history a call."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle."""
        config = context.model_config
        self._answerer = Answerer(
            Path(context.artifacts["bundle"]), version=config["version"], runtime=config["runtime"]
        )

    # Without type hints: MLflow takes them for a schema, and this schema it cannot express.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Forecast what follows the history."""
        columns = {name: np.asarray(v, dtype=np.float64) for name, v in model_input.items() if name != "time"}
        return self._answerer.answer(None, np.asarray(model_input["time"]).tolist(), columns)


set_model(BundleModel())
