"""What training looked like, small enough to travel in the model bundle: histograms of inputs, figures of errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field, ValidationError

from flts_ray.config import Section
from flts_ray.data.frame import FloatArray, IntArray, RawFrame, SeriesFrame, TimeArray
from flts_ray.data.scaling import ColumnScaler
from flts_ray.data.source import stamp
from flts_ray.data.transform import Transform
from flts_ray.drift.psi import DAY_PARTS, day_part, edges_of, histogram, matched, matched_psi
from flts_ray.drift.residuals import QUANTILES, mean_with_error
from flts_ray.errors import BundleError
from flts_ray.evaluation.backtest import Backtest

STRETCHES = (1, 2, 4, 8, 16, 32, 56)
"""Lengths of the stretches of training that are held against the rest of it, in parts of a day: 3 hours to a week."""

MIN_STRETCHES = 4
"""Disjoint stretches of one length that training must have before they say what is usual."""

MARGIN = 1.25
"""What comes may lie so much farther from training than the farthest of its own stretches."""


class ColumnSnapshot(Section):
    """The distribution of one raw column over the train rows, on the scale that the model reads.

    Attributes:
        scaler: From reported values to that scale.
        edges: Bounds between the bins; the last bin is that of missing values.
        counts: ``[part of the day][bin]`` rows.
        usual_rows: Lengths of stretches, in rows, increasing.
        usual_psi: Largest index that a stretch of that length showed against the rest of training.
    """

    scaler: ColumnScaler
    edges: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]
    usual_rows: tuple[int, ...] = ()
    usual_psi: tuple[float, ...] = ()

    @classmethod
    def of(cls, values: FloatArray, time: TimeArray, scaler: ColumnScaler, step_s: float) -> ColumnSnapshot:
        """Describe the train rows of one column.

        Args:
            values: ``(n,)`` as reported, NaN where missing.
            time: ``(n,)`` datetime64[ns].
            scaler: The model's scaler of this column.
            step_s: Seconds between rows.
        """
        z, part = scaler.forward(values), day_part(time)
        edges = np.asarray([_short(edge) for edge in edges_of(z)])
        counts = histogram(z, part, edges)
        rows = max(1, round(86_400 / DAY_PARTS / step_s))
        starts = range(0, len(z), rows)
        pieces = np.stack([histogram(z[s : s + rows], part[s : s + rows], edges) for s in starts])
        usual = [(rows * n, _largest(pieces, n)) for n in STRETCHES if len(pieces) >= MIN_STRETCHES * n]
        return cls(
            scaler=scaler,
            edges=tuple(edges.tolist()),
            counts=tuple(tuple(row) for row in counts.tolist()),
            usual_rows=tuple(n for n, _ in usual),
            usual_psi=tuple(round(value, 4) for _, value in usual),
        )

    def histogram(self, values: FloatArray, time: TimeArray) -> IntArray:
        """Reported values ``(n,)`` counted as :func:`flts_ray.drift.psi.histogram` does, in this column's bins."""
        return histogram(self.scaler.forward(values), day_part(time), np.asarray(self.edges))

    def psi(self, live: IntArray) -> float:
        """Index of live rows against training.

        Args:
            live: ``(DAY_PARTS, bins)`` rows from :meth:`histogram`, at least one.
        """
        return matched_psi(np.asarray(self.counts, dtype=np.int64), live)

    def shares(self, live: IntArray) -> FloatArray:
        """Share of training rows in each bin at the times of day of some live rows: ``(bins,)``."""
        rows = matched(np.asarray(self.counts, dtype=np.int64), live)
        return np.asarray(rows / rows.sum())

    def limit(self, rows: int) -> float:
        """The largest index that is usual for so many rows; 0 if unknown.

        ``MARGIN`` times what stretches of training that long showed; between the lengths that were tried it is
        interpolated over the logarithm of the rows.
        """
        if not self.usual_rows:
            return 0.0
        return MARGIN * float(np.interp(math.log(max(rows, 1)), np.log(self.usual_rows), self.usual_psi))


