"""What every settings model is made of, and the canonical digests of settings."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


def as_tuple(value: Any) -> Any:
    """Let one string, or a comma-separated one, stand for a sequence."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _int_tuple(value: Any) -> Any:
    if isinstance(value, int):
        return (value,)
    return as_tuple(value)


Names = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
Counts = Annotated[tuple[int, ...], BeforeValidator(_int_tuple)]


class Section(BaseModel):
    """Base of all settings: immutable, strict about names, documented field by field."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_digest(value: Any) -> str:
    """SHA-256 (hex) of :func:`canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
