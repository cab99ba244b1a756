"""``python -m benchmarks.serve [parity|throughput|swap|kill|drain|overload …]``, or ``report`` of what was found."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.__main__ import table_of
from benchmarks.serve.home import trained_home
from benchmarks.serve.report import markdown, rich_tables
from benchmarks.serve.scenario import Options, load_now
from benchmarks.serve.servers import NAMES

SCENARIOS = ("parity", "throughput", "swap", "kill", "drain", "overload")
LOADED = 0.5
"""Load average from which a machine with nothing to do counts as busy."""


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 if a bar was missed."""
    given = _parser().parse_args(arguments)
    results = json.loads(given.json.read_text(encoding="utf-8")) if given.json and given.json.exists() else {}
    if given.scenarios == ["report"]:
        sys.stdout.write(markdown(results))
        return 0
    options = Options(
        home=trained_home(given.home),
        kinds=tuple(given.servers),
        clients=tuple(given.clients),
        seconds=given.seconds,
        rounds=given.rounds,
        settings=tuple(given.set),
    )
    console, met = Console(width=160), True
    for name in given.scenarios or SCENARIOS:
        load = load_now()
        if load > LOADED:
            Console(stderr=True).print(f"the load average is {load:.2f}: figures will be worse than on an idle machine")
        Console(stderr=True).print(f"{name} …")
        result = import_module(f"benchmarks.serve.{name}").run(options)
        document = result.document(options, load)
        for table in (*rich_tables(document), table_of(list(result.rows))):
            console.print(table)
        met = met and all(row.passed is not False for row in result.rows)
        results[name] = document
        if given.json:
            given.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return int(not met)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument(
        "scenarios", nargs="*", metavar="scenario", type=_scenario, help=f"any of {', '.join(SCENARIOS)}"
    )
    parser.add_argument(
        "--home",
        type=Path,
        default=Path(tempfile.gettempdir(), "flts-bench-serve-home"),
        help="home with a champion, trained if there is none; it is written to (default: %(default)s)",
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds that a cell counts (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each thing is measured (default: %(default)s)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 128], help="closed loops of throughput")
    parser.add_argument("--servers", nargs="+", default=[], choices=list(NAMES), help="only these")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="setting of flts serve")
    parser.add_argument("--json", type=Path, metavar="FILE", help="results, kept by scenario; what report reads")
    return parser


def _scenario(word: str) -> Any:
    if word not in (*SCENARIOS, "report"):
        raise argparse.ArgumentTypeError(f"there is no scenario '{word}': known are {', '.join(SCENARIOS)} and report")
    return word


if __name__ == "__main__":
    sys.exit(main())
