"""The migration guide says of every old name what the program makes of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from flts_ray.config_layers import environment_settings, setting_fields
from flts_ray.env_names import FLTS_NAMES, LEGACY_NAMES, SWITCHES
from flts_ray.errors import ConfigError
from tests.manifests.pages import ROOT, Page, code_in

pytestmark = pytest.mark.manifests

PAGE = Page(ROOT / "docs" / "migration.md")
CREDENTIALS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
SWITCHED_ON = {"CLIP_ENABLE": "1", "LAGS_ENABLE": "1", "LAGS_N": "3"}
SAMPLES = ("7", "percentile", "gru", "yes", "multiplicative", "standardscaler")
"""Texts of which every old variable understands one, other than those above."""


class Variable(NamedTuple):
    """One old variable of one old service."""

    service: str
    name: str
    read: bool
    now: str


def variables() -> Iterator[Variable]:
    for table in PAGE.tables():
        for row in table.rows if "read" in table.rows[0] else ():
            for name in code_in(row["old name"]):
                yield Variable(table.heading, name, row["read"] == "yes", row["now"])


VARIABLES = list(variables())
READ = [one for one in VARIABLES if one.read]


def keys_set_by(name: str) -> set[str]:
    """Settings that the program changes when it finds an old variable."""
    others = {other: text for other, text in SWITCHED_ON.items() if other != name}
    before = environment_settings(others)
    for text in SAMPLES:
        try:
            after = environment_settings({**others, name: text})
        except ConfigError:
            continue
        if changed := {key for key, found in after.items() if found != before.get(key)}:
            return changed
    return set()


def names_of(one: Variable) -> str:
    return f"{one.service}: {one.name}"


@pytest.mark.parametrize("one", [one for one in READ if one.name not in CREDENTIALS], ids=names_of)
def test_a_name_that_is_read_sets_what_the_page_says(one: Variable) -> None:
    assert keys_set_by(one.name) == set(code_in(one.now))


def test_every_old_name_that_is_read_is_on_the_page() -> None:
    assert {one.name for one in READ} == {*LEGACY_NAMES, *SWITCHES, *CREDENTIALS}


def test_a_name_that_is_not_read_is_not_one_of_ours() -> None:
    ours = {one.name: LEGACY_NAMES[one.name][0] for one in VARIABLES if not one.read and one.name in LEGACY_NAMES}
    assert ours == {"BATCH_SIZE": "training.batch_size"}, "the same name means another thing in inference only"


def test_no_name_stands_twice_in_one_service() -> None:
    places = [(one.service, one.name) for one in VARIABLES]
    assert len(places) == len(set(places)) > 150


def test_every_name_says_what_became_of_it() -> None:
    silent = [names_of(one) for one in VARIABLES if one.now != "gone" and not code_in(one.now)]
    assert silent == []


def test_every_new_name_exists() -> None:
    known: set[str] = {*setting_fields(), *FLTS_NAMES}
    assert [
        name for name in PAGE.spans if re.fullmatch(r"[a-z_]+\.(?!json|yaml)[a-z_]+", name) and name not in known
    ] == []
    unknown = {name for name in PAGE.spans if name.startswith("FLTS_")} - known
    assert unknown == {"FLTS_<SECTION>__<KEY>", "FLTS_"}, "patterns, which are not names"


def test_metrics_are_those_of_the_service() -> None:
    source = (ROOT / "serve" / "instruments.py").read_text(encoding="utf-8")
    now = {name for row in PAGE.table("Metrics of the service").rows for name in code_in(row["now"])}
    ours = {name.removeprefix("ray_").removesuffix("_total") for name in now if name.startswith("ray_flts_")}
    assert len(ours) >= 4
    assert [name for name in ours if f'"{name}"' not in source] == []


def test_links_lead_somewhere() -> None:
    assert PAGE.broken_links() == []
