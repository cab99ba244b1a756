"""Checks run beside each other, within their time, and none takes another with it."""

from __future__ import annotations

import dataclasses
import json
import threading

import pytest

from flts_ray.doctor import Finding, exit_code
from flts_ray.doctor.findings import Check, Report, State, run_checks
from flts_ray.errors import StorageError
from flts_ray.tables import print_findings

pytestmark = pytest.mark.unit


def well(report: Report) -> None:
    report.ok("well")


def refused(report: Report) -> None:
    raise StorageError("the store refuses: let it not")


def broken(report: Report) -> None:
    raise ZeroDivisionError("oops")


def states(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.check, finding.state) for finding in findings]


def test_what_a_check_raises_is_its_finding() -> None:
    groups = [[Check(name="a", place="x", run=refused), Check(name="b", place="x", run=broken)]]
    first, second = run_checks([*groups, [Check(name="c", place="x", run=well)]])[:2]
    assert (first.state, first.detail) == ("trouble", "the store refuses: let it not")
    assert second.state == "trouble"
    assert "ZeroDivisionError: oops" in second.detail


def test_a_check_that_hangs_is_given_up_and_what_it_found_stays() -> None:
    forever = threading.Event()

    def hangs(report: Report) -> None:
        report.ok("half of it")
        forever.wait()

    checks = [Check(name="hangs", place="x", run=hangs, limit_s=0.05), Check(name="next", place="x", run=well)]
    found = run_checks([checks])
    forever.set()
    assert states(found) == [("hangs", "ok"), ("hangs", "trouble"), ("next", "ok")]
    assert "no answer within" in found[1].detail


def test_groups_do_not_wait_for_each_other() -> None:
    met = threading.Barrier(2, timeout=5)

    def meets(report: Report) -> None:
        met.wait()
        report.ok("met")

    found = run_checks([[Check(name=name, place="x", run=meets)] for name in "ab"])
    assert states(found) == [("a", "ok"), ("b", "ok")]


def test_behind_a_closed_gate_only_what_needs_nothing_runs() -> None:
    def closed_by(report: Report) -> None:
        report.ok(f"closed by {report.closed}")

    checks = [
        Check(name="gate", place="x", run=refused, gate=True),
        Check(name="later", place="x", run=well, gate=True),
        Check(name="local", place="x", run=closed_by, always=True),
    ]
    found = run_checks([checks])
    assert states(found) == [("gate", "trouble"), ("later", "skipped"), ("local", "ok")]
    assert found[2].detail == "closed by gate"


def test_what_is_not_there_yet_is_no_trouble() -> None:
    checks = [
        Check(name="place", place="x", run=Report.not_yet, gate=True),
        Check(name="later", place="x", run=refused),
    ]
    assert states(run_checks([checks])) == [("place", "ok"), ("later", "skipped")]


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("warning", 0), ("fixed", 0), ("skipped", 0), ("trouble", 1)])
def test_only_trouble_makes_the_exit_code(state: State, code: int) -> None:
    fine = Finding(check="a", place="b", state="ok", detail="c")
    assert exit_code([fine, dataclasses.replace(fine, state=state)]) == code


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")

    def tells(report: Report) -> None:
        report.trouble("postgresql://flts:hunter2@db planted-secret", "say planted-secret", place="http://u:hunter2@h")

    (found,) = run_checks([[Check(name="a", place="x", run=tells)]])
    text = json.dumps(dataclasses.asdict(found))
    assert "hunter2" not in text
    assert "planted-secret" not in text


def test_the_table_says_everything(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings(
        [
            Finding(check="store: bucket", place="s3://[red]x/y", state="trouble", detail="gone", remedy="make it"),
            Finding(check="disk", place="/", state="ok", detail="room"),
        ]
    )
    shown = capsys.readouterr().out
    for part in ("store: bucket", "s3://[red]x/y", "gone", "→ make it", "room", "1 ok, 1 trouble"):
        assert part in shown
