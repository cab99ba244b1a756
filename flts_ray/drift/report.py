"""``flts drift``: the log of the service against the training of its champion.

verdict   exit code   meaning
ok                0   nothing that was looked at has drifted
few               0   too few rows to tell
drift            35   the inputs or the errors of some station are no longer those of training
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flts_ray.config import Settings
from flts_ray.config_serving import DriftSettings
from flts_ray.data.storage import open_store
from flts_ray.drift.findings import Findings, Verdict, judge
from flts_ray.drift.live import read_live, read_truth

EXIT_CODES: Mapping[Verdict, int] = {"ok": 0, "few": 0, "drift": 35}
DEFAULT_SPAN = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """What was looked at, and what was found.

    Attributes:
        model: Registered model.
        version: Its version, whose training and forecasts are meant.
        kind: Kind of the forecaster.
        since: Rows logged since then.
        created: When this was found out.
        rows: Forecasts in the log, steps and targets counted.
        other_versions: How many of them other versions made: they count as inputs only.
        settings: Thresholds.
        step_s: Seconds between rows.
        unit: Of the targets.
        findings: What was found.
    """

    model: str
    version: str
    kind: str
    since: datetime
    created: datetime
    rows: int
    other_versions: int
    settings: DriftSettings
    step_s: float
    unit: str
    findings: Findings

    @property
    def exit_code(self) -> int:
        """See the module's table."""
        return EXIT_CODES[self.findings.verdict]

    @property
    def read(self) -> str:
        """What was read, in a sentence."""
        text = f"{self.rows:,} forecasts logged since {self.since:%Y-%m-%d %H:%M} UTC"
        if self.other_versions:
            text += (
                f", {self.other_versions:,} of them by other versions than {self.version}, which count as inputs only"
            )
        return f"{text}."

    def document(self) -> dict[str, Any]:
        """All figures as plain JSON values."""
        return {
            "model": {"name": self.model, "version": self.version, "kind": self.kind},
            "since": self.since.isoformat(timespec="seconds"),
            "created": self.created.isoformat(timespec="seconds"),
            "rows": self.rows,
            "rows_of_other_versions": self.other_versions,
            "thresholds": self.settings.model_dump(mode="json"),
            "exit_code": self.exit_code,
            **self.findings.document(),
        }


def examine(
    settings: Settings, identifier: str | None = None, *, since: datetime | None = None, truth: Sequence[str] = ()
) -> DriftReport:
    """Compare the log with the training of the champion.

    Args:
        settings: The whole configuration.
        identifier: Whose champion; default: as set, else that of the latest run.
        since: UTC; default: seven days ago.
        truth: Files, folders or globs of what really came.

    Raises:
        TrackingError: If there is no champion, or the registry does not answer.
        DataError: If the champion has no snapshot of its training, or a truth file cannot be read.
        StorageError: If the store does not answer.
        IntegrityError: If a segment of the log is not what was written.
    """
    from flts_ray.inference.registered import registered_model

    model = registered_model(settings, identifier)
    manifest, stations = model.bundle.manifest, model.bundle.series
    created = datetime.now(UTC)
    start = created - DEFAULT_SPAN if since is None else since.replace(tzinfo=since.tzinfo or UTC).astimezone(UTC)
    live = read_live(
        open_store(settings),
        model.record.name.removeprefix("flts-"),
        model.record.version,
        since=start,
        truth=read_truth(truth, manifest.targets, settings),
        known_as=lambda series: stations[0] if len(stations) == 1 else series,
    )
    return DriftReport(
        model=model.record.name,
        version=model.record.version,
        kind=manifest.kind,
        since=start,
        created=created,
        rows=live.rows,
        other_versions=live.other_versions,
        settings=settings.drift,
        step_s=manifest.step_s,
        unit=manifest.target_unit,
        findings=judge(live, manifest, settings.drift),
    )
