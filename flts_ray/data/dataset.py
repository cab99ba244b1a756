"""A preprocessed dataset, loaded and verified: what training and evaluation start from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flts_ray.data.claims import CLAIM_FILE, DATASETS, Claim, SeriesRecord, SplitRecord, read_claim, read_split
from flts_ray.data.frame import RawFrame, SeriesFrame
from flts_ray.data.parquet import StoredRows, decode
from flts_ray.data.storage import Store
from flts_ray.data.transform import Transform


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Rows of every station as models read them, with the claim they were checked against.

    Attributes:
        claim: The claim check.
        raws: The rows of each station as reported, sorted by name; train rows first.
        frames: The same rows as models read them.
    """

    claim: Claim
    raws: tuple[RawFrame, ...]
    frames: tuple[SeriesFrame, ...]

    @property
    def dataset_id(self) -> str:
        """Identity of the data."""
        return self.claim.dataset_id

    @property
    def transforms(self) -> dict[str, Transform]:
        """The fitted transform of every station."""
        return {record.series: record.transform for record in self.claim.series}

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Feature columns in order."""
        return self.claim.feature_names

    @property
    def target_names(self) -> tuple[str, ...]:
        """Columns to forecast."""
        return self.claim.targets

    @property
    def target_unit(self) -> str:
        """Their unit."""
        return self.claim.target_unit

    @property
    def step_s(self) -> float:
        """Seconds between rows."""
        return self.claim.step_s


def load_dataset(store: Store, dataset_id: str, *, test: bool = True) -> Dataset:
    """Load a dataset after checking rows, bytes and SHA-256 of every file it reads.

    Args:
        store: Where datasets lie.
        dataset_id: Which one.
        test: Whether to read the test rows; if not, no test file is opened.

    Raises:
        DataError: If there is no such dataset.
        IntegrityError: If claim or files are not what was written.
        StorageError: If the store does not answer.
    """
    claim = read_claim(store, dataset_id)
    raws, frames = zip(*(_load(store, claim, record, test=test) for record in claim.series), strict=True)
    return Dataset(claim=claim, raws=raws, frames=frames)


def dataset_ids(store: Store) -> tuple[str, ...]:
    """Every finished dataset in the store, sorted."""
    paths = (path.split("/") for path in store.list(DATASETS))
    return tuple(sorted(parts[1] for parts in paths if len(parts) == 3 and parts[2] == CLAIM_FILE))


def _load(store: Store, claim: Claim, record: SeriesRecord, *, test: bool) -> tuple[RawFrame, SeriesFrame]:
    def rows_of(split: SplitRecord) -> StoredRows:
        content = read_split(store, claim.dataset_id, split)
        name = f"{split.path} of dataset {claim.dataset_id}"
        return decode(content, split.rows, record.transform.columns, claim.feature_names, name)

    parts = [rows_of(record.train), *([rows_of(record.test)] if test else [])]
    raw = RawFrame(
        series=record.series,
        time=np.concatenate([part.time for part in parts]),
        columns=record.transform.columns,
        values=np.concatenate([part.values for part in parts]),
    )
    features = np.concatenate([part.features for part in parts])
    return raw, record.transform.frame(raw, features, record.train.rows)
