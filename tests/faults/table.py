"""The fault table: what is broken, when, and what has to happen. ``docs/faults.md`` is made from it by the suite."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"

STORE = {
    "stopped": "object store stopped for 20 s",
    "503": "object store answering 503",
    "slow": "object store slow",
    "refused": "object store refusing credentials",
    "no_bucket": "bucket missing",
    "full": "disk full",
}
STORE_WHEN = {"reading": "reading", "checkpoint": "checkpoint", "publish": "publish"}
TRACKER = {
    "stopped": "tracker stopped",
    "hanging": "tracker hanging (accepts, never answers)",
    "500": "tracker answering 500",
    "database": "tracker's database restarted",
}
TRACKER_WHEN = {"start": "start", "training": "mid-training", "end": "end"}

SAME = "same result as the undisturbed run"
GOES_ON = f"the same command goes on from what is done; {SAME}"
WAITS = f"waits, goes on by itself; {SAME}"
REFUSES = "clear refusal; once it is put right the same command goes on to the same result"
RESTARTS = f"restarted from the last checkpoint; {SAME}"

ROWS: dict[str, tuple[str, str, str]] = {
    "worker_killed_1": ("SIGKILL of the training worker, 1 worker", "mid-epoch", RESTARTS),
    "worker_killed_2": ("SIGKILL of a training worker, 2 workers", "mid-epoch", RESTARTS),
    "driver_killed_preprocess": ("SIGKILL of the driver, then the same command", "preprocess", GOES_ON),
    "driver_killed_before_claim": ("SIGKILL of the driver, then the same command", "between data and claim", GOES_ON),
    "driver_killed_training": ("SIGKILL of the driver, then the same command", "training", GOES_ON),
    "driver_killed_evaluation": ("SIGKILL of the driver, then the same command", "evaluation", GOES_ON),
    "driver_killed_promotion": ("SIGKILL of the driver, then the same command", "between version and alias", GOES_ON),
    "node_killed_preprocess": ("kill of a node of a 3-node cluster", "preprocess", WAITS),
    "node_killed_training": ("kill of a node of a 3-node cluster", "training", RESTARTS),
    "node_killed_prophet": ("kill of a node of a 3-node cluster", "Prophet fits", WAITS),
    **{
        f"store_{fault}_{when}": (
            STORE[fault],
            STORE_WHEN[when],
            WAITS if fault in ("stopped", "503", "slow") else REFUSES,
        )
        for fault in STORE
        for when in STORE_WHEN
    },
    **{
        f"tracker_{fault}_{when}": (TRACKER[fault], TRACKER_WHEN[when], f"training does not wait; {SAME}")
        for fault in TRACKER
        for when in TRACKER_WHEN
    },
    "tracker_gone": ("tracker gone for good", "the whole run", REFUSES),
    "two_runs_preprocess": ("two runs of the same configuration at once", "preprocess", "one works, the other waits"),
    "two_runs_promotion": ("two runs of the same configuration at once", "promotion", "one version, one champion"),
    "parquet_corrupted": ("Parquet with a flipped bit", "read", "detected and made anew; " + SAME),
    "parquet_truncated": ("truncated Parquet", "read", "detected and made anew; " + SAME),
    "claim_edited": ("claim edited by hand", "read", "detected and made anew; " + SAME),
    "checkpoint_truncated": ("truncated checkpoint", "resume", "detected, an older one or none is used; " + SAME),
    "bundle_damaged": ("truncated model bundle", "load", "detected and fitted anew; " + SAME),
    "stalled_training": ("a worker that stops making progress without dying", "training", RESTARTS),
    "stalled_prophet": ("a fit that stops making progress without dying", "Prophet", "fitted anew; " + SAME),
    "stalled_for_good": ("a worker that stops again and again", "training", "failure with the reason, exit code 60"),
    "sigterm": ("SIGTERM (a cluster draining a node)", "training", "ends at once with 143; " + GOES_ON),
    "prophet_raises_once": ("a Prophet fit that raises, for one series of many", "fit", "tried again; " + SAME),
    "prophet_raises": (
        "a Prophet fit that always raises, for one series of many",
        "fit",
        "a row that names the reason; that candidate cannot win for all stations, the others go on",
    ),
}
"""Key → fault, when, expected."""


@dataclass
class Records:
    """What the suite observed, by key of :data:`ROWS`."""

    rows: dict[str, tuple[str, float | None]] = field(default_factory=dict)

    def add(self, key: str, observed: str, recovered_s: float | None = None) -> None:
        """Note what was seen, and the seconds from the fault to the work going on (None where nothing had to)."""
        assert key in ROWS, f"{key} is not in the fault table"
        self.rows[key] = (observed, recovered_s)

    def markdown(self, before: str) -> str:
        """The page; rows that were not run this time stay as they are on the page of before."""
        known = {tuple(row[:2]): row[3:] for row in cells(before)}
        lines = [
            "# Faults",
            "",
            "What happens when something breaks, as the test suite saw it: `make faults` breaks each thing on real",
            "servers and a real Ray, compares the result with an undisturbed run, and writes this page. After every",
            "row no run is left RUNNING in MLflow.",
            "",
            "| fault | when | expected | observed | seconds to recover |",
            "|---|---|---|---|---|",
        ]
        for key, (fault, when, expected) in ROWS.items():
            if key in self.rows:
                observed, seconds = self.rows[key]
                seen = [observed, "-" if seconds is None else f"{seconds:.1f}"]
            else:
                seen = known[fault, when]
            lines.append(f"| {' | '.join([fault, when, expected, *seen])} |")
        return "\n".join(lines) + "\n"


def cells(page: str) -> list[list[str]]:
    """The rows of a page, without its head."""
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
