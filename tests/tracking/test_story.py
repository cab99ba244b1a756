"""Documents of the run that a candidate's run belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest

from flts_ray.config import TrackingSettings
from flts_ray.errors import TrackingError
from flts_ray.tracking.client import Gateway
from flts_ray.tracking.run import Tracker
from flts_ray.tracking.story import run_story
from tests.services.ports import free_ports

pytestmark = pytest.mark.unit


def test_the_documents_of_the_parent_are_found_by_the_childs_id(tracker: Tracker) -> None:
    with tracker.run("told", name="shown") as run, run.child("gru") as child:
        run.log_json("leaderboard.json", {"rows": [1]})
        run.log_text("report.html", "<p>")
    assert tracker.flush()
    story = run_story(tracker.gateway, tracker.resolve(child.run_key), ("leaderboard.json", "verdict.json"))
    assert story is not None
    assert (story.run_id, story.name) == (tracker.resolve("told"), "shown")
    assert list(story.documents) == ["leaderboard.json"]
    assert b"1" in story.documents["leaderboard.json"]


def test_a_run_of_its_own_and_an_unknown_one_have_no_story(tracker: Tracker) -> None:
    with tracker.run("alone") as run:
        run.log_json("leaderboard.json", {})
    assert tracker.flush()
    assert run_story(tracker.gateway, tracker.resolve("alone"), ("leaderboard.json",)) is None
    assert run_story(tracker.gateway, "0" * 32, ("leaderboard.json",)) is None


def test_a_store_that_is_away_is_an_error(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    settings = TrackingSettings(uri=f"http://127.0.0.1:{port}", timeout_s=0.5)
    with pytest.raises(TrackingError):
        run_story(Gateway(settings, tmp_path), "0" * 32, ("leaderboard.json",))
