"""Secrets are taken out of texts, wherever they came from, and nothing else is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flts_ray.redaction import masked, redacted
from flts_ray.telemetry.logging import JsonFormatter, logging

pytestmark = pytest.mark.unit


def test_passwords_in_addresses_are_masked() -> None:
    assert masked("postgresql://flts:s3cret@db:5432/mlflow") == "postgresql://flts:***@db:5432/mlflow"
    assert masked("http://mlflow:5000") == "http://mlflow:5000"
    assert redacted("http://user:password@host/x failed") == "http://user:***@host/x failed"


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "PGPASSWORD", "DB_PASS"])
def test_values_of_secret_variables_are_masked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "planted-secret")
    monkeypatch.setenv("HARMLESS", "harmless-value")
    assert redacted("x planted-secret y harmless-value") == "x *** y harmless-value"


@given(st.dictionaries(st.text(), st.text()))
def test_a_log_line_stays_json(fields: dict[str, str]) -> None:
    record = logging.LogRecord("flts_ray", logging.INFO, "", 0, "event", (), None)
    record.fields = {**fields, "uri": "http://u:p@h", "after": "a@b"}
    line = json.loads(JsonFormatter().format(record))
    assert (line["uri"], line["after"]) == ("http://u:***@h", "a@b")
