"""What is sent and what is answered, as models: the frame of requests is checked by them, the rest only described.

Histories are checked by :mod:`serve.questions` and :mod:`flts_ray.inference.history`, each for itself: a body can hold
more flaws than memory could hold errors of pydantic. Answers are written by :mod:`serve.answers` without these models,
because building them would cost more than the forecast; tests hold the two together.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, WithJsonSchema

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]

_TIME = {
    "anyOf": [{"type": "string"}, {"type": "number"}],
    "description": "ISO 8601 with or without a zone, all alike; or seconds since 1970 (UTC).",
}
_CELL = {"anyOf": [{"type": "number"}, {"type": "null"}]}

Columns = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "description": "Values by column name, in any order, in the unit of training; null is a missing value.",
            "properties": {"time": {"type": "array", "items": _TIME}},
            "required": ["time"],
            "additionalProperties": {"type": "array", "items": _CELL},
        }
    ),
]
Rows = Annotated[
    list[Any],
    WithJsonSchema(
        {
            "type": "array",
            "description": "Rows with the same columns, by name, in the unit of training; null is a missing value.",
            "items": {
                "type": "object",
                "properties": {"time": _TIME},
                "required": ["time"],
                "additionalProperties": _CELL,
            },
        }
    ),
]


class Sent(BaseModel):
    """Base of what clients send: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class History(Sent):
    """The latest rows of one station, by column or by row."""

    series: str | None = Field(None, max_length=200, description="Station; may be left out if the model has one.")
    columns: Columns | None = Field(None, description="The rows, column by column: smaller and faster.")
    rows: Rows | None = Field(None, description="The rows, one by one.")


class ForecastRequest(Sent):
    """What to forecast from: one history or several, and how far."""

    history: SkipValidation[History] | None = Field(None, description="One station's latest rows.")
    histories: list[SkipValidation[History]] | None = Field(
        None, min_length=1, description="Several; each is answered for itself."
    )
    horizon: int | None = Field(None, ge=1, strict=True, description="Steps to forecast; default: the model's own.")
    levels: list[Number] | None = Field(
        None, min_length=1, max_length=5, description="Coverages of the intervals, within (0.5, 0.999)."
    )
    adapt_rows: int | None = Field(
        None, ge=0, strict=True, description="Latest rows by whose outcomes the intervals adapt."
    )


class Described(BaseModel):
    """Base of what is answered."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ProblemItem(Described):
    """One thing that is wrong with a request."""

    field: str = Field(description="Where, as a path.", examples=["history.columns.down[3]"])
    reason: str = Field(description="What is wrong.", examples=["is not a finite number"])
    fix: str = Field(description="What to do about it.", examples=["send null for a missing value"])


class ProblemDocument(Described):
    """RFC 9457 problem details."""

    type: Literal["about:blank"] = "about:blank"
    title: str
    status: int
    detail: str
    problems: list[ProblemItem]
    request_id: str


class ModelRef(Described):
    """The model that answered."""

    name: str = Field(examples=["flts-PobleSec"])
    version: str = Field(examples=["7"])
    run_id: str
    dataset_id: str
    kind: str = Field(examples=["gru"])


class Interval(Described):
    """Bounds between which the value falls with a probability of ``level``; null where the model has none."""

    level: float
    lower: float | None
    upper: float | None


class ForecastStep(Described):
    """One target at one time."""

    step: int = Field(ge=1)
    time: str = Field(description="ISO 8601; with a zone if the history's times had one.")
    target: str
    value: float
    lower: float | None = Field(description="Of the first level.")
    upper: float | None = Field(description="Of the first level.")
    intervals: list[Interval]


class Warning_(Described):
    """Something about a forecast that its reader should know."""

    model_config = ConfigDict(title="Warning")

    code: str = Field(examples=["gaps_filled"])
    message: str


class SeriesForecast(Described):
    """The forecast of one history."""

    series: str
    origin: str = Field(description="Time of the last row; the first forecast is one step later.")
    step_s: float
    unit: str
    targets: list[str]
    direct_steps: int = Field(description="Steps that the model was trained for.")
    method: Literal["direct", "recursive"] = Field(
        description="recursive: the steps after direct_steps are forecast from forecasts."
    )
    steps: list[ForecastStep]
    warnings: list[Warning_]


class SeriesProblems(Described):
    """Why one of several histories has no forecast."""

    title: str
    problems: list[ProblemItem]


class SeriesError(Described):
    """One of several histories that has no forecast; the others have theirs."""

    series: str | None
    error: SeriesProblems


class ForecastResponse(Described):
    """The forecasts, in the order of the histories."""

    model: ModelRef
    forecasts: list[SeriesForecast | SeriesError]


_LEGACY_COLUMN = {"type": "array", "items": {"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "null"}]}}


class LegacyRequest(BaseModel):
    """What clients of the former service send. Fields that are not named here are ignored."""

    model_config = ConfigDict(frozen=True)

    inference_length: int = Field(1, ge=1, description="Steps to forecast.")
    data: Annotated[dict[str, Any], WithJsonSchema({"type": "object", "additionalProperties": _LEGACY_COLUMN})] = Field(
        description="Values by column name, one of which holds the times; columns the model does not know are ignored."
    )
    index_col: str | None = Field(
        None, description="Column of the times; default: the first of ts, timestamp, time, date that is there."
    )
    series: str | None = Field(None, max_length=200, description="Station; may be left out if the model has one.")


class LegacyResponse(Described):
    """The answer in the form of the former service."""

    status: Literal["SUCCESS"]
    identifier: str
    run_id: str
    predictions: list[dict[str, str | float | None]] = Field(
        description="Per step its time ts and every column; null in columns that are not forecast."
    )
    req_id: str
    cached: Literal[False]


class ModelStatus(Described):
    """How the replica stands with the registry."""

    state: Literal["waiting", "ready"]
    wanted: str = Field(description="Version that the alias names.")
    loaded: str = Field(description="Version that answers.")
    error: str = Field(description="Why these differ; empty if they do not.")
    checked_at: str
    swaps: int


class ModelStory(BaseModel):
    """The model that answers, where it comes from, how well it did; more fields than these may be there."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    version: str
    run_id: str
    dataset_id: str
    kind: str
    loaded_at: str
    replica: str = Field(description="Which replica answers: others may be at another version for a moment.")
    build_id: str = Field("", description="Image that this replica runs from; empty outside of one.")
    previous_version: str = Field(description="Loaded before it, and still at hand; empty if there is none.")
    status: ModelStatus
    lookback: int = Field(description="Rows that a history must have at least.")
    horizon: int = Field(description="Steps that the model was trained for.")
    step_s: float
    targets: list[str]
    target_unit: str
    features: list[str]
    runtime: str = Field(description="What computes the forecasts.")


class Health(Described):
    """The process is alive."""

    status: Literal["ok"]
    replica: str


class Ready(Described):
    """A model is loaded and tried."""

    state: Literal["ready"]
    version: str
