"""What a run's report shows, as plain values: filled by the pipeline, rendered by :mod:`flts_ray.evaluation.report`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flts_ray.data.frame import FloatArray
from flts_ray.evaluation.plots import Forecast, LossCurve
from flts_ray.evaluation.report_sections import ReportSection


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One condition of the promotion.

    Attributes:
        name: What had to hold, in a few words.
        passed: Whether it held; None where it was not looked at.
        detail: The numbers behind it.
    """

    name: str
    passed: bool | None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictView:
    """How the run ended.

    Attributes:
        state: One word or two, such as ``promoted``, ``kept`` or ``no_winner``; ``promoted`` is shown green, ``kept``
            blue, anything else amber.
        headline: One sentence for an operator.
        champion: What is served now, such as ``gru, version 7``; empty if nothing is.
        reasons: Sentences with the numbers behind the decision.
        checks: The conditions, in the order they were looked at.
    """

    state: str
    headline: str
    champion: str = ""
    reasons: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """One model on the leaderboard.

    Attributes:
        model: Its kind.
        role: ``candidate``, ``baseline`` or ``incumbent``.
        scores: Numbers under the leaderboard's own names (``rmse_bits``, ``skill_vs_persistence``, …), None where
            undefined.
        candidate_id: Identity of a candidate; empty for a baseline.
        note: Why it has no scores, or anything worth saying.
    """

    model: str
    role: str
    scores: Mapping[str, float | None]
    candidate_id: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesForecast:
    """The winner's forecasts of one station (one target, one step ahead unless ``step`` says otherwise)."""

    series: str
    target: str
    model: str
    data: Forecast
    step: int = 1
    scores: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRow:
    """What was found in the rows of one station and split, before anything was repaired.

    Attributes:
        series: Station.
        split: ``train`` or ``test``.
        rows: Rows read.
        gaps: Places where rows are missing.
        irregular_steps: Steps of an odd length that are no gap.
        duplicates: Timestamps that stood twice.
        missing_values: Cells without a number.
        zeros: Rows in which a target is exactly zero.
        constant_columns: Columns with a single value.
        regime_break: A lasting change of level, in words; empty if none.
    """

    series: str
    split: str
    rows: int
    gaps: int = 0
    irregular_steps: int = 0
    duplicates: int = 0
    missing_values: int = 0
    zeros: int = 0
    constant_columns: tuple[str, ...] = ()
    regime_break: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRow:
    """Evidence of how many rows of one station and split were kept."""

    series: str
    split: str
    strategy: str
    requested: int
    source_rows: int
    kept_rows: int
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigRow:
    """One setting and where its value came from."""

    key: str
    value: str
    origin: str = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """One run.

    Attributes:
        identifier: What is forecast, such as ``PobleSec``.
        created: When the report was made, as shown.
        verdict: How the run ended.
        leaderboard: Models, best first.
        winner: Best candidate's model name; empty if none could be scored.
        coverage: Nominal coverage of the intervals.
        horizon: Steps forecast.
        step_s: Seconds of a step.
        unit: Unit of the scores named ``*_bits``.
        protocol: How the scores came about, in a sentence or two.
        forecasts: The winner's forecasts by station.
        hourly_error: Model to ``(24,)`` MAE by hour of day, in ``unit``.
        horizon_rmse: Model to ``(horizon,)`` RMSE, in ``unit``.
        losses: Training histories.
        sections: What stages add, in order.
        quality: Findings by station and split.
        dropped: Station to the reason it was left out.
        sampling: Evidence by station and split.
        config: Every setting.
        identities: Names and ids (run_id, dataset_id, config_hash, data_digest, candidate ids, …).
        versions: Code and libraries.
        timings: Stage to seconds.
    """

    identifier: str
    created: str
    verdict: VerdictView
    leaderboard: tuple[ScoreRow, ...]
    winner: str
    coverage: float
    horizon: int
    step_s: float
    unit: str = "bits"
    protocol: str = ""
    forecasts: tuple[SeriesForecast, ...] = ()
    hourly_error: Mapping[str, FloatArray] = field(default_factory=dict)
    horizon_rmse: Mapping[str, FloatArray] = field(default_factory=dict)
    losses: tuple[LossCurve, ...] = ()
    sections: tuple[ReportSection, ...] = ()
    quality: tuple[QualityRow, ...] = ()
    dropped: Mapping[str, str] = field(default_factory=dict)
    sampling: tuple[SamplingRow, ...] = ()
    config: tuple[ConfigRow, ...] = ()
    identities: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
