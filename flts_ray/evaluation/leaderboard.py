"""The leaderboard as it is stored, printed and judged; :mod:`flts_ray.evaluation.scoring` fills it."""

from __future__ import annotations

from typing import Literal

from flts_ray.config import Section

ALL = "*"
PERSISTENCE = "persistence"
RIDGE = "ridge"
NON_FINITE = "non-finite forecasts"
Role = Literal["baseline", "candidate"]


class StepScore(Section):
    """Scores of one step of the horizon; None where undefined."""

    step: int
    n: int
    rmse_bits: float | None = None
    mae_bits: float | None = None
    rmse_scaled: float | None = None
    mae_scaled: float | None = None
    skill: float | None = None
    coverage_90: float | None = None
    interval_width_bits: float | None = None
    coverage_min_250: float | None = None


class Row(Section):
    """Scores of one model for one series and target (``*``: pooled); None where undefined.

    ``coverage_90`` is the share of outcomes inside the intervals, whose nominal coverage stands in the protocol;
    ``interval_width_bits`` the mean of upper minus lower; ``coverage_min_250`` the lowest coverage of 250
    consecutive rows at any step. The p-values are those of Diebold-Mariano on squared error.
    """

    series: str
    target: str
    model: str
    role: Role
    n: int
    rmse_bits: float | None = None
    mae_bits: float | None = None
    mse_bits: float | None = None
    rmse_scaled: float | None = None
    mae_scaled: float | None = None
    mse_scaled: float | None = None
    r2: float | None = None
    mase: float | None = None
    composite: float | None = None
    skill_vs_persistence: float | None = None
    dm_p_vs_persistence: float | None = None
    dm_p_vs_ridge: float | None = None
    dm_p_abs_vs_persistence: float | None = None
    dm_p_abs_vs_ridge: float | None = None
    coverage_90: float | None = None
    interval_width_bits: float | None = None
    coverage_min_250: float | None = None
    fit_s: float | None = None
    predict_s: float | None = None
    note: str = ""
    by_step: tuple[StepScore, ...] = ()


class Protocol(Section):
    """How the scores came about."""

    description: str
    horizon: int
    target_unit: str
    targets: tuple[str, ...]
    coverage: float
    origins: dict[str, int]
    scored_from: dict[str, str]
    scored_to: dict[str, str]


class Leaderboard(Section):
    """All rows, pooled ones first, then by target and composite (lower first, unscored last)."""

    protocol: Protocol
    rows: tuple[Row, ...]

    def to_json(self) -> str:
        """Indented JSON without NaN."""
        return self.model_dump_json(indent=2)

    @property
    def overall_target(self) -> str:
        """The target of rows that rank: all together where there are several."""
        return self.protocol.targets[0] if len(self.protocol.targets) == 1 else ALL

    def overall(self, model: str) -> Row | None:
        """The row that ranks a model: pooled over series, and over targets where there are several."""
        return self.row(model, series=ALL, target=self.overall_target)

    def row(self, model: str, *, series: str, target: str) -> Row | None:
        """One row, or None."""
        matches = (r for r in self.rows if (r.model, r.series, r.target) == (model, series, target))
        return next(matches, None)

    def of_series(self, series: str) -> Leaderboard:
        """The board of one station alone: its rows, which then are the pooled ones too."""
        own = [row for row in self.rows if row.series == series]
        protocol = self.protocol.model_copy(
            update={
                name: {key: value for key, value in getattr(self.protocol, name).items() if key == series}
                for name in ("origins", "scored_from", "scored_to")
            }
        )
        pooled = [row.model_copy(update={"series": ALL}) for row in own]
        return Leaderboard(protocol=protocol, rows=(*pooled, *own))

    def models(self, role: Role) -> tuple[str, ...]:
        """Models of this role, best first."""
        return tuple(dict.fromkeys(r.model for r in self.rows if r.role == role))
