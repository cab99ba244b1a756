"""Are the reports there that a run is to read?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flts_ray.config import Settings, StorageSettings
from flts_ray.data.storage import expand
from flts_ray.doctor.findings import Check, Report
from flts_ray.doctor.storage import hasty

SPLITS = ("train", "test")


def source_checks(settings: Settings) -> list[Check]:
    """What to look at: the sources that are set. Without any there is nothing to say."""
    given = {split: getattr(settings.data, split) for split in SPLITS}
    return [
        Check(name=f"sources: {split}", place=", ".join(sources), run=_Sources(sources, hasty(settings.storage)))
        for split, sources in given.items()
        if sources
    ]


@dataclass(frozen=True, slots=True)
class _Sources:
    """Files, folders and globs of one split."""

    sources: Sequence[str]
    storage: StorageSettings

    def __call__(self, report: Report) -> None:
        files = expand(self.sources, self.storage)
        report.ok("1 file" if len(files) == 1 else f"{len(files)} files")
