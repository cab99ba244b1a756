from __future__ import annotations

import numpy as np
import pytest

from flts_ray.data.parquet import decode, encode
from flts_ray.errors import IntegrityError
from tests.data.reports import COLUMNS, raw_frame

pytestmark = pytest.mark.unit

RAW = raw_frame([[1.0, np.nan], [2.5, 1e9], [3.0, 0.0]])
FEATURES = np.arange(6, dtype=np.float32).reshape(3, 2)
NAMES = ("down", "wave")


def test_rows_come_back_bit_for_bit() -> None:
    rows = decode(encode(RAW, FEATURES, NAMES, {"series": "s"}), 3, COLUMNS, NAMES, "x")
    np.testing.assert_array_equal(rows.values, RAW.values)
    np.testing.assert_array_equal(rows.features, FEATURES)
    np.testing.assert_array_equal(rows.time, RAW.time)
    assert rows.features.dtype == np.float32 and len(rows) == 3


def test_equal_rows_give_equal_bytes() -> None:
    assert encode(RAW, FEATURES, NAMES, {"a": "1"}) == encode(RAW, FEATURES, NAMES, {"a": "1"})


def test_columns_are_found_by_name() -> None:
    content = encode(RAW, FEATURES, NAMES, {})
    rows = decode(content, 3, COLUMNS[::-1], NAMES[::-1], "x")
    np.testing.assert_array_equal(rows.values, RAW.values[:, ::-1])
    np.testing.assert_array_equal(rows.features, FEATURES[:, ::-1])


@pytest.mark.parametrize(
    ("rows", "names", "words"),
    [(4, NAMES, "holds 3 rows where its claim records 4"), (3, ("down", "other"), "lacks the column 'other'")],
)
def test_what_differs_from_the_claim_is_refused(rows: int, names: tuple[str, ...], words: str) -> None:
    with pytest.raises(IntegrityError, match=words):
        decode(encode(RAW, FEATURES, NAMES, {}), rows, COLUMNS, names, "train/x.parquet")


def test_other_bytes_are_refused() -> None:
    with pytest.raises(IntegrityError, match=r"train/x\.parquet is not readable Parquet"):
        decode(b"no parquet", 3, COLUMNS, NAMES, "train/x.parquet")
