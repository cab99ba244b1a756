"""From what was sent to what the model is asked: every history for itself, every flaw with its place and its cure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from flts_ray.config_serving import ServeSettings
from flts_ray.errors import HistoryError, Problem
from flts_ray.inference.engine import Engine
from flts_ray.inference.history import read_history
from flts_ray.inference.queries import Query
from serve.bodies import parse
from serve.problems import Refusal, combined, invalid, problems_of
from serve.schemas import ForecastRequest, History

LOWEST_LEVEL, HIGHEST_LEVEL = 0.5, 0.999
MOST_COLUMNS = 1000
"""Columns of one history that are looked at: each unknown one is a problem of its own."""


@dataclass(frozen=True, slots=True)
class Question:
    """A history that the model can read.

    Attributes:
        query: What is asked of the model.
        offset_s: Seconds east of UTC in which times are answered; None: without a zone.
        field: Path of the history in the request.
    """

    query: Query
    offset_s: int | None
    field: str

    @property
    def series(self) -> str | None:
        """Station of the history."""
        return self.query.history.series


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A history that it cannot, and why; ``series`` as it was named, if it was."""

    series: str | None
    refusal: Refusal
    offset_s: None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of every history of a request."""

    horizon: int
    levels: tuple[float, ...]
    adapt_rows: int


def read_questions(body: bytes, engine: Engine, settings: ServeSettings) -> list[Question | Unreadable]:
    """Read the body of ``POST /v1/forecast``.

    Args:
        body: JSON.
        engine: What will answer.
        settings: Limits and defaults.

    Returns:
        One entry a history, in order; at least one is a question.

    Raises:
        Refusal: If nothing can be answered.
    """
    request = parse(ForecastRequest, body)
    sent, problems = _histories(request, settings)
    wanted = _wanted(request, engine, settings, problems)
    if problems:
        raise invalid(problems)
    read = [_read(history, field, wanted, engine, settings) for field, history in sent]
    refusals = [entry.refusal for entry in read if isinstance(entry, Unreadable)]
    if len(refusals) == len(read):
        raise combined(refusals)
    return read


def check_horizon(horizon: int, field: str, settings: ServeSettings) -> list[Problem]:
    """The problem with a number of steps, if there is one."""
    if 1 <= horizon <= settings.max_horizon:
        return []
    return [Problem(field, f"{horizon} steps cannot be forecast", f"ask for 1 to {settings.max_horizon}")]


def _histories(request: ForecastRequest, settings: ServeSettings) -> tuple[list[tuple[str, Any]], list[Problem]]:
    """The histories with their paths."""
    if (request.history is None) == (request.histories is None):
        both = "both are there" if request.history is not None else "neither is there"
        return [], [Problem("history", f"of history and histories, {both}", "send exactly one of them")]
    if request.histories is None:
        return [("history", request.history)], []
    if len(request.histories) > settings.max_histories:
        fix = f"send {settings.max_histories} at most, and the rest in another request"
        return [], [Problem("histories", f"there are {len(request.histories)} of them", fix)]
    return [(f"histories[{i}]", history) for i, history in enumerate(request.histories)], []


def _wanted(request: ForecastRequest, engine: Engine, settings: ServeSettings, problems: list[Problem]) -> Wanted:
    """What is wanted of all histories; adds to the problems."""
    horizon = engine.bundle.manifest.horizon if request.horizon is None else request.horizon
    problems += check_horizon(horizon, "horizon", settings)
    levels = engine.levels if request.levels is None else tuple(request.levels)
    for i, level in enumerate(request.levels or ()):
        if not LOWEST_LEVEL < level < HIGHEST_LEVEL:
            fix = f"ask for a level between {LOWEST_LEVEL} and {HIGHEST_LEVEL}, such as 0.9"
            problems.append(Problem(f"levels[{i}]", f"{level:g} is not a coverage that can be had", fix))
        elif level in levels[:i]:
            problems.append(Problem(f"levels[{i}]", f"{level:g} is there twice", "ask for each level once"))
    adapt_rows = settings.interval_rows if request.adapt_rows is None else request.adapt_rows
    if adapt_rows > settings.max_rows:
        reason = f"intervals cannot adapt by {adapt_rows} rows"
        problems.append(Problem("adapt_rows", reason, f"ask for 0 to {settings.max_rows}"))
    return Wanted(horizon, levels, adapt_rows)


def _read(sent: Any, field: str, wanted: Wanted, engine: Engine, settings: ServeSettings) -> Question | Unreadable:
    series = sent.get("series") if isinstance(sent, dict) else None
    try:
        columns, form = _columns(sent, field)
        checked = read_history(
            engine.bundle.manifest,
            series=series,
            time=columns.pop("time"),
            columns=columns,
            settings=settings,
            field=field,
            form=form,
        )
    except HistoryError as error:
        return Unreadable(series if isinstance(series, str) else None, invalid(error.problems))
    query = Query(
        history=checked.frame,
        horizon=wanted.horizon,
        levels=wanted.levels,
        adapt_rows=wanted.adapt_rows,
        notices=checked.notices,
    )
    return Question(query, checked.offset_s, field)


def _columns(sent: Any, field: str) -> tuple[dict[str, Any], Literal["columns", "rows"]]:
    """The columns of a history in either form, ``time`` among them.

    Raises:
        HistoryError: If it is not of that form.
    """
    try:
        history = History.model_validate(sent)
    except ValidationError as error:
        raise HistoryError(*problems_of(error.errors(include_url=False, include_input=False), field)) from None
    if (history.columns is None) == (history.rows is None):
        both = "both are there" if history.columns is not None else "neither is there"
        raise HistoryError(Problem(field, f"of columns and rows, {both}", "send exactly one of them"))
    if history.rows is not None:
        return _pivoted(history.rows, f"{field}.rows"), "rows"
    columns = dict(history.columns or {})
    _check_names(columns, f"{field}.columns")
    problems = [
        Problem(f"{field}.columns.{name}", "is not a list", "send a list with one value, or null, per time")
        for name, values in columns.items()
        if not isinstance(values, list)
    ]
    if problems:
        raise HistoryError(*problems)
    return columns, "columns"


def _pivoted(rows: Sequence[Any], field: str) -> dict[str, Any]:
    """Rows as columns."""
    if not rows:
        raise HistoryError(Problem(field, "there are no rows", "send the latest rows of the station"))
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise HistoryError(Problem(f"{field}[{i}]", "is not an object", "send the time and each column by name"))
        if row.keys() != rows[0].keys():
            names = ", ".join(sorted(row.keys() ^ rows[0].keys())[:5])
            fix = "send the same columns in every row; null is a missing value"
            raise HistoryError(Problem(f"{field}[{i}]", f"differs from the first row in {names}", fix))
    _check_names(rows[0], field)
    return {name: [row[name] for row in rows] for name in rows[0]}


def _check_names(names: Collection[str], field: str) -> None:
    if len(names) > MOST_COLUMNS:
        raise HistoryError(Problem(field, f"there are {len(names)} columns", "send those that the model reads"))
    if "time" not in names:
        raise HistoryError(Problem(f"{field}.time", "is required", "add the times of the rows"))
