"""What the page tells besides forecasts: the stations, their recent rows, the leaderboard and the verdict.

The rows come from the dataset that the champion was trained on, in the object store; leaderboard and verdict from the
tracking store, where the champion itself comes from. Where either is out of reach the service still forecasts.
"""

from __future__ import annotations

import math
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from flts_ray.config import Settings
from flts_ray.data.claims import COLUMN_UNITS, Claim, ColumnRecord, SplitRecord, read_claim, read_split
from flts_ray.data.features import calendar_names
from flts_ray.data.frame import RawFrame, TimeArray
from flts_ray.data.parquet import decode
from flts_ray.data.storage import Store
from flts_ray.errors import DataError, FltsError, HistoryError, IntegrityError, Problem
from flts_ray.evaluation.leaderboard import Leaderboard
from flts_ray.evaluation.promotion import Verdict
from flts_ray.models.manifest import BundleManifest
from flts_ray.telemetry.logging import WARNING, event
from flts_ray.tracking.client import Gateway
from flts_ray.tracking.story import run_story
from serve.answers import model_entry
from serve.schemas import ModelRef
from serve.service import LoadedModel
from serve.story_schemas import RecentRows, RowsSummary, Station, Stations, Story

PATIENCE_S = 5.0
"""How long a page waits for a store that is down."""
LEADERBOARD_FILE, VERDICT_FILE = "leaderboard.json", "verdict.json"
CACHED_STATIONS = 8


