"""Keeps secrets out of whatever is shown, logged, recorded or stored."""

from __future__ import annotations

import os
import re

MASK = "***"
SECRET_NAMES = re.compile(
    r"SECRET|PASSW|TOKEN|CREDENTIAL|PRIVATE|ACCESS_KEY|API_?KEY|_PWD$|_PASS$|^PASS$|CONFIG_JSON", re.IGNORECASE
)
"""Names of environment variables whose values are secret."""

MIN_CHARS = 8
"""Shorter values are not looked for in texts: they could be parts of ordinary words."""


def masked(text: str) -> str:
    """A text without the passwords of the addresses in it, such as ``postgresql://user:password@host``."""
    return re.sub(r"""(://[^/@:\s]*:)[^/@\s"']+@""", rf"\1{MASK}@", text)


def redacted(text: object) -> str:
    """A text fit for messages: without passwords in addresses, and without the values of secret environment variables.

    Args:
        text: Anything; its ``str``.
    """
    shown = str(text)
    for name, value in os.environ.items():
        if len(value) >= MIN_CHARS and SECRET_NAMES.search(name):
            shown = shown.replace(value, MASK)
    return masked(shown)
