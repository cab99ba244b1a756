"""The promotion stage: rescore the incumbent, decide, and move the alias."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from flts_ray.candidates import FittedCandidate
from flts_ray.config import Settings
from flts_ray.data.dataset import Dataset
from flts_ray.data.frame import RawFrame, SeriesFrame
from flts_ray.data.locks import Held
from flts_ray.errors import DataError, FltsError, InfrastructureError, TrackingError
from flts_ray.evaluation.backtest_table import BacktestResult
from flts_ray.evaluation.promotion import Incumbent, Verdict, decide
from flts_ray.evaluation.promotion_by_series import together
from flts_ray.evaluation.stage import Evaluated, entry, leaderboard
from flts_ray.models.bundle import Bundle
from flts_ray.telemetry import tracing
from flts_ray.telemetry.logging import event
from flts_ray.tracking.registry import ChampionRef, ModelRegistry, check_identifier

Guard = Callable[[str], AbstractContextManager[Held]]
"""Makes a lock on promotions under one name; other runs that promote under it wait meanwhile."""

ROUNDS = 3
"""How often a decision is made anew because another run moved the alias meanwhile (from a store without our lock)."""


def identifier_of(dataset: Dataset, settings: Settings) -> str:
    """Name under which a champion is registered: as set, else the one station, else ``stations``."""
    if settings.identifier:
        return settings.identifier
    return dataset.frames[0].series if len(dataset.frames) == 1 else "stations"


def identifiers_of(dataset: Dataset, settings: Settings) -> dict[str, str]:
    """With ``promotion.scope`` series, the name under which each station's champion is registered, by station.

    It is the station's own, after the identifier and a hyphen if one is set.

    Raises:
        ConfigError: If one cannot name a model.
    """
    before = f"{settings.identifier}-" if settings.identifier else ""
    names = {frame.series: before + frame.series for frame in dataset.frames}
    for name in names.values():
        check_identifier(name)
    return names


def promote_each(
    dataset: Dataset,
    evaluated: Evaluated,
    fitted: Mapping[str, FittedCandidate],
    failures: Mapping[str, str],
    settings: Settings,
    *,
    registry: Callable[[str], ModelRegistry],
    run_ids: Mapping[str, str],
    guard: Guard,
    backtest: BacktestResult | None = None,
) -> Verdict:
    """Decide for each station on its own rows, and give each that has a winner a champion of its own.

    Args:
        dataset: What everything was scored on.
        evaluated: Scores, and whether each saved bundle works.
        fitted: Candidates by kind.
        failures: Why a candidate has no fit, by kind.
        settings: The whole configuration.
        registry: The registered models of an identifier.
        run_ids: Tracking run of each candidate; it must hold the bundle before this is called.
        guard: Locks an identifier while it is decided.
        backtest: What ``promotion.require_backtest`` looks at.

    Returns:
        A summary that has every station's verdict.

    Raises:
        ConfigError: If a station's name cannot name a model.
        TrackingError: If the store refused or did not answer, or others promote faster than this can decide.
    """
    bundles: dict[str, Bundle] = {}
    verdicts = {}
    for series, name in identifiers_of(dataset, settings).items():
        with guard(name) as held:
            verdict = promote(
                _alone(dataset, series),
                evaluated.of_series(series),
                fitted,
                failures,
                settings,
                registry=registry(name),
                run_ids=run_ids,
                before_move=held.check,
                backtest=backtest,
                bundles=bundles,
            )
        verdicts[series] = verdict.model_copy(update={"identifier": name})
    return together(verdicts)


def promote(
    dataset: Dataset,
    evaluated: Evaluated,
    fitted: Mapping[str, FittedCandidate],
    failures: Mapping[str, str],
    settings: Settings,
    *,
    registry: ModelRegistry,
    run_ids: Mapping[str, str],
    before_move: Callable[[], None] = lambda: None,
    backtest: BacktestResult | None = None,
    bundles: dict[str, Bundle] | None = None,
) -> Verdict:
    """Decide on this leaderboard and, if there is a new champion, register it and move the alias.

    Args:
        dataset: What everything was scored on.
        evaluated: Scores, and whether each saved bundle works.
        fitted: Candidates by kind.
        failures: Why a candidate has no fit, by kind.
        settings: The whole configuration.
        registry: Where the champion is.
        run_ids: Tracking run of each candidate; it must hold the bundle before this is called.
        before_move: Called right before the alias moves, to stop it by an error.
        backtest: What ``promotion.require_backtest`` looks at.
        bundles: Bundles of champions that were fetched already, by candidate; takes those fetched here.

    Raises:
        TrackingError: If the store refused or did not answer, or others promote faster than this can decide.
    """
    bundles = {} if bundles is None else bundles
    for _ in range(ROUNDS):
        champion = registry.champion()
        verdict = decide(
            evaluated.leaderboard,
            evaluated.checks,
            settings.promotion,
            expected=settings.candidates,
            failures=failures,
            sampled=dataset.claim.sampled,
            incumbent=None
            if champion is None
            else _rescored(champion, dataset, evaluated, settings, registry, bundles),
            lacking={model: found.failures for model, found in evaluated.entries.items()},
            backtest=backtest,
        )
        if verdict.state != "promoted" or verdict.champion is None:
            break
        name = fitted[verdict.champion].summary.candidate_id
        tags = {"kind": verdict.champion, "dataset_id": dataset.dataset_id, **tracing.tags()}
        version = registry.register(run_ids[verdict.champion], name, tags=tags)
        if registry.champion() == champion:
            before_move()
            registry.promote(version)
            break
        event("champion_changed", reason="another run promoted meanwhile: deciding again, against its champion")
    else:
        raise TrackingError(
            f"the champion of {registry.name} changed {ROUNDS} times while this run decided: run the same command again"
        )
    event(
        "promotion_decided",
        state=verdict.state,
        champion=verdict.champion,
        winner=verdict.winner,
        exit_code=verdict.exit_code,
    )
    return verdict


def _alone(dataset: Dataset, series: str) -> Dataset:
    """One station of a dataset, under the claim of the whole."""
    return replace(
        dataset,
        raws=tuple(raw for raw in dataset.raws if raw.series == series),
        frames=tuple(frame for frame in dataset.frames if frame.series == series),
    )


def _rescored(
    champion: ChampionRef,
    dataset: Dataset,
    evaluated: Evaluated,
    settings: Settings,
    registry: ModelRegistry,
    bundles: dict[str, Bundle],
) -> Incumbent:
    """The incumbent's composite on the rows that the candidates were scored on."""
    name, kind = champion.candidate_id, champion.tags.get("kind", "champion")
    for model, check in evaluated.checks.items():
        if check.candidate_id == name:
            row = evaluated.leaderboard.overall(model)
            composite, note = (row.composite, row.note) if row else (None, "")
            return Incumbent(candidate_id=name, model=model, composite=composite, reason="" if composite else note)
    try:
        if not name or name not in bundles:  # a version that someone else registered says no name
            with tempfile.TemporaryDirectory(prefix="flts-champion-") as folder:
                bundles[name] = Bundle.load(registry.download(champion.version, Path(folder)))
        composite = _composite(bundles[name], dataset, evaluated, settings)
        return Incumbent(candidate_id=name, model=kind, composite=composite)
    except InfrastructureError:
        raise  # the champion may be as good as ever: an outage must not dethrone it
    except FltsError as error:
        return Incumbent(candidate_id=name, model=kind, reason=str(error))


