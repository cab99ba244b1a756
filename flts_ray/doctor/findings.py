"""What a check may find, and how checks run: each within its time, none in the way of another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from flts_ray.errors import FltsError
from flts_ray.redaction import masked, redacted

State = Literal["ok", "warning", "trouble", "fixed", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of what ``flts doctor`` says.

    Attributes:
        check: What was looked at.
        place: Where.
        state: ok; warning: runs work, but look at it; trouble: runs fail or have failed; fixed: was trouble until
            now; skipped: could not be told.
        detail: What was found.
        remedy: What to do about it; empty where there is nothing to do.
    """

    check: str
    place: str
    state: State
    detail: str
    remedy: str = ""


class Report:
    """Takes the findings of one check. What it has taken stays, should the check hang later.

    Attributes:
        findings: Taken so far.
        closed: Name of the check that found out that this place cannot be used; empty if none did.
        absent: Whether the place is not there yet, which is no trouble, but leaves nothing to look at.
    """

    def __init__(self, check: str, place: str, closed: str = "") -> None:
        self.closed = closed
        self.absent = False
        self._check = check
        self._place = place
        self.findings: list[Finding] = []

    def ok(self, detail: str, *, place: str = "") -> None:
        """All is well."""
        self._add("ok", detail, "", place)

    def not_yet(self) -> None:
        """The place does not exist before the first run."""
        self.absent = True
        self.ok("not there yet: the first run makes it")

    def warning(self, detail: str, remedy: str = "", *, place: str = "") -> None:
        """Runs work, but somebody should look at it."""
        self._add("warning", detail, remedy, place)

    def trouble(self, detail: str, remedy: str = "", *, place: str = "") -> None:
        """Runs fail, or left something broken."""
        self._add("trouble", detail, remedy, place)

    def fixed(self, detail: str, *, place: str = "") -> None:
        """It was broken, and is no more."""
        self._add("fixed", detail, "", place)

    def skipped(self, detail: str, *, place: str = "") -> None:
        """It cannot be told."""
        self._add("skipped", detail, "", place)

    @property
    def troubled(self) -> bool:
        """Whether anything is in trouble."""
        return any(finding.state == "trouble" for finding in self.findings)

    def _add(self, state: State, detail: str, remedy: str, place: str) -> None:
        where = masked(place or self._place)
        self.findings.append(
            Finding(check=self._check, place=where, state=state, detail=_shown(detail), remedy=_shown(remedy))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing to look at.

    Attributes:
        name: What it is called.
        place: Where it looks.
        run: Reports what it finds; what it raises is trouble.
        limit_s: Seconds after which it is given up.
        gate: Whether the checks after it in its group make no sense if it finds trouble, or nothing.
        always: Whether it runs even then.
    """

    name: str
    place: str
    run: Callable[[Report], None]
    limit_s: float = 10.0
    gate: bool = False
    always: bool = False


@dataclass(slots=True)
class _Group:
    checks: Sequence[Check]
    reports: list[Report] = field(default_factory=list)

    def run(self) -> None:
        closed = ""
        for check in self.checks:
            report = Report(check.name, check.place, closed)
            self.reports.append(report)
            if closed and not check.always:
                report.skipped(f"see '{closed}' first")
                continue
            _run_one(check, report)
            if check.gate and (report.troubled or report.absent):
                closed = check.name


def run_checks(groups: Sequence[Sequence[Check]]) -> list[Finding]:
    """Run groups beside each other, the checks of each in order.

    Returns:
        The findings in the order of the groups and checks.
    """
    running = [_Group(checks) for checks in groups]
    threads = [threading.Thread(target=group.run, name="doctor", daemon=True) for group in running]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()  # ends: every check has its limit
    return [finding for group in running for report in group.reports for finding in tuple(report.findings)]


def _run_one(check: Check, report: Report) -> None:
    started = time.monotonic()
    failures: list[Exception] = []

    def work() -> None:
        try:
            check.run(report)
        except Exception as error:  # noqa: BLE001 - one check must not take the others with it
            failures.append(error)

    thread = threading.Thread(target=work, name=f"doctor-{check.name}", daemon=True)
    thread.start()
    thread.join(check.limit_s)
    if thread.is_alive():
        report.trouble(
            f"no answer within {time.monotonic() - started:.0f} s",
            "see whether what it looks at hangs or is overloaded",
        )
    for error in failures:
        if isinstance(error, FltsError):
            report.trouble(str(error))
        else:
            report.trouble(f"the check itself failed ({type(error).__name__}: {error})", "report it, with this line")


def _shown(text: str) -> str:
    return redacted(" ".join(text.split()))
