"""Two runs of the same configuration at once: the work is done once, and there is one champion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.desk import NETWORK, Desk, Started
from tests.faults.conftest import FAULT_SETTINGS, assert_same
from tests.faults.table import Records
from tests.helpers import sets

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]


def test_two_at_once_share_the_work_and_the_champion(
    tmp_path: Path, undisturbed: dict[str, Any], faults: Records
) -> None:
    desk = Desk(tmp_path)
    chosen = {**NETWORK, **{key.replace("__", "."): value for key, value in FAULT_SETTINGS.items()}}
    command = ["run", "--json", *desk.sources, "--home", str(desk.home), *sets(chosen)]
    with Started(command, desk.folder) as one, Started(command, desk.folder) as two:
        answers = [one.answer(), two.answer()]
    assert [answer.code for answer in answers] == [0, 0], answers[0].err[-2000:] + answers[1].err[-2000:]
    documents = [answer.document for answer in answers]
    assert documents[0]["run_id"] != documents[1]["run_id"]
    states = sorted(document["verdict"]["state"] for document in documents)
    assert states == ["kept", "promoted"], "the second to decide finds the first one's champion"
    for document in documents:
        assert_same({**document, "verdict": {"state": "promoted"}}, undisturbed)
    for name in ("preprocess_done", "fit_done"):
        assert sum(len(answer.named(name)) for answer in answers) == 1, f"{name} twice"
    assert len(list((desk.home / "datasets").glob("*/claim.json"))) == 1
    assert desk.statuses() == {"parent": ["FINISHED"] * 2, "gru": ["FINISHED"] * 2}
    found = desk.ask("champion", "alpha", "--json").document
    assert (found["champion"]["version"], found["previous"]) == ("1", None)
    waits = [e["event"] for answer in answers for e in answer.events if e["event"].endswith("_waiting")]
    faults.add("two_runs_preprocess", "one dataset, one fit; the other run waited and reused them")
    faults.add(
        "two_runs_promotion", f"one version, one champion; waited at {', '.join(sorted(set(waits))) or 'nothing'}"
    )
