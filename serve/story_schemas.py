"""What the page is told besides forecasts, as models."""

from __future__ import annotations

from pydantic import Field

from flts_ray.data.claims import ColumnRecord
from flts_ray.evaluation.leaderboard import Leaderboard
from flts_ray.evaluation.promotion import Verdict
from serve.schemas import Described, ModelRef


class RowsSummary(Described):
    """One split of a station's rows; times are ISO 8601."""

    rows: int
    time_start: str
    time_end: str
    gaps: int = Field(description="Places where rows are missing.")
    rows_missing: int = Field(description="Rows that would fill all gaps.")
    missing_cells: int = Field(description="Cells without a value, all columns together.")


class Station(Described):
    """A station that the model forecasts; ``train`` and ``test`` are null where its dataset is out of reach."""

    series: str
    columns: tuple[ColumnRecord, ...]
    train: RowsSummary | None = None
    test: RowsSummary | None = None
    regime_breaks: tuple[str, ...] = Field((), description="Columns whose values changed between train and test.")


class Stations(Described):
    """What can be forecast, and what a forecast needs."""

    model: ModelRef
    targets: tuple[str, ...]
    unit: str
    step_s: float
    lookback: int = Field(description="Rows that a history must have at least.")
    context_rows: int = Field(description="Rows with which a forecast is what it would be with all of history.")
    direct_steps: int = Field(description="Steps that the model was trained for.")
    features: dict[str, tuple[str, ...]] = Field(description="What the model reads, by where it comes from.")
    max_horizon: int
    max_rows: int = Field(description="Longest history that can be sent.")
    created_at: str = Field(description="When the model was made, UTC.")
    stations: tuple[Station, ...]
    dataset_found: bool = Field(description="Whether the store holds the dataset that the model was trained on.")


class RecentRows(Described):
    """The latest rows of a station, in the form that a forecast takes."""

    series: str
    time: tuple[str, ...]
    columns: dict[str, tuple[float | None, ...]]
    test_from: int = Field(description="Position of the first row that the model was not trained on.")
    step_s: float
    zoned: bool = Field(description="Whether times are UTC; otherwise they are as reported, without a zone.")


class Story(Described):
    """How the model became the champion."""

    model: ModelRef
    run: str = Field(description="Name of the run that promoted it.")
    leaderboard: Leaderboard
    verdict: Verdict
