"""What commands print for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flts_ray.config_layers import Resolved
from flts_ray.data.claims import Claim
from flts_ray.doctor.findings import Finding
from flts_ray.evaluation.stations_view import shown_in_terminal
from flts_ray.results import RunResult, TrainResult

if TYPE_CHECKING:
    from flts_ray.drift.report import DriftReport
    from flts_ray.evaluation.backtest_table import BacktestResult
    from flts_ray.inference.batch import BatchResult

PIPE_WIDTH = 140

COLUMNS = (
    ("rmse_scaled", "RMSE scaled", "{:.5f}"),
    ("mae_scaled", "MAE scaled", "{:.5f}"),
    ("rmse_bits", "RMSE bits", "{:.3g}"),
    ("skill_vs_persistence", "skill", "{:+.3f}"),
    ("dm_p_vs_persistence", "p vs persistence", "{:.2g}"),
    ("dm_p_vs_ridge", "p vs ridge", "{:.2g}"),
    ("coverage_90", "coverage", "{:.3f}"),
    ("fit_s", "fit s", "{:.1f}"),
    ("predict_s", "predict s", "{:.2f}"),
)


def print_run(result: RunResult) -> None:
    """The end of ``flts run``: leaderboard, verdict, report."""
    print_document(result.document())


def print_fits(result: TrainResult) -> None:
    """What `flts train` ends with."""
    table = Table(title=f"Candidates of dataset {result.dataset_id}", title_justify="left")
    for name in ("candidate", "id", "seconds", ""):
        table.add_column(name, justify="right" if name == "seconds" else "left")
    for kind, found in result.trained.fitted.items():
        note = "fitted before" if found.reused else ""
        table.add_row(kind, found.summary.candidate_id, f"{found.summary.fit_s:.1f}", note)
    for kind, reason in result.trained.failures.items():
        table.add_row(kind, "", "", f"failed: {reason}")
    _console().print(table)


def print_backtest(result: BacktestResult) -> None:
    """The end of ``flts backtest``: models by window, and what is missing."""
    from flts_ray.evaluation.backtest_view import backtest_notes, terminal_tables

    console = _console()
    for table in terminal_tables(result):
        console.print(table)
    for note in backtest_notes(result):
        console.print(note, highlight=False)


def print_document(document: dict[str, Any]) -> None:
    """A run's leaderboard, verdict and report, from its document."""
    console = _console()
    rows = document["leaderboard"]
    several = len({row["series"] for row in rows} - {"*"}) > 1
    shown, left_out = shown_in_terminal(rows)
    for series, target in dict.fromkeys((row["series"], row["target"]) for row in rows if row["series"] in shown):
        if series == "*" and not several and len({row["series"] for row in rows}) > 1:
            continue
        part = [row for row in rows if (row["series"], row["target"]) == (series, target)]
        title = "all stations" if series == "*" else series
        console.print(_leaderboard(f"{title}: {target}, {part[0]['n']:,} forecasts", part))
    if left_out:
        console.print(f"{left_out} more stations, on which candidates gain more: see the report", markup=False)
    verdict = document["verdict"]
    console.print()
    console.print(f"Verdict: {verdict['state'].replace('_', ' ')}", style="bold", markup=False)
    for reason in verdict["reasons"]:
        console.print(f"  {reason}", markup=False)
    console.print(f"Champion: {document['champion'] or 'none'}", markup=False)
    console.print(f"Report: {document['report']}", markup=False)


def print_claim(claim: Claim) -> None:
    """A dataset in a few lines."""
    console = _console()
    console.print(f"dataset {claim.dataset_id}  config {claim.config_hash[:12]}  step {claim.step_s:g} s", markup=False)
    table = Table(box=box.SIMPLE)
    for name in ("series", "split", "rows", "of", "strategy", "missing", "gaps", "from", "to"):
        table.add_column(name, justify="right" if name in ("rows", "of", "missing", "gaps") else "left")
    for record in claim.series:
        for split, part in (("train", record.train), ("test", record.test)):
            sampling = part.sampling
            table.add_row(
                record.series,
                split,
                f"{part.rows:,}",
                f"{sampling.source_rows:,}",
                sampling.strategy if sampling.sampled else "all",
                str(part.quality.missing_cells),
                str(part.quality.gaps),
                part.time_start,
                part.time_end,
            )
    console.print(table)
    for dropped in claim.dropped:
        console.print(f"dropped {dropped.series}: {dropped.reason}", markup=False)


def print_settings(resolved: Resolved) -> None:
    """Every setting with its origin."""
    console = _console()
    table = Table(box=box.SIMPLE)
    for name in ("setting", "value", "from"):
        table.add_column(name, overflow="fold")
    for key, value, origin in resolved.rows():
        text = ", ".join(str(part) for part in value) if isinstance(value, list) else str(value)
        table.add_row(key, text, origin, style=None if origin == "default" else "bold")
    console.print(table)
    console.print(f"config_hash {resolved.settings.config_hash()}", markup=False)


