"""``python -m benchmarks [names...] [--quick] [--json FILE]``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.harness import Row, machine

NAMES = (
    "windows", "preprocess", "training", "parity", "accuracy", "identity", "drift", "stations", "sweep", "pipeline"
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run benchmarks and print their table; 1 if one misses its bar."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"any of {', '.join(NAMES)}; none: all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run, not how fast; bars do not count")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured to a file")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in NAMES]:
        parser.error(f"there is no benchmark '{unknown[0]}': known are {', '.join(NAMES)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    console, host, rows = Console(width=160), machine(), list[Row]()
    for name in given.names or NAMES:
        Console(stderr=True).print(f"{name} …")
        rows += import_module(f"benchmarks.{name}").run(quick=given.quick)
    console.print(table_of(rows))
    console.print(", ".join(f"{key} {value}" for key, value in host.items()), style="dim")
    if given.json:
        document = {"machine": host, "quick": given.quick, "rows": [row.document() for row in rows]}
        given.json.write_text(json.dumps(document, indent=2), encoding="utf-8")
    return int(not given.quick and any(row.passed is False for row in rows))


def table_of(rows: list[Row]) -> Table:
    """What is printed."""
    table = Table("benchmark", "case", title="flts-ray benchmarks")
    for name in ("ours", "peer", "unit", "score", "rounds", "bar", ""):
        table.add_column(name, justify="right")
    for row in rows:
        mark = {True: "[green]met", False: "[red]missed", None: ""}[row.passed]
        table.add_row(
            row.benchmark,
            row.case,
            _number(row.ours),
            "" if row.peer is None else _number(row.peer),
            row.unit,
            _number(row.score),
            "" if row.spread is None else f"{_number(row.spread[0])}-{_number(row.spread[1])}",
            "" if row.bar is None else f"{row.sense} {row.bar:g}",
            mark,
        )
    return table


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 0.1 else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(main())
