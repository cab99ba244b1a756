"""The record of a run: small, typed, and without secrets."""

from __future__ import annotations

import json

import pytest

from flts_ray.errors import IntegrityError
from flts_ray.run_record import library_versions, parse_record, recorded_environment

pytestmark = pytest.mark.unit


def test_variables_that_the_program_reads_and_no_others() -> None:
    environ = {
        "SAMPLE_TRAIN_ROWS": "50",
        "EPOCHS": "",
        "FLTS_SEED": "3",
        "OMP_NUM_THREADS": "2",
        "AWS_SECRET_ACCESS_KEY": "planted-secret",
        "AWS_ACCESS_KEY_ID": "planted-secret",
        "MLFLOW_TRACKING_PASSWORD": "planted-secret",
        "RAY_AUTH_TOKEN": "planted-secret",
        "MLFLOW_TRACKING_URI": "postgresql://flts:planted-secret@db/mlflow",
        "HOME": "/root",
        "DATABASE_PASSWORD": "planted-secret",
    }
    found = recorded_environment(environ)
    assert "planted-secret" not in str(found)
    assert found.keys() == environ.keys() - {"HOME", "DATABASE_PASSWORD"}
    assert (found["SAMPLE_TRAIN_ROWS"], found["EPOCHS"], found["AWS_ACCESS_KEY_ID"]) == ("50", "", "***")
    assert found["MLFLOW_TRACKING_URI"] == "postgresql://flts:***@db/mlflow"


def test_versions_are_those_installed() -> None:
    found = library_versions()
    assert {"python", "ray", "torch", "numpy", "pandas", "pyarrow", "mlflow", "prophet", "cmdstan"} <= found.keys()
    assert "absent" not in found.values()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"run_id": "x"}'])
def test_a_damaged_record_is_refused(content: bytes) -> None:
    with pytest.raises(IntegrityError, match="place is not the record of a run"):
        parse_record(content, "place")


def test_a_record_of_another_format_is_refused() -> None:
    record = {
        "schema_version": 99, "run_id": "x", "created_at": "", "code_version": "", "dataset_id": "", "config_hash": "",
        "claim_digest": "", "claim_code_version": "", "settings": {}, "environment": {}, "versions": {},
        "host": {"name": "", "system": "", "release": "", "machine": "", "cpus": 1, "memory_gb": 1, "container": False},
    }  # fmt: skip
    with pytest.raises(IntegrityError, match="has format 99"):
        parse_record(json.dumps(record).encode(), "place")
