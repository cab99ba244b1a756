"""A store that does not keep its promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from flts_ray.data.storage import Store
from flts_ray.doctor.findings import Check, Finding, run_checks
from flts_ray.doctor.storage import Rights
from flts_ray.errors import StorageError

pytestmark = pytest.mark.unit


class Forgetful(Store):
    """Takes every conditional write."""

    def create(self, path: str, data: bytes) -> bool:
        self.write_bytes(path, data)
        return True


class Stubborn(Store):
    """Deletes nothing."""

    def delete(self, prefix: str) -> None:
        raise StorageError("may not")


class Stale(Store):
    """Lists nothing."""

    def list(self, prefix: str = "", *, hidden: bool = False) -> list[str]:
        return []


def rights(store: Store) -> list[Finding]:
    return run_checks([[Check(name="rights", place=store.uri, run=Rights(store))]])


def test_a_folder_keeps_them(tmp_path: Path) -> None:
    (found,) = rights(Store(str(tmp_path)))
    assert found.state == "ok"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Forgetful, "cannot create only once: a conditional put (If-None-Match) replaces what is there"),
        (Stubborn, "cannot delete: may not"),
        (Stale, "cannot list: what was written is not listed"),
    ],
)
def test_a_broken_promise_is_named(tmp_path: Path, kind: type[Store], said: str) -> None:
    found = rights(kind(str(tmp_path)))
    assert found[0].state == "trouble"
    assert said in found[0].detail
