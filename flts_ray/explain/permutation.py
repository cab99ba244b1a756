"""Permutation importance: how much worse forecasts get when one input is taken from another window.

A model is asked through its one public method: the windows are laid one below the other as a frame of their own, in
which an input can be replaced without touching any other window. Every model gets the same windows and, of each
station, the same shuffles, so that numbers compare across models and inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flts_ray.data.frame import FloatArray, IntArray, SeriesFrame
from flts_ray.errors import DataError
from flts_ray.evaluation.backtest import BoolArray, outcomes
from flts_ray.explain.document import Importance, Increase
from flts_ray.models.base import Forecaster


@dataclass(frozen=True, slots=True)
class _Shuffle:
    """What is taken from another window: some columns of some rows, or the targets' last value."""

    rows: IntArray
    columns: IntArray
    last_value: bool = False


@dataclass(frozen=True, slots=True)
class _Windows:
    """The windows of one station as a frame of their own, ``lookback`` rows each, and what came after them."""

    frame: SeriesFrame
    lookback: int
    observed: FloatArray
    valid: BoolArray
    orders: tuple[IntArray, ...]

    @classmethod
    def of(cls, frame: SeriesFrame, origins: IntArray, model: Forecaster, orders: tuple[IntArray, ...]) -> _Windows:
        observed, valid = outcomes(frame, origins, model.horizon)
        rows = (origins[:, None] + np.arange(1 - model.lookback, 1)).ravel()
        laid = SeriesFrame(
            series=frame.series,
            time=frame.time[rows],
            features=frame.features[rows],
            targets=frame.targets[rows],
            observed=frame.observed[rows],
            segment=np.repeat(np.arange(len(origins)), model.lookback),
            train_rows=0,
        )
        return cls(laid, model.lookback, observed, valid, orders)

    def squares(self, model: Forecaster, frame: SeriesFrame) -> FloatArray:
        """Squared errors of the scored values, ``(n,)``."""
        made = model.predict(frame, np.arange(len(self.observed)) * self.lookback + self.lookback - 1)
        if not np.isfinite(made).all():
            raise DataError(f"{model.kind} forecasts values that are not finite numbers on series '{frame.series}'")
        squares: FloatArray = ((made - self.observed)[self.valid]) ** 2
        return squares

    def shuffled(self, what: _Shuffle, order: IntArray) -> SeriesFrame:
        """The frame with a part of window ``i`` taken from window ``order[i]``."""
        if what.last_value:
            targets = self.frame.targets.copy()
            targets[self.lookback - 1 :: self.lookback] = targets[self.lookback - 1 :: self.lookback][order]
            return replace(self.frame, targets=targets)
        windows = self.frame.features.reshape(len(order), self.lookback, -1)
        mixed = windows.copy()
        mixed[np.ix_(np.arange(len(order)), what.rows, what.columns)] = windows[np.ix_(order, what.rows, what.columns)]
        return replace(self.frame, features=mixed.reshape(self.frame.features.shape))


def importance(
    name: str,
    model: Forecaster,
    frames: Mapping[str, SeriesFrame],
    origins: Mapping[str, IntArray],
    groups: Mapping[str, IntArray],
    *,
    repeats: int,
    seed: int,
) -> Importance:
    """Shuffle each row of the history and each group of columns, and see how much the RMSE grows.

    Costs ``1 + repeats * (lookback + groups + 1)`` forecasts of every window.

    Args:
        name: The model's name on the leaderboard.
        model: Reads windows of ``frame.features`` and, maybe, the targets at the origin.
        frames: The stations, as the model reads them.
        origins: By station, the rows to forecast from; windows are shuffled within a station.
        groups: Columns by group.
        repeats: Shuffles of each.
        seed: Of the shuffles.

    Raises:
        DataError: If a forecast is not a finite number, or the model does not know a station.
    """
    orders = {
        series: tuple(np.random.default_rng([seed, repeat]).permutation(len(rows)) for repeat in range(repeats))
        for series, rows in origins.items()
    }
    parts = [_Windows.of(frames[series], rows, model, orders[series]) for series, rows in origins.items()]
    plain = [part.squares(model, part.frame) for part in parts]
    base, bases = _rmse(plain), [_rmse([squares]) for squares in plain]

    def tried(what: _Shuffle) -> tuple[Increase, FloatArray]:
        """Growth of the pooled RMSE, and as a share by station."""
        found = [[p.squares(model, p.shuffled(what, p.orders[k])) for p in parts] for k in range(repeats)]
        growth = [_rmse(squares) - base for squares in found]
        own = np.mean([[_rmse([s]) for s in squares] for squares in found], axis=0) - bases
        mean = float(np.mean(growth))
        grown = Increase(
            bits=mean,
            low_bits=min(growth),
            high_bits=max(growth),
            error_bits=_error(np.mean([np.concatenate(squares) for squares in found], axis=0), np.concatenate(plain)),
            share=_share(mean, base),
        )
        return grown, np.array([_share(more, least) for more, least in zip(own, bases, strict=True)])

    lookback, every = model.lookback, np.concatenate(list(groups.values()))
    lags = [_Shuffle(np.array([lookback - 1 - lag]), every) for lag in range(lookback)]
    by_feature = {g: tried(_Shuffle(np.arange(lookback), columns)) for g, columns in groups.items()}
    return Importance(
        model=name,
        windows=sum(len(rows) for rows in origins.values()),
        rmse_bits=base,
        last_value=tried(_Shuffle(every[:0], every[:0], last_value=True))[0],
        by_lag=tuple(tried(lag)[0] for lag in lags),
        by_feature={group: grown for group, (grown, _) in by_feature.items()},
        by_series={
            series: {group: float(shares[i]) for group, (_, shares) in by_feature.items()}
            for i, series in enumerate(origins)
            if len(origins) > 1
        },
    )


def _rmse(squares: Sequence[FloatArray]) -> float:
    return float(np.sqrt(np.concatenate(squares).mean()))


def _error(shuffled: FloatArray, plain: FloatArray) -> float:
    """Standard error of the difference of two RMSEs of the same values, by the delta method."""
    roots = np.sqrt(shuffled.mean()) + np.sqrt(plain.mean())
    return float(np.std(shuffled - plain) / np.sqrt(len(plain)) / roots) if roots > 0 else 0.0


def _share(growth: float, base: float) -> float:
    return growth / base if base > 0 else 0.0