class ResidualSnapshot(Section):
    """Errors of one target and step on the validation tail of the train rows, on the model's scale.

    An error is scaled outcome minus scaled forecast.

    Attributes:
        rows: How many.
        mean: Their mean.
        mean_error: Standard error of the mean, autocorrelation taken into account.
        std: Standard deviation.
        spread: Mean distance from the median.
        spread_error: Standard error of ``spread``.
        quantiles: At the probabilities ``flts_ray.drift.residuals.QUANTILES``.
    """

    rows: int
    mean: float
    mean_error: float
    std: float
    spread: float
    spread_error: float
    quantiles: tuple[float, ...]

    @classmethod
    def of(cls, errors: FloatArray, step: int) -> ResidualSnapshot:
        """Describe the errors of one step, ``(n,)`` in time order, at least two, without NaN."""
        mean, mean_error = mean_with_error(errors, step)
        middle = np.median(errors)
        spread, spread_error = mean_with_error(np.abs(errors - middle), step)
        return cls(
            rows=len(errors),
            mean=_short(mean),
            mean_error=_short(mean_error),
            std=_short(float(errors.std())),
            spread=_short(spread),
            spread_error=_short(spread_error),
            quantiles=tuple(_short(q) for q in np.quantile(errors, QUANTILES)),
        )


class SeriesSnapshot(Section):
    """One station in training.

    Attributes:
        rows: Train rows.
        time_start: First timestamp.
        time_end: Last timestamp.
        columns: By raw column.
        residuals: By target, one a step; None where there were fewer than two outcomes. Empty without validation.
    """

    rows: int
    time_start: str
    time_end: str
    columns: dict[str, ColumnSnapshot]
    residuals: dict[str, tuple[ResidualSnapshot | None, ...]]


class Snapshot(Section):
    """What live rows are held against, by station; empty for a bundle that was made without one."""

    series: dict[str, SeriesSnapshot] = Field(default_factory=dict)

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Snapshot:
        """Take a snapshot from the manifest of a bundle.

        Raises:
            BundleError: If it is not what this program writes.
        """
        try:
            return cls.model_validate(dict(content))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise BundleError(
                f"the training snapshot in the bundle cannot be read ({where}: {first['msg']}): train and save the "
                "model again"
            ) from error


def take_snapshot(
    raws: Sequence[RawFrame],
    frames: Sequence[SeriesFrame],
    transforms: Mapping[str, Transform],
    validation: Mapping[str, Backtest],
) -> dict[str, Any]:
    """Describe the train rows and the validation errors of every station, as plain JSON values.

    Args:
        raws: Rows as reported, train rows first.
        frames: The same stations in the same order.
        transforms: By station.
        validation: Forecasts of the validation tail by station; a station may lack them.
    """
    series = {}
    for raw, frame in zip(raws, frames, strict=True):
        transform, train = transforms[frame.series], raw.head(frame.train_rows)
        test = validation.get(frame.series)
        series[frame.series] = SeriesSnapshot(
            rows=len(train),
            time_start=stamp(train.time[0]),
            time_end=stamp(train.time[-1]),
            columns={
                name: ColumnSnapshot.of(train.column(name), train.time, scaler, transform.step_s)
                for name, scaler in zip(transform.columns, transform.scalers, strict=True)
            },
            residuals={} if test is None else _residuals(test, transform),
        )
    return Snapshot(series=series).model_dump(mode="json")


def _residuals(test: Backtest, transform: Transform) -> dict[str, tuple[ResidualSnapshot | None, ...]]:
    found = {}
    for k, (target, scaler) in enumerate(zip(transform.targets, transform.target_scalers, strict=True)):
        errors = scaler.forward(test.observed[:, :, k]) - scaler.forward(test.predictions[:, :, k])
        known = [errors[np.isfinite(errors[:, h]), h] for h in range(errors.shape[1])]
        found[target] = tuple(ResidualSnapshot.of(e, h + 1) if len(e) > 1 else None for h, e in enumerate(known))
    return found


def _largest(pieces: IntArray, length: int) -> float:
    """Largest index of ``length`` neighbouring pieces against all others; stretches overlap by half."""
    total = pieces.sum(axis=0)
    starts = range(0, len(pieces) - length + 1, max(1, length // 2))
    stretches = [pieces[start : start + length].sum(axis=0) for start in starts]
    return max(matched_psi(total - stretch, stretch) for stretch in stretches)


def _short(value: float) -> float:
    return float(f"{value:.7g}")
