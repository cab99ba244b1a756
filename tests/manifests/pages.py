"""Pages of documentation as something that can be held against the code: tables, code, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        heading: The last heading before it.
        rows: Column name → cell, as written.
    """

    heading: str
    rows: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class Page:
    """One page below ``docs/``."""

    path: Path

    @cached_property
    def text(self) -> str:
        """As written."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        """Without its blocks of code."""
        return _FENCE.sub("", self.text)

    @cached_property
    def spans(self) -> tuple[str, ...]:
        """Everything in single backticks."""
        return tuple(_SPAN.findall(self.prose))

    def blocks(self, language: str) -> list[str]:
        """Blocks of code in a language."""
        return [code for found, code in _FENCE.findall(self.text) if found == language]

    @cached_property
    def commands(self) -> tuple[str, ...]:
        """Lines of the shell blocks: continued ones joined, comments cut, empty ones left out."""
        lines = [line for block in self.blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
        cut = (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines)
        return tuple(line for line in cut if line)

    @cached_property
    def links(self) -> tuple[str, ...]:
        """Targets of its links."""
        return tuple(_LINK.findall(self.prose))

    @cached_property
    def anchors(self) -> frozenset[str]:
        """What a link can name after ``#``, by GitHub's rule."""
        return frozenset(
            re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
            for heading in _HEADING.findall(self.prose)
        )

    def tables(self) -> Iterator[Table]:
        """Every table, in order."""
        heading, block = "", list[str]()
        for line in [*self.prose.splitlines(), ""]:
            if line.startswith("|"):
                block.append(line)
                continue
            if block:
                head, _, *body = (_cells(row) for row in block)
                yield Table(heading, tuple(dict(zip(head, row, strict=True)) for row in body))
                block = []
            if line.startswith("#"):
                heading = line.lstrip("# ")

    def table(self, heading: str) -> Table:
        """The table below a heading."""
        return next(table for table in self.tables() if table.heading == heading)

    def broken_links(self) -> list[str]:
        """Links to files or headings that do not exist; addresses elsewhere are not followed."""
        return [link for link in self.links if "://" not in link and not self._leads_somewhere(link)]

    def _leads_somewhere(self, link: str) -> bool:
        name, _, anchor = link.partition("#")
        target = Page((self.path.parent / name).resolve()) if name else self
        return target.path.exists() and (not anchor or anchor in target.anchors)


def code_in(cell: str) -> list[str]:
    """What stands in backticks in a cell of a table."""
    return _SPAN.findall(cell)


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().removeprefix("|").removesuffix("|").split("|")]


def programs(line: str) -> Iterator[list[str]]:
    """The calls in a line of shell, those inside ``$(…)`` too: program and arguments, variables before it left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();|&")
    lexer.whitespace_split, lexer.commenters = True, ""
    open_calls: list[list[str]] = [[]]
    for word in [*lexer, ";"]:
        if set(word) - set("();|&"):
            open_calls[-1].append(word)
            continue
        for sign in word:
            if sign == "(":
                open_calls.append([])
                continue
            if call := _without_variables(open_calls[-1]):
                yield call
            open_calls[-1] = []
            if sign == ")":
                open_calls.pop()


def _without_variables(words: list[str]) -> list[str]:
    started = (index for index, word in enumerate(words) if word != "export" and not re.match(r"\w+=", word))
    return words[next(started, len(words)) :]