def _composite(bundle: Bundle, dataset: Dataset, evaluated: Evaluated, settings: Settings) -> float | None:
    """Score an older bundle through its own transform, at the origins of this leaderboard."""
    if (bundle.manifest.horizon, bundle.manifest.targets) != (settings.windows.horizon, dataset.target_names):
        raise DataError(
            f"it forecasts {bundle.manifest.horizon} steps of {', '.join(bundle.manifest.targets)}, this run "
            f"{settings.windows.horizon} of {', '.join(dataset.target_names)}"
        )
    frames = [_as_it_reads(bundle, raw, frame) for raw, frame in zip(dataset.raws, dataset.frames, strict=True)]
    for frame in frames:
        rows = evaluated.origins[frame.series]
        if len(rows) and rows[0] < bundle.manifest.lookback - 1:
            raise DataError(f"it reads {bundle.manifest.lookback} rows, more than precede the first forecast")
    scored = entry("incumbent", "candidate", bundle.forecaster, frames, evaluated.origins, {}, fit_s=None)
    row = leaderboard([*evaluated.entries.values(), scored], dataset, settings).overall("incumbent")
    return row.composite if row else None


def _as_it_reads(bundle: Bundle, raw: RawFrame, frame: SeriesFrame) -> SeriesFrame:
    transforms = bundle.manifest.transforms
    if raw.series not in transforms:
        raise DataError(f"it does not know series '{raw.series}', only {', '.join(transforms)}")
    return replace(transforms[raw.series].apply(raw, frame.train_rows), observed=frame.observed)
