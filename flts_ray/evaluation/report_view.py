"""Turns what the stages ended with into what the report shows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np

from flts_ray.candidates import FittedCandidate
from flts_ray.config_layers import Resolved
from flts_ray.data.claims import Claim
from flts_ray.data.dataset import Dataset
from flts_ray.data.frame import FloatArray
from flts_ray.evaluation.leaderboard import ALL, Leaderboard, Row
from flts_ray.evaluation.plots import Forecast, LossCurve, forecast_figure, loss_figure, to_png
from flts_ray.evaluation.promotion import Verdict
from flts_ray.evaluation.report_data import (
    Check,
    ConfigRow,
    QualityRow,
    ReportData,
    SamplingRow,
    ScoreRow,
    SeriesForecast,
    VerdictView,
)
from flts_ray.evaluation.report_sections import ReportSection
from flts_ray.evaluation.scoring import Entry
from flts_ray.evaluation.stage import Evaluated

HEADLINES = {
    "promoted": "{champion} is the new champion: it beats every baseline on rows it has not seen.",
    "kept": "{champion} stays champion.",
    "no_winner": "Nothing is promoted: no candidate beats the baselines.",
    "sampled": "Nothing is promoted: the models were trained on a sample of the rows.",
    "missing_candidate": "Nothing is promoted: a candidate has no result, so the comparison is incomplete.",
    "non_finite": "Nothing is promoted: a candidate forecast values that are not numbers.",
    "unloadable": "Nothing is promoted: a saved model could not be loaded again.",
}


def report_data(
    *,
    run_id: str,
    identifier: str,
    resolved: Resolved,
    dataset: Dataset,
    fitted: Mapping[str, FittedCandidate],
    evaluated: Evaluated,
    verdict: Verdict,
    timings: Mapping[str, float],
    sections: Sequence[ReportSection] = (),
) -> ReportData:
    """Everything the report of one run shows."""
    claim, board = dataset.claim, evaluated.leaderboard
    best = verdict.winner or verdict.best or ""
    return ReportData(
        identifier=identifier,
        created=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        verdict=_verdict_view(verdict, evaluated, best),
        leaderboard=_score_rows(board, fitted),
        winner=best,
        coverage=resolved.settings.evaluation.coverage,
        horizon=resolved.settings.windows.horizon,
        step_s=dataset.step_s,
        unit=dataset.target_unit,
        protocol=board.protocol.description,
        forecasts=_series_forecasts(evaluated.entries[best], dataset, board) if best else (),
        hourly_error={e.model: hourly_mae(e, dataset) for e in evaluated.entries.values() if _drawable(e)},
        horizon_rmse=_horizon_rmse(board),
        losses=tuple(loss_curve(kind, c.summary.history) for kind, c in fitted.items() if c.summary.history),
        sections=tuple(sections),
        quality=_quality_rows(claim),
        dropped={entry.series: entry.reason for entry in claim.dropped},
        sampling=_sampling_rows(claim),
        config=tuple(ConfigRow(key=key, value=str(value), origin=origin) for key, value, origin in resolved.rows()),
        identities={
            "run_id": run_id,
            "dataset_id": claim.dataset_id,
            "config_hash": claim.config_hash,
            "data_digest": claim.data_digest,
            "claim_digest": claim.digest(),
            **{f"candidate {kind}": c.summary.candidate_id for kind, c in fitted.items()},
        },
        versions={
            "flts-ray": claim.code_version,
            **{name: version(name) for name in ("ray", "torch", "prophet", "mlflow", "pyarrow", "numpy")},
        },
        timings=dict(timings),
    )


def loss_curve(kind: str, history: Sequence[Mapping[str, float]]) -> LossCurve:
    """The training history of one candidate, as drawn."""
    return LossCurve(
        model=kind,
        epoch=[int(metrics["epoch"]) for metrics in history],
        train_loss=[metrics["train_loss_scaled"] for metrics in history],
        val_rmse=[metrics["val_rmse_scaled"] for metrics in history],
    )


def loss_png(kind: str, history: Sequence[Mapping[str, float]]) -> bytes:
    """The loss curve as a picture."""
    return to_png(loss_figure([loss_curve(kind, history)]))


def forecast_png(entry: Entry, dataset: Dataset) -> bytes:
    """Forecast against actual of the first station that the model knows, as a picture."""
    return to_png(forecast_figure(one_step(entry, dataset, next(iter(entry.backtests)), 0)))


def one_step(entry: Entry, dataset: Dataset, series: str, target: int) -> Forecast:
    """One-step forecasts of one station and target, by the time they are for."""
    frame = next(f for f in dataset.frames if f.series == series)
    test, band = entry.backtests[series], entry.bands.get(series)
    rows = test.origins + 1
    in_test = rows >= frame.train_rows
    cell = np.s_[in_test, 0, target]
    return Forecast(
        time=frame.time[rows[in_test]],
        actual=test.observed[cell],
        forecast=test.predictions[cell],
        lower=None if band is None else band.lower[cell],
        upper=None if band is None else band.upper[cell],
        unit=dataset.target_unit,
        step_s=dataset.step_s,
    )


def hourly_mae(entry: Entry, dataset: Dataset) -> FloatArray:
    """Mean absolute one-step error by hour of day, over all stations and targets: ``(24,)``, NaN where no rows."""
    total, count = np.zeros(24), np.zeros(24)
    for frame in dataset.frames:
        test = entry.backtests[frame.series]
        hours = (frame.time[test.origins + 1].astype("datetime64[h]").astype(np.int64)) % 24
        errors, valid = np.abs(test.observed - test.predictions)[:, 0], test.valid[:, 0]
        for target in range(errors.shape[1]):
            known = valid[:, target]
            np.add.at(total, hours[known], errors[known, target])
            np.add.at(count, hours[known], 1)
    mean: FloatArray = np.divide(total, count, out=np.full(24, np.nan), where=count > 0)
    return mean


def _drawable(entry: Entry) -> bool:
    """Whether it can be drawn beside the others: finite forecasts of every station."""
    return bool(entry.backtests) and not entry.failures and all(test.finite for test in entry.backtests.values())


def _verdict_view(verdict: Verdict, evaluated: Evaluated, best: str) -> VerdictView:
    return VerdictView(
        state=verdict.state,
        headline=_headline(verdict),
        champion=verdict.champion or "",
        reasons=tuple(reason for reason in verdict.reasons if not reason.startswith(f"{best} beats ")),  # see checks
        checks=_checks(verdict, evaluated, best) if best else (),
    )


def _headline(verdict: Verdict) -> str:
    if not verdict.series:
        return HEADLINES[verdict.state].format(champion=(verdict.champion or "").upper())
    states = [found.state for found in verdict.series.values()]
    new, kept = states.count("promoted"), states.count("kept")
    return f"{new + kept} of {len(states)} stations have a champion of their own: {new} new, {kept} kept."


def _checks(verdict: Verdict, evaluated: Evaluated, best: str) -> tuple[Check, ...]:
    """What the best candidate had to show, each with its numbers."""
    board = evaluated.leaderboard
    mine = board.overall(best)
    if mine is None or mine.rmse_scaled is None:
        name = "finite forecasts" if mine is not None and mine.n else "a result for every station"
        return (Check(name=name, passed=False, detail=mine.note if mine else ""),)
    saved = evaluated.checks[best]
    found = [
        Check(name="finite forecasts", passed=True, detail=f"{mine.n:,} of them"),
        Check(name="saved model loads and forecasts the same", passed=saved.loadable, detail=saved.reason),
    ]
    for name in board.models("baseline"):
        theirs = board.overall(name)
        if theirs is None or theirs.rmse_scaled is None:
            found.append(Check(name=f"beats {name}", passed=None, detail=theirs.note if theirs else ""))
            continue
        detail = f"scaled RMSE {mine.rmse_scaled:.5f} against {theirs.rmse_scaled:.5f}"
        tests = [s for s in verdict.significance if (s.model, s.against) == (best, name) and s.p_value is not None]
        detail += "".join(f", p = {s.p_value:.2g}" for s in tests)
        found.append(Check(name=f"beats {name}", passed=mine.rmse_scaled < theirs.rmse_scaled, detail=detail))
    sampled = verdict.state == "sampled"
    found.append(Check(name="trained on all rows", passed=not sampled))
    return tuple(found)


def _score_rows(board: Leaderboard, fitted: Mapping[str, FittedCandidate]) -> tuple[ScoreRow, ...]:
    rows = [row for model in (*board.models("candidate"), *board.models("baseline")) if (row := board.overall(model))]
    rows.sort(key=lambda r: (r.composite is None, r.composite or 0.0))
    return tuple(
        ScoreRow(
            model=row.model,
            role=row.role,
            scores=_numbers(row),
            candidate_id=fitted[row.model].summary.candidate_id if row.model in fitted else "",
            note=row.note,
        )
        for row in rows
    )


def _numbers(row: Row) -> dict[str, float | None]:
    values = row.model_dump(exclude={"series", "target", "model", "role", "note", "by_step"})
    return {name: None if value is None else float(value) for name, value in values.items()}


def _first_step(row: Row) -> dict[str, float | None]:
    """Scores of the first step, which is what the plots show."""
    return (
        {**_numbers(row), **{k: v for k, v in row.by_step[0].model_dump().items() if k != "n"}} if row.by_step else {}
    )


def _series_forecasts(entry: Entry, dataset: Dataset, board: Leaderboard) -> tuple[SeriesForecast, ...]:
    shown = []
    for frame in dataset.frames:
        if frame.series not in entry.backtests or not entry.backtests[frame.series].finite:
            continue
        for k, target in enumerate(dataset.target_names):
            row = board.row(entry.model, series=frame.series, target=target)
            shown.append(
                SeriesForecast(
                    series=frame.series,
                    target=target,
                    model=entry.model,
                    data=one_step(entry, dataset, frame.series, k),
                    scores=_first_step(row) if row else {},
                )
            )
    return tuple(shown)


def _horizon_rmse(board: Leaderboard) -> dict[str, FloatArray]:
    if board.protocol.horizon == 1:
        return {}
    rows = [row for row in board.rows if row.series == ALL and row.target == board.protocol.targets[0] and row.by_step]
    return {row.model: np.array([np.nan if s.rmse_bits is None else s.rmse_bits for s in row.by_step]) for row in rows}


def _quality_rows(claim: Claim) -> tuple[QualityRow, ...]:
    rows = []
    for record in claim.series:
        for split, part in (("train", record.train), ("test", record.test)):
            quality = part.quality
            rows.append(
                QualityRow(
                    series=record.series,
                    split=split,
                    rows=quality.rows,
                    gaps=quality.gaps,
                    duplicates=quality.duplicates,
                    missing_values=quality.missing_cells,
                    zeros=sum(quality.zeros.get(target, 0) for target in claim.targets),
                    constant_columns=quality.constant_columns,
                    regime_break=", ".join(record.regime_breaks) if split == "test" else "",
                )
            )
    return tuple(rows)


def _sampling_rows(claim: Claim) -> tuple[SamplingRow, ...]:
    return tuple(
        SamplingRow(
            series=record.series,
            split=split,
            strategy=part.sampling.strategy,
            requested=part.sampling.requested,
            source_rows=part.sampling.source_rows,
            kept_rows=part.sampling.kept_rows,
            seed=part.sampling.seed,
        )
        for record in claim.series
        for split, part in (("train", record.train), ("test", record.test))
    )
