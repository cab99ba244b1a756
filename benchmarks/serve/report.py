"""Result files as tables: in the terminal, and as Markdown for the README."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table as RichTable

Document = Mapping[str, Any]


def rich_tables(document: Document) -> list[RichTable]:
    """The figures of one scenario."""
    tables = []
    for found in document["tables"]:
        table = RichTable(title=found["title"])
        for number, name in enumerate(found["columns"]):
            table.add_column(name, justify="right" if number else "left")
        for row in found["rows"]:
            table.add_row(*map(_cell, row))
        tables.append(table)
    return tables


def markdown(documents: Mapping[str, Document]) -> str:
    """Everything in a result file."""
    return "\n\n".join(_scenario(document) for document in documents.values()) + "\n"


def _scenario(document: Document) -> str:
    host, software = document["machine"], document["software"]
    parts = [
        f"### {document['scenario']}",
        f"`{document['command']}`, {document['rounds']} rounds of {document['seconds']:g} s, {host['when']}: "
        f"{host['cores']} cores of {host['processor']}, {host['memory_gb']} GB, load {host['load_1min_before']}; "
        + f"Python {host['python']}, "
        + ", ".join(f"{name} {version}" for name, version in software.items())
        + ".",
        _grid(
            ("case", "ours", "peer", "unit", "score", "rounds", "bar", ""),
            [_judged(row) for row in document["rows"]],
        ),
    ]
    parts += [f"{found['title']}\n\n{_grid(found['columns'], found['rows'])}" for found in document["tables"]]
    return "\n\n".join(parts)


def _judged(row: Mapping[str, Any]) -> tuple[str, ...]:
    spread = "" if row["spread"] is None else "-".join(map(_cell, row["spread"]))
    bar = "" if row["bar"] is None else f"{row['sense']} {row['bar']:g}"
    verdict = {True: "met", False: "**missed**", None: ""}[row["passed"]]
    figures = (_cell(row["ours"]), _cell(row["peer"]), row["unit"], _cell(row["score"]))
    return (row["case"], *figures, spread, bar, verdict)


def _grid(columns: Any, rows: Any) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "|".join(["---"] + ["--:"] * (len(columns) - 1)) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(_cell, row)) + " |" for row in rows)])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
