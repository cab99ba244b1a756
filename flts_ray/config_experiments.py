"""Settings of what looks beyond one fit: sweeps, backtests, explanations, and what leaves the process as telemetry."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from flts_ray.config_base import Names, Section, as_tuple

Scalar = bool | int | float | str


class SearchRange(Section):
    """The values that a sweep tries for one setting: either listed, or between two bounds."""

    values: tuple[Scalar, ...] = Field((), description="Values to choose from.")
    low: float | None = Field(None, description="Smallest value of a range.")
    high: float | None = Field(None, description="Largest value of a range.")
    log: bool = Field(False, description="Draw from the range on a logarithmic scale.")
    integer: bool = Field(False, description="Draw whole numbers from the range.")

    @model_validator(mode="after")
    def _one_kind(self) -> SearchRange:
        if self.values and (self.low is not None or self.high is not None):
            raise ValueError("give either values or low and high, not both")
        if not self.values:
            if self.low is None or self.high is None:
                raise ValueError("give values, or low and high")
            if not self.low < self.high:
                raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
            if self.log and self.low <= 0:
                raise ValueError(f"a logarithmic range starts above 0, not at {self.low:g}")
        return self


DEFAULT_SPACE = {
    "recurrent.hidden_size": SearchRange(values=(32, 64, 96, 128)),
    "recurrent.num_layers": SearchRange(values=(1, 2)),
    "training.batch_size": SearchRange(values=(64, 128, 256)),
    "training.learning_rate": SearchRange(low=1e-3, high=1e-2, log=True),
    "training.weight_decay": SearchRange(low=0.05, high=2.0, log=True),
    "windows.lookback": SearchRange(values=(10, 20, 30)),
}


class TuneSettings(Section):
    """The sweep: which settings of the networks are searched, how, and for how long. The test rows are never read."""

    trials: int = Field(20, ge=1, description="Combinations to try.")
    cells: Annotated[tuple[Literal["gru", "lstm"], ...], BeforeValidator(as_tuple)] = Field(
        ("gru", "lstm"), min_length=1, description="Networks to choose from."
    )
    space: dict[str, SearchRange] = Field(
        DEFAULT_SPACE, min_length=1, description="By setting (windows.lookback, recurrent.*, training.*), what to try."
    )
    start_from_settings: bool = Field(True, description="Try the settings as they are first, once a network.")
    grace_epochs: int = Field(2, ge=1, description="Epochs before a trial can be stopped for being worse.")
    reduction_factor: int = Field(3, ge=2, description="Of so many trials that reach a rung, one goes on (ASHA).")
    concurrent: int | None = Field(None, ge=1, description="Trials at once; empty: as many as fit the cluster.")
    deadline_s: float = Field(43_200.0, gt=0, description="Seconds the sweep may take.")


class BacktestSettings(Section):
    """Rolling-origin backtest: cuts of the training rows; each model is fitted before a cut and scored after it."""

    enabled: bool = Field(False, description="Backtest in every run, and show the table in its report.")
    windows: int = Field(3, ge=1, description="Cuts.")
    test_rows: int = Field(720, ge=1, description="Rows scored after each cut.")
    gap_rows: int = Field(0, ge=0, description="Rows left out between what is learnt from and what is scored.")
    mode: Literal["expanding", "sliding"] = Field(
        "expanding", description="expanding: learn from all rows before the cut; sliding: from the last train_rows."
    )
    train_rows: int = Field(0, ge=0, description="sliding: rows to learn from; 0: as many as the first cut has.")
    refit: bool = Field(True, description="Fit before every cut; if not, only before the first.")
    models: Names = Field((), description="Models to backtest; empty: every candidate and every baseline.")


class ExplainSettings(Section):
    """What the models look at."""

    enabled: bool = Field(False, description="Explain the candidates in the report.")
    windows: int = Field(2048, ge=16, description="Test windows, evenly spread, that explanations are taken from.")
    repeats: int = Field(3, ge=1, description="Shuffles of each feature and lag.")
    steps: int = Field(32, ge=8, description="Points on the path of the integrated gradients.")


class TelemetrySettings(Section):
    """What leaves the process, beside the log."""

    otlp_endpoint: str = Field("", description="URL of an OpenTelemetry collector (OTLP over HTTP); empty: no traces.")
    trace_fraction: float = Field(1.0, gt=0, le=1, description="Share of the traces of requests that is kept.")

    @field_validator("otlp_endpoint")
    @classmethod
    def _address(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError(f"{value!r} is no address of OTLP over HTTP: write it like http://collector:4318")
        return value
