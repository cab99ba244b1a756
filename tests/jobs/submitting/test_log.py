from __future__ import annotations

import json

import pytest

from jobs.submitting.log import JobLog, reason_in

pytestmark = pytest.mark.unit

ANSWER = {"dataset_id": "abc", "nested": {"rows": [1, 2]}}


def read(text: str, *, at_once: int) -> tuple[JobLog, list[str]]:
    shown: list[str] = []
    log = JobLog(shown.append)
    for i in range(0, len(text), at_once):
        log.feed(text[i : i + at_once])
    log.close()
    return log, shown


@pytest.mark.parametrize("at_once", [1, 7, 10_000])
def test_the_answer_is_kept_and_all_else_passed_on(at_once: int) -> None:
    text = f'started\n{{"ts": "1", "event": "x"}}\n{json.dumps(ANSWER, indent=2)}\nlast words'
    log, shown = read(text, at_once=at_once)
    assert log.document == ANSWER
    assert shown == ["started", '{"ts": "1", "event": "x"}', "last words"]


def test_what_only_looks_like_an_answer_is_passed_on() -> None:
    log, shown = read('{\nnot json\n}\n{\n  "cut": "off"', at_once=5)
    assert log.document is None
    assert shown == ["{", "not json", "}", "{", '  "cut": "off"']


def test_the_last_complaint_counts() -> None:
    log, _ = read("error: first\nerror: column down is missing: add it\n", at_once=4)
    assert log.error == "column down is missing: add it"


def test_of_a_traceback_the_last_line_counts() -> None:
    log, _ = read('Traceback (most recent call last):\n  File "a.py"\nKeyError: 3\n{"event": "x"}\n\n', at_once=50)
    assert (log.error, log.last) == ("", "KeyError: 3")


def test_the_page_in_mlflow_is_read_off_an_event() -> None:
    log, shown = read(
        '{"event": "tracked", "mlflow_url": "http://m/#/experiments/1/runs/2"}\n"mlflow_url"\n', at_once=9
    )
    assert log.mlflow_url == "http://m/#/experiments/1/runs/2"
    assert len(shown) == 2


def test_an_answer_says_why_there_is_no_champion() -> None:
    verdict = {"state": "no_winner", "reasons": ["gru is worse than persistence.", "So is lstm."]}
    assert reason_in({"verdict": verdict}) == "no_winner: gru is worse than persistence. So is lstm."
    assert reason_in({"failures": {"gru": "it stalled"}}) == "gru: it stalled"
    assert reason_in({"rows": 3}) == reason_in(None) == ""
