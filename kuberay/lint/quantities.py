"""Kubernetes quantities as numbers: ``500m`` is 0.5, ``2Gi`` is 2147483648."""

from __future__ import annotations

import re
from typing import Any

_FACTORS = {
    "": 1.0,
    "m": 1e-3,
    **{unit: 1000.0**power for power, unit in enumerate(("k", "M", "G", "T", "P"), start=1)},
    **{unit: 1024.0**power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi"), start=1)},
}


def number(quantity: Any) -> float | None:
    """The number; None if it is no quantity."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?", str(quantity))
    return None if parts is None else float(parts[1]) * _FACTORS[parts[2] or ""]
