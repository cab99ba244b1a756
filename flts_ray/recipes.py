"""Named sets of defaults: what a recipe sets stands between the built-in defaults and the user's file."""

from __future__ import annotations

import difflib
from typing import Any

from flts_ray.errors import UnknownRecipeError

RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "classic": {
        "cleaning.missing": "mean",
        "features.calendar": "cyclic",
        "features.scale_calendar": True,
        "features.ema_spans": (),
        "features.rolling_std": (),
        "features.profile": False,
        "scaling.scaler": "minmax",
        "windows.lookback": 10,
        "recurrent.hidden_size": 128,
        "recurrent.num_layers": 2,
        "recurrent.target": "level",
        "recurrent.loss": "mse",
        "training.epochs": 10,
        "training.batch_size": 64,
        "training.learning_rate": 1e-4,
        "training.schedule": "constant",
        "training.weight_decay": 0.0,
        "training.clip_norm": 1.0,
        "prophet.growth": "linear",
    },
}
"""``default``: log scale, change-from-last target, Huber loss, one small layer. ``classic``: the settings of the
pipeline this project replaces, on its 17 min-max scaled features."""


def recipe_settings(name: str) -> dict[str, Any]:
    """The dotted settings of a recipe.

    Raises:
        UnknownRecipeError: If there is none of that name.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UnknownRecipeError(f"there is no recipe '{name}': {hint}known recipes are {', '.join(RECIPES)}")
    return RECIPES[name]
