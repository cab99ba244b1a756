"""The one transform of training and serving: cleaning, scaling, features; fitted on train rows, kept as JSON."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from flts_ray.config import FeatureSettings, ScalingSettings, Section, Settings
from flts_ray.data import features as feature_columns
from flts_ray.data.cleaning import Cleaner
from flts_ray.data.frame import Float32Array, FloatArray, RawFrame, SeriesFrame, TimeArray, segment_ids
from flts_ray.data.scaling import ColumnScaler
from flts_ray.errors import MissingColumnError

TRANSFORM_VERSION = 1
"""Changes whenever the same rows and settings would give other features; part of every dataset_id."""

FAR_Z = 6.0
"""Scaled values beyond this count as far from training. No ten test rows of the published stations hold one, and 0.3%
to 0.7% of the train windows do."""


class Transform(Section):
    """Turns the reports of one station into what models read.

    Attributes:
        columns: Raw columns, in order.
        targets: Columns to forecast.
        step_s: Seconds between rows.
        cleaner: Fill values and bounds.
        scalers: One a raw column.
        features: Which columns are derived.
        calendar_scalers: One a calendar column, or empty when these stay as they are.
        target_range: Train maximum minus minimum of each target, in its physical unit: one scaled unit.
    """

    columns: tuple[str, ...]
    targets: tuple[str, ...]
    step_s: float
    cleaner: Cleaner
    scalers: tuple[ColumnScaler, ...]
    features: FeatureSettings
    calendar_scalers: tuple[ColumnScaler, ...] = ()
    target_range: tuple[float, ...]

    @classmethod
    def fit(cls, train: RawFrame, settings: Settings, step_s: float) -> Transform:
        """Learn every constant from the training rows.

        Args:
            train: Training rows of one station; its columns are the settings' columns.
            settings: What to do.
            step_s: Seconds between rows.

        Raises:
            AllMissingError: If a column has no value.
            NegativeValueError: If a log scale meets a negative value.
        """
        cleaner = Cleaner.fit(train.values, train.columns, settings.cleaning)
        clean = cleaner.apply(train.values)
        scalers = tuple(
            ColumnScaler.fit(column, settings.scaling, name=name)
            for name, column in zip(train.columns, clean.T, strict=True)
        )
        calendar_scalers: tuple[ColumnScaler, ...] = ()
        if settings.features.scale_calendar:
            waves = feature_columns.calendar(train.time, settings.features.calendar)
            kind = settings.scaling.scaler
            flat = ScalingSettings(scaler="standard" if kind == "log" else kind)  # a sine has negative values
            calendar_scalers = tuple(ColumnScaler.fit(wave, flat, name="calendar") for wave in waves.T)
        targets = [train.columns.index(name) for name in settings.data.targets]
        spread = clean[:, targets].max(axis=0) - clean[:, targets].min(axis=0)
        return cls(
            columns=train.columns,
            targets=settings.data.targets,
            step_s=step_s,
            cleaner=cleaner,
            scalers=scalers,
            features=settings.features,
            calendar_scalers=calendar_scalers,
            target_range=tuple(float(s) or 1.0 for s in spread),
        )

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the feature columns, in order: raw, calendar, derived."""
        return (
            *self.columns,
            *feature_columns.calendar_names(self.features.calendar),
            *feature_columns.derived_names(self.columns, self.targets, self.features),
        )

    @property
    def target_scalers(self) -> tuple[ColumnScaler, ...]:
        """The scaler of each target: physical unit to model unit and back."""
        return tuple(self.scalers[self.columns.index(name)] for name in self.targets)

    @cached_property
    def far(self) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest value of each raw column, ``(n_columns,)``, within ``FAR_Z`` scales of its centre."""
        low, high = (
            np.array([math.inf * sign if s.kind == "none" else s.inverse(np.array(sign * FAR_Z)) for s in self.scalers])
            for sign in (-1, 1)
        )
        return low, high

    @property
    def context_rows(self) -> int:
        """Rows of history a feature row needs to be what it is in the stored dataset."""
        return feature_columns.context_rows(self.features, self.step_s)

    def apply(self, raw: RawFrame, train_rows: int) -> SeriesFrame:
        """Compute what models read. Row t depends on rows up to t only.

        Args:
            raw: ``n`` rows; columns may stand in any order and may be more than needed.
            train_rows: How many of them, from the start, are train rows.

        Raises:
            MissingColumnError: If a column is absent.
        """
        values = self._in_order(raw)
        clean = self.cleaner.apply(values)
        targets = clean[:, self._picked]
        z = _scale_in_place(clean, self.scalers)
        waves = _scale_in_place(feature_columns.calendar(raw.time, self.features.calendar), self.calendar_scalers)
        features = np.concatenate([z.T, waves.T, self._derived(z, raw).T], dtype=np.float32).T
        return self._frame(raw, values, targets, features, train_rows)

    def frame(self, raw: RawFrame, features: Float32Array, train_rows: int) -> SeriesFrame:
        """What :meth:`apply` gives, from features that it gave before: for rows read back from storage."""
        values = self._in_order(raw)
        targets = self.cleaner.apply(values)[:, self._picked]
        return self._frame(raw, values, targets, features, train_rows)

    def latest(self, values: FloatArray, time: TimeArray, rows: int) -> tuple[Float32Array, FloatArray]:
        """What :meth:`apply` gives for the latest rows of several gap-free histories, without computing the rest.

        Args:
            values: ``(q, n, len(columns))`` as reported, columns in the transform's order.
            time: ``(q, n)`` datetime64[ns], each row of it one step apart.
            rows: How many of the n.

        Returns:
            Features ``(q, rows, n_features)`` and targets ``(q, rows, n_targets)``.
        """
        first = values.shape[1] - rows
        clean = self.cleaner.apply(values)
        targets = clean[:, first:, self._picked]
        read = max(0, first - feature_columns.lagged_rows(self.features))  # rows before it: of the targets only
        for i, (name, scaler) in enumerate(zip(self.columns, self.scalers, strict=True)):
            column = clean[:, 0 if name in self.targets else read :, i]
            column[...] = scaler.forward(column)
        waves = feature_columns.calendar(time[:, first:].ravel(), self.features.calendar)
        waves = _scale_in_place(waves, self.calendar_scalers).reshape(len(values), rows, -1)
        extra = feature_columns.derived(clean, self.columns, self.targets, self.features, self.step_s, rows=rows)
        return np.concatenate([clean[:, first:], waves, extra], axis=2, dtype=np.float32), targets

    @property
    def _picked(self) -> list[int]:
        return [self.columns.index(name) for name in self.targets]

    def _frame(
        self, raw: RawFrame, values: FloatArray, targets: FloatArray, features: Float32Array, train_rows: int
    ) -> SeriesFrame:
        return SeriesFrame(
            series=raw.series,
            time=raw.time,
            features=features,
            targets=targets,
            observed=values[:, self._picked],
            segment=segment_ids(raw.time, self.step_s),
            train_rows=train_rows,
        )

    def _derived(self, z: FloatArray, raw: RawFrame) -> FloatArray:
        # Row distances must be distances in time: gaps are filled with the last value seen, then left out again.
        position = feature_columns.grid_positions(raw.time, self.step_s)
        if len(position) == 0 or position[-1] == len(position) - 1:
            return feature_columns.derived(z, self.columns, self.targets, self.features, self.step_s)
        rows = np.searchsorted(position, np.arange(position[-1] + 1), side="right") - 1
        columns = feature_columns.derived(z[rows], self.columns, self.targets, self.features, self.step_s)
        return columns[position]

    def _in_order(self, raw: RawFrame) -> FloatArray:
        if raw.columns == self.columns:
            return raw.values
        missing = [name for name in self.columns if name not in raw.columns]
        if missing:
            raise MissingColumnError(
                f"series '{raw.series}' lacks the column '{missing[0]}': send all of {', '.join(self.columns)}"
            )
        return raw.values[:, [raw.columns.index(name) for name in self.columns]]


def _scale_in_place(values: FloatArray, scalers: tuple[ColumnScaler, ...]) -> FloatArray:
    for i, scaler in enumerate(scalers):
        values[:, i] = scaler.forward(values[:, i])
    return values
