"""The stage that explains the candidates of a run, each as it was saved and on rows that it was scored on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from flts_ray.candidates import FittedCandidate
from flts_ray.config import Settings
from flts_ray.data.dataset import Dataset
from flts_ray.data.frame import IntArray
from flts_ray.errors import FltsError
from flts_ray.evaluation.leaderboard import RIDGE
from flts_ray.evaluation.stage import Evaluated, fit_baselines, yardstick
from flts_ray.explain.document import Attribution, Explanations, Importance, ProphetParts
from flts_ray.explain.gradients import attributions
from flts_ray.explain.inputs import chosen_windows, feature_groups
from flts_ray.explain.permutation import importance
from flts_ray.explain.prophet_parts import prophet_parts
from flts_ray.models.prophet import ProphetForecaster
from flts_ray.models.recurrent import RecurrentForecaster
from flts_ray.telemetry.logging import WARNING, event

MAX_PROPHET_SERIES = 3
"""Stations whose Prophet curves are taken apart."""


def explain(
    dataset: Dataset, fitted: Mapping[str, FittedCandidate], evaluated: Evaluated, settings: Settings
) -> Explanations:
    """Explain every candidate that was scored, beside ridge.

    A candidate that cannot be explained is named with its reason; the others go on.

    Args:
        dataset: Its test rows are looked at.
        fitted: Candidates by their name on the leaderboard.
        evaluated: Which of them work, and the rows that they forecast from.
        settings: The whole configuration.
    """
    asked = settings.explain
    windows = chosen_windows(dataset.frames, evaluated.origins, asked.windows, settings.windows.horizon)
    frames = {frame.series: frame for frame in dataset.frames}
    groups = feature_groups(settings.data.columns, dataset.target_names, settings.features)
    importances: list[Importance] = []
    gradients: list[Attribution] = []
    parts: list[ProphetParts] = []
    failures: dict[str, str] = {}

    def scored(name: str) -> dict[str, IntArray]:
        """The windows of the stations that a model could be scored on; the leaderboard says why of the others."""
        return {series: rows for series, rows in windows.items() if series in evaluated.entries[name].backtests}

    @contextmanager
    def failing_alone(name: str) -> Iterator[None]:
        try:
            yield
        except FltsError as error:
            failures[name] = str(error)
            event("explain_failed", level=WARNING, candidate=name, reason=str(error))

    for name, candidate in fitted.items():
        model, own = candidate.bundle.forecaster, scored(name)
        if not own:
            continue
        with failing_alone(name):
            if isinstance(model, ProphetForecaster):
                for series in list(own)[:MAX_PROPHET_SERIES]:
                    parts += prophet_parts(model, frames[series], own[series], dataset.target_names)
            else:
                importances.append(
                    importance(name, model, frames, own, groups, repeats=asked.repeats, seed=settings.seed)
                )
            if isinstance(model, RecurrentForecaster):
                columns, targets = dataset.feature_names, dataset.target_names
                gradients += attributions(
                    name, model, frames, own, features=columns, targets=targets, steps=asked.steps
                )
    if importances and (own := scored(RIDGE)):
        with failing_alone(RIDGE):
            importances.append(_ridge(dataset, own, settings))
    return Explanations(
        dataset_id=dataset.dataset_id,
        unit=dataset.target_unit,
        step_s=dataset.step_s,
        windows={series: len(rows) for series, rows in windows.items()},
        stations=len(dataset.frames),
        repeats=asked.repeats,
        steps=asked.steps,
        seed=settings.seed,
        importances=tuple(importances),
        attributions=tuple(gradients),
        prophet=tuple(parts),
        failures=failures,
    )


def _ridge(dataset: Dataset, windows: Mapping[str, IntArray], settings: Settings) -> Importance:
    """The peer, fitted as it is for the leaderboard, on the stations looked at only: it has one line for each."""
    looked_at = [i for i, frame in enumerate(dataset.frames) if frame.series in windows]
    few = replace(
        dataset,
        raws=tuple(dataset.raws[i] for i in looked_at),
        frames=tuple(dataset.frames[i] for i in looked_at),
    )
    baseline = fit_baselines(few, settings)[RIDGE]
    frames = {frame.series: frame for frame in baseline.frames}
    groups = feature_groups(settings.data.columns, dataset.target_names, yardstick(settings).features)
    return importance(
        RIDGE, baseline.model, frames, windows, groups, repeats=settings.explain.repeats, seed=settings.seed
    )