class Stories:
    """Reads the stories of a service's models; every read may block for seconds. Thread-safe.

    Args:
        settings: Where the stores are.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        patience = settings.storage.model_copy(
            update={"deadline_s": PATIENCE_S, "timeout_s": min(PATIENCE_S, settings.storage.timeout_s)}
        )
        self._store = Store(settings.storage.root or settings.run.home, patience)
        self._claim = lru_cache(maxsize=2)(self._read_claim)
        self._rows = lru_cache(maxsize=CACHED_STATIONS)(self._read_rows)
        self._board = lru_cache(maxsize=2)(self._read_board)

    @cached_property
    def _gateway(self) -> Gateway:
        return Gateway(self._settings.tracking, Path(self._settings.run.home))

    def stations(self, model: LoadedModel) -> Stations:
        """The stations of a model. Without its dataset they are only named."""
        manifest = model.engine.bundle.manifest
        claim = None
        try:
            claim = self._claim(manifest.identity.dataset_id)
        except FltsError as error:
            event("story_unavailable", level=WARNING, error=error.name, reason=str(error))
        return Stations(
            model=ModelRef(**model_entry(model)),
            targets=manifest.targets,
            unit=manifest.target_unit,
            step_s=manifest.step_s,
            lookback=manifest.lookback,
            context_rows=model.engine.bundle.context_rows,
            direct_steps=manifest.horizon,
            features=_features(manifest),
            max_horizon=self._settings.serve.max_horizon,
            max_rows=self._settings.serve.max_rows,
            created_at=manifest.created_at,
            stations=tuple(_station(name, manifest, claim) for name in manifest.transforms),
            dataset_found=claim is not None,
        )

    def history(self, model: LoadedModel, series: str | None, rows: int) -> RecentRows:
        """The last rows of a station in the dataset of a model.

        Args:
            model: Whose dataset.
            series: Which station; may be None where there is one.
            rows: How many at most.

        Raises:
            HistoryError: If the model has no such station.
            DataError: If there is no such dataset.
            IntegrityError: If the dataset is damaged.
            StorageError: If the store does not answer.
        """
        manifest = model.engine.bundle.manifest
        known = tuple(manifest.transforms)
        if series is None and len(known) == 1:
            series = known[0]
        if series is None or series not in known:
            reason = "no series is named" if series is None else f"the model does not know the series '{series}'"
            raise HistoryError(Problem("series", reason, f"name one of {', '.join(known)}"))
        raw, test_rows, zoned = self._rows(manifest.identity.dataset_id, series)
        first = max(0, len(raw) - rows)
        values = raw.values[first:]
        return RecentRows(
            series=series,
            time=tuple(_texts(raw.time[first:], zoned)),
            columns={
                name: tuple(None if math.isnan(value) else value for value in column.tolist())
                for name, column in zip(raw.columns, values.T, strict=True)
            },
            test_from=max(0, len(values) - test_rows),
            step_s=manifest.step_s,
            zoned=zoned,
        )

    def story(self, model: LoadedModel) -> Story:
        """Leaderboard and verdict of the run that promoted a model.

        Raises:
            DataError: If that run left none.
            IntegrityError: If they cannot be read.
            TrackingError: If the tracking store does not answer.
        """
        run, leaderboard, verdict = self._board(model.run_id)
        return Story(model=ModelRef(**model_entry(model)), run=run, leaderboard=leaderboard, verdict=verdict)

    def _read_claim(self, dataset_id: str) -> Claim:
        return read_claim(self._store, dataset_id)

    def _read_rows(self, dataset_id: str, series: str) -> tuple[RawFrame, int, bool]:
        """The latest rows of a station, how many of them are test rows, and whether their times are UTC."""
        claim = self._claim(dataset_id)
        record = next((record for record in claim.series if record.series == series), None)
        if record is None:
            raise DataError(f"dataset {dataset_id} has no series '{series}': send its rows with the request")
        columns = record.transform.columns
        parts = [
            decode(read_split(self._store, dataset_id, split), split.rows, columns, (), split.path)
            for split in (record.train, record.test)
        ]
        most = self._settings.serve.max_rows
        raw = RawFrame(
            series=series,
            time=np.concatenate([part.time for part in parts])[-most:],
            columns=columns,
            values=np.concatenate([part.values for part in parts])[-most:],
        )
        zoned = any(source.time_zone for source in claim.sources if source.series in ("", series))
        return raw, min(record.test.rows, len(raw)), zoned

    def _read_board(self, run_id: str) -> tuple[str, Leaderboard, Verdict]:
        found = run_story(self._gateway, run_id, (LEADERBOARD_FILE, VERDICT_FILE))
        if found is None or not {LEADERBOARD_FILE, VERDICT_FILE} <= found.documents.keys():
            raise DataError(
                f"the run that made the model ({run_id}) left no leaderboard in the tracking store: if it has just "
                "promoted, ask again in a minute; a model that `flts run` did not register has none"
            )
        try:
            board = Leaderboard.model_validate_json(found.documents[LEADERBOARD_FILE])
            verdict = Verdict.model_validate_json(found.documents[VERDICT_FILE])
        except ValidationError as error:
            raise IntegrityError(
                f"the leaderboard or the verdict of run {found.name} is not what this version of the program reads: "
                "serve with the version that made it, or run again"
            ) from error
        return found.name, board, verdict


def _features(manifest: BundleManifest) -> dict[str, tuple[str, ...]]:
    """Names of the features, apart by where they come from; one transform is like the others in this."""
    transform = next(iter(manifest.transforms.values()))
    calendar = calendar_names(transform.features.calendar)
    rest = manifest.feature_names[len(transform.columns) + len(calendar) :]
    return {"as reported": transform.columns, "from the calendar": calendar, "from past values": rest}


def _station(name: str, manifest: BundleManifest, claim: Claim | None) -> Station:
    units = {column.name: column.unit for column in claim.columns} if claim else COLUMN_UNITS
    columns = tuple(ColumnRecord(name=c, unit=units.get(c, "")) for c in manifest.transforms[name].columns)
    record = next((record for record in claim.series if record.series == name), None) if claim else None
    if record is None:
        return Station(series=name, columns=columns)
    return Station(
        series=name,
        columns=columns,
        train=_summary(record.train),
        test=_summary(record.test),
        regime_breaks=record.regime_breaks,
    )


def _summary(split: SplitRecord) -> RowsSummary:
    quality = split.quality
    return RowsSummary(
        rows=split.rows,
        time_start=split.time_start,
        time_end=split.time_end,
        gaps=quality.gaps,
        rows_missing=quality.rows_missing,
        missing_cells=quality.missing_cells,
    )


def _texts(time: TimeArray, zoned: bool) -> list[str]:
    """Times as ISO 8601, to the second unless one of them has a fraction."""
    whole = bool((time == time.astype("datetime64[s]")).all())
    texts: list[str] = np.datetime_as_string(time, unit="s" if whole else "ns").tolist()
    return [f"{text}Z" for text in texts] if zoned else texts
