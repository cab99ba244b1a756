"""One home with finished runs, made once for the whole suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flts_ray.reconcile import Side
from tests.helpers import write_stations
from tests.reconcile.runs import Lab


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    train, test = write_stations(folder, ("alpha",), train=240, test=60)
    with pytest.MonkeyPatch.context() as patch:
        yield Lab(folder / "home", train, test, patch)


@pytest.fixture(scope="package")
def base(lab: Lab) -> Side:
    """A run of five epochs on all rows."""
    return lab.run("base", lab.resolve())


@pytest.fixture(scope="package")
def sampled(lab: Lab) -> Side:
    """The same on 120 of the 240 train rows."""
    return lab.run("sampled", lab.resolve(sampling__train_rows=120))
