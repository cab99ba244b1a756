"""Keeps fewer rows on purpose: exactly as many as asked, in time order, with evidence of what was done."""

from __future__ import annotations

from typing import Literal

import numpy as np

from flts_ray.config import SamplingSettings, Section
from flts_ray.data.frame import RawFrame


class SamplingEvidence(Section):
    """What sampling did to one split of one series.

    Attributes:
        strategy: How the rows were chosen.
        requested: Rows asked for; 0 means all.
        source_rows: Rows before.
        kept_rows: Rows after: ``min(requested, source_rows)``, or all.
        seed: Seed of the random block.
        first_row: Where the kept block starts in the source, from 0.
    """

    strategy: Literal["head", "tail", "random"]
    requested: int
    source_rows: int
    kept_rows: int
    seed: int
    first_row: int

    @property
    def sampled(self) -> bool:
        """Whether rows were left out."""
        return self.kept_rows < self.source_rows


def sampling_evidence(source_rows: int, requested: int, settings: SamplingSettings) -> SamplingEvidence:
    """Choose the one contiguous block of rows to keep.

    Args:
        source_rows: Rows there are.
        requested: Rows wanted; 0, or more than there are, keeps all.
        settings: Strategy and seed.
    """
    kept = min(requested, source_rows) if requested else source_rows
    spare = source_rows - kept
    if settings.strategy == "head":
        first = 0
    elif settings.strategy == "tail":
        first = spare
    else:
        first = int(np.random.default_rng(settings.seed).integers(0, spare + 1))
    return SamplingEvidence(
        strategy=settings.strategy,
        requested=requested,
        source_rows=source_rows,
        kept_rows=kept,
        seed=settings.seed,
        first_row=first,
    )


def sample(frame: RawFrame, requested: int, settings: SamplingSettings) -> tuple[RawFrame, SamplingEvidence]:
    """Keep ``requested`` rows of a frame, as views, in time order; 0 keeps all."""
    evidence = sampling_evidence(len(frame), requested, settings)
    block = slice(evidence.first_row, evidence.first_row + evidence.kept_rows)
    kept = RawFrame(series=frame.series, time=frame.time[block], columns=frame.columns, values=frame.values[block])
    return kept, evidence