STATE_STYLES = {"ok": "green", "warning": "yellow", "trouble": "bold red", "fixed": "cyan", "skipped": "dim"}


def print_findings(findings: Sequence[Finding]) -> None:
    """What ``flts doctor`` found: a table, then how many of each kind."""
    console = _console()
    table = Table(box=box.SIMPLE)
    for name in ("state", "check", "place", "detail and remedy"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        text = Text(finding.detail)
        if finding.remedy:
            text.append(f"\n→ {finding.remedy}", style="bold")
        state = Text(finding.state, style=STATE_STYLES[finding.state])
        table.add_row(state, Text(finding.check), Text(finding.place), text)
    console.print(table)
    counts = {state: sum(finding.state == state for finding in findings) for state in STATE_STYLES}
    console.print(", ".join(f"{count} {state}" for state, count in counts.items() if count), markup=False)


def print_forecasts(result: BatchResult) -> None:
    """The end of ``flts forecast``: what lies in the output, station by station."""
    console = _console()
    manifest = result.manifest
    model = manifest.model
    console.print(f"{model.name} version {model.version} ({model.kind}), dataset {model.dataset_id}", markup=False)
    table = Table(box=box.SIMPLE)
    for name in ("series", "rows read", "origins", "skipped", "forecasts", "first origin", "last origin", "file"):
        table.add_column(name, justify="right" if name in ("rows read", "origins", "skipped", "forecasts") else "left")
    for record in manifest.series:
        table.add_row(
            Text(record.series),
            f"{record.input_rows:,}",
            f"{record.origins:,}",
            f"{record.skipped:,}",
            f"{record.rows:,}",
            record.first_origin,
            record.last_origin,
            Text(record.path),
        )
    console.print(table)
    for record in manifest.series:
        for notice in record.notices:
            console.print(f"{record.series}: {notice}", markup=False)
    done = "was there already" if result.reused else f"took {result.seconds:.1f} s"
    console.print(f"{result.output}: {done}", markup=False)


DRIFT_STYLES = {"ok": "green", "watch": "yellow", "alarm": "bold red", "few": "dim"}


def print_drift(report: DriftReport) -> None:
    """What ``flts drift`` found: inputs, errors, verdict."""
    console, findings = _console(), report.findings
    console.print(f"{report.model} version {report.version}: {report.read}", markup=False)
    if findings.inputs:
        table = Table(title="inputs", title_justify="left", box=box.SIMPLE)
        for name in ("series", "column", "state", "rows", "PSI", "usual", "latest rows", "PSI", "usual"):
            table.add_column(name, justify="left" if name in ("series", "column", "state") else "right")
        for column in findings.inputs:
            cells = [
                text
                for part in (column.overall, column.latest)
                for text in (f"{part.rows:,}", "" if part.psi is None else f"{part.psi:.3f}", f"{part.usual:.3f}")
            ]
            state = Text(column.worst.state, style=DRIFT_STYLES[column.worst.state])
            table.add_row(Text(column.overall.series), Text(column.overall.column), state, *cells)
        console.print(table)
    if findings.errors:
        table = Table(title="errors", title_justify="left", box=box.SIMPLE)
        for name in ("series", "target", "step", "state", "outcomes", "test", "training", "live", "p"):
            table.add_column(name, justify="left" if name in ("series", "target", "state", "test") else "right")
        for found in findings.errors:
            where, state = found.outcomes, Text(found.state, style=DRIFT_STYLES[found.state])
            first: list[Text | str] = [Text(where.series), Text(where.target), str(where.step), state]
            first.append(f"{len(found.errors):,}")
            rows = [[t.name, f"{t.training:.3f}", f"{t.live:.3f}", f"{t.p_value:.2g}"] for t in found.tests] or [[]]
            for cells in rows:
                table.add_row(*first, *cells)
                first = [""] * len(first)
        console.print(table)
    for series in findings.unknown:
        console.print(f"station '{series}' is unknown to this model", markup=False)
    console.print(f"Verdict: {findings.verdict}. {findings.headline}", style="bold", markup=False)


def _console() -> Console:
    """Plain output that a pipe gets in full width."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def _leaderboard(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("model")
    for _, label, _ in COLUMNS:
        table.add_column(label, justify="right")
    for row in rows:
        style = "bold" if row["role"] == "candidate" else "dim"
        cells = ["" if row[key] is None else text.format(row[key]) for key, _, text in COLUMNS]
        table.add_row(f"{row['model']}", *cells, style=style)
        if row["note"]:
            table.add_row(f"  {row['note']}", style="dim")
    return table
