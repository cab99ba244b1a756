"""The log of a job as it comes in: passed on line by line, its answer kept, and what it says of itself read off."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

ERROR = "error: "
"""Begins the sentence with which ``flts`` ends when it refuses or fails."""


class JobLog:
    """Reads a job's output, stdout and stderr in one.

    Args:
        show: Told every line that is no part of an answer.

    Attributes:
        document: The last JSON document that stood on lines of its own: the job's answer, if it gave one.
        error: The last sentence with which it complained, or empty.
        last: The last line that is neither an event nor part of an answer: of a traceback, the one that says why.
        mlflow_url: Its run in MLflow, if it has told so.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self.document: dict[str, Any] | None = None
        self.error = ""
        self.last = ""
        self.mlflow_url = ""
        self._show = show
        self._begun = ""
        self._held: list[str] = []

    def feed(self, text: str) -> None:
        """Take the next piece, which may end within a line."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._line(line)

    def close(self) -> None:
        """Take what is left for the end."""
        if self._begun:
            self.feed("\n")
        self._release()

    def _line(self, line: str) -> None:
        if line == "{":  # an answer begins; every other object stands on one line
            self._release()
            self._held = [line]
        elif self._held:
            self._held.append(line)
            if line == "}":
                self._finish_document()
        else:
            self._pass_on(line)

    def _finish_document(self) -> None:
        try:
            self.document = json.loads("\n".join(self._held))
        except ValueError:
            self._release()
        self._held = []

    def _release(self) -> None:
        held, self._held = self._held, []
        for line in held:
            self._pass_on(line)

    def _pass_on(self, line: str) -> None:
        if line.startswith(ERROR):
            self.error = line.removeprefix(ERROR)
        elif '"mlflow_url"' in line:
            self.mlflow_url = _field(line, "mlflow_url") or self.mlflow_url
        elif line.strip() and not line.startswith("{"):
            self.last = line.strip()
        self._show(line)


def _field(line: str, name: str) -> str:
    """A field of an event; empty if the line is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return ""
    return str(found.get(name, "")) if isinstance(found, dict) else ""


def reason_in(document: dict[str, Any] | None) -> str:
    """Why an answer is not what was hoped for: the reasons of its verdict, or of its failures; empty if it has none."""
    if document is None:
        return ""
    verdict = document.get("verdict")
    if isinstance(verdict, dict):
        return f"{verdict.get('state')}: {' '.join(verdict.get('reasons', ()))}".rstrip(": ")
    failures = document.get("failures")
    if isinstance(failures, dict):
        return "; ".join(f"{name}: {why}" for name, why in failures.items())
    return ""
