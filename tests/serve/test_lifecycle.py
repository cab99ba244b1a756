"""A replica follows the alias, and whatever the alias names or the registry does, it goes on answering."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flts_ray.errors import BundleError, ConfigError, StorageError
from flts_ray.inference.engine import Engine
from flts_ray.inference.queries import Query
from flts_ray.models.bundle import Bundle
from flts_ray.tracking.registry import ModelRegistry
from serve import lifecycle
from serve.lifecycle import ChampionWatcher
from tests.serve.shelf import (
    Recorder,
    Shelf,
    age_the_format,
    away,
    copy_with,
    flip_a_byte,
    lose_the_weights,
    open_tracker,
)
from tests.services import free_ports
from tests.stages import Bench, make_bench

pytestmark = pytest.mark.unit

LONG_S = 30.0
"""For waits that end early unless something is broken."""


@pytest.fixture(scope="module", autouse=True)
def restored_environment() -> Iterator[None]:
    """Put back what the tracking client sets for the process."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("lifecycle"))


@pytest.fixture(scope="module")
def tracker(bench: Bench) -> Iterator[Any]:
    with open_tracker(bench) as made:
        yield made


@pytest.fixture(scope="module")
def one(bench: Bench) -> Path:
    return bench.fit().folder


@pytest.fixture(scope="module")
def two(bench: Bench) -> Path:
    return bench.fit(settings=bench.with_settings(training={"epochs": 3})).folder


@pytest.fixture(scope="module")
def of_another_target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bench(tmp_path_factory.mktemp("other"), data={"targets": ("up",)}).fit().folder


@pytest.fixture
def shelf(bench: Bench, tracker: Any, request: pytest.FixtureRequest) -> Shelf:
    return Shelf(bench, tracker, request.node.name.translate(str.maketrans("[]/ ", "----")))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def watcher(shelf: Shelf, recorder: Recorder) -> Iterator[ChampionWatcher]:
    made = ChampionWatcher(shelf.settings, identifier=shelf.identifier, replica="r1", instruments=recorder)
    yield made
    made.stop()


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if record.getMessage() == name]  # type: ignore[attr-defined]


def candidate_of(watcher: ChampionWatcher) -> str:
    assert watcher.current is not None
    return watcher.current.engine.bundle.manifest.identity.candidate_id


def until(condition: Callable[[], bool]) -> None:
    waiting, left = threading.Event(), LONG_S
    while not condition() and left > 0:
        waiting.wait(0.02)
        left -= 0.02
    assert condition()


# The alias moves ----------------------------------------------------------------------------------------------------


def test_it_waits_for_a_first_champion_and_takes_it(
    shelf: Shelf, watcher: ChampionWatcher, recorder: Recorder, one: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="flts_ray")
    assert (watcher.status().state, watcher.status().checked_at) == ("waiting", "")
    assert not watcher.settled
    watcher.look()
    watcher.look()
    assert watcher.current is None
    assert watcher.settled, "that there is no champion is an answer"
    assert (watcher.status().state, watcher.status().wanted, watcher.status().error) == ("waiting", "", "")
    assert len(events(caplog, "champion_absent")) == 1
    shelf.add(one)
    watcher.look()
    status = watcher.status()
    assert (status.state, status.wanted, status.loaded, status.error, status.swaps) == ("ready", "1", "1", "", 0)
    assert status.checked_at
    assert watcher.current is not None
    assert (watcher.current.name, watcher.current.version) == (shelf.registry.name, "1")
    assert watcher.current.run_id == next(shelf.versions()).run_id
    assert watcher.previous is None
    assert recorder.versions == [("", ""), ("", ""), ("1", "1")]
    (loaded,) = events(caplog, "champion_loaded")
    assert (loaded["version"], loaded["before"], loaded["replica"]) == ("1", "", "r1")
    assert loaded["registered_at"]


def test_a_new_champion_takes_over_and_the_one_before_is_kept(
    shelf: Shelf, watcher: ChampionWatcher, recorder: Recorder, one: Path, two: Path
) -> None:
    shelf.add(one)
    watcher.look()
    first = watcher.current
    shelf.add(two)
    watcher.look()
    assert candidate_of(watcher) == Bundle.load(two).manifest.identity.candidate_id
    assert watcher.previous is first
    assert (watcher.status().loaded, watcher.status().swaps, recorder.swaps) == ("2", 1, ["ok"])
    watcher.look()
    assert (watcher.status().swaps, recorder.swaps) == (1, ["ok"])


def test_a_rollback_uses_what_is_still_loaded(
    shelf: Shelf, watcher: ChampionWatcher, one: Path, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.add(one)
    watcher.look()
    first = watcher.current
    shelf.add(two)
    watcher.look()
    second = watcher.current
    shelf.registry.rollback()
    monkeypatch.setattr(ModelRegistry, "download", _never)
    watcher.look()
    assert (watcher.current, watcher.previous) == (first, second)
    assert (watcher.status().loaded, watcher.status().swaps) == ("1", 2)


def test_a_bundle_leaves_nothing_on_disk(
    shelf: Shelf, watcher: ChampionWatcher, one: Path, two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shelf.add(one)
    watcher.look()
    shelf.add(copy_with(two, tmp_path / "bad", flip_a_byte))
    watcher.look()
    assert watcher.status().loaded == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_a_champion_that_is_withdrawn_goes_on(
    shelf: Shelf, watcher: ChampionWatcher, recorder: Recorder, one: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="flts_ray")
    shelf.add(one)
    watcher.look()
    shelf.withdraw()
    watcher.look()
    watcher.look()
    assert watcher.status().loaded == "1"
    assert "has no champion any more, so version 1 goes on" in watcher.status().error
    assert recorder.versions[-1] == ("", "1")
    assert len(events(caplog, "champion_absent")) == 1
    shelf.registry.promote("1")
    watcher.look()
    assert watcher.status().error == ""


# A bad candidate ----------------------------------------------------------------------------------------------------


def _never(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("nothing should be fetched")


def _fails(self: Engine) -> None:
    raise BundleError("the smoke forecast is not finite")


def _crashes(self: Engine) -> None:
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize(
    ("damage", "check", "reason", "kind"),
    [
        (flip_a_byte, None, "is not the file that was saved", "BundleError"),
        (lose_the_weights, None, "is not a whole model bundle", "BundleError"),
        (age_the_format, None, "has the format 99", "BundleError"),
        (None, _fails, "the smoke forecast is not finite", "BundleError"),
        (None, _crashes, "RuntimeError: mat1 and mat2", "RuntimeError"),
    ],
    ids=["flipped", "incomplete", "format", "smoke", "crash"],
)
def test_a_bad_candidate_changes_nothing_and_is_reported_once(
    damage: Callable[[Path], None] | None,
    check: Callable[[Engine], None] | None,
    reason: str,
    kind: str,
    shelf: Shelf,
    watcher: ChampionWatcher,
    recorder: Recorder,
    one: Path,
    two: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shelf.add(one)
    watcher.look()
    before = watcher.current
    shelf.add(copy_with(two, tmp_path / "bad", damage or (lambda folder: None)))
    with monkeypatch.context() as patch:
        if check is not None:
            patch.setattr(Engine, "check", check)
        watcher.look()
    with monkeypatch.context() as patch:
        patch.setattr(ModelRegistry, "download", _never)
        watcher.look()
        watcher.look()
    assert (watcher.current, watcher.previous) == (before, None)
    status = watcher.status()
    assert (status.state, status.wanted, status.loaded, status.swaps) == ("ready", "2", "1", 0)
    assert status.error.startswith("version 2 is refused: ")
    assert reason in status.error
    (refused,) = events(caplog, "champion_refused")
    assert (refused["version"], refused["loaded"], refused["error"]) == ("2", "1", kind)
    assert (recorder.swaps, recorder.versions[-1]) == (["failed"], ("2", "1"))

    shelf.registry.rollback()
    watcher.look()
    assert (watcher.current, watcher.status().error) == (before, "")
    shelf.add(two)
    watcher.look()
    assert (watcher.status().loaded, watcher.status().error, recorder.swaps) == ("3", "", ["failed", "ok"])


def test_a_bad_first_champion_leaves_the_replica_waiting_for_a_good_one(
    shelf: Shelf, watcher: ChampionWatcher, one: Path, tmp_path: Path
) -> None:
    shelf.add(copy_with(one, tmp_path / "bad", flip_a_byte))
    watcher.look()
    assert watcher.status().state == "waiting"
    assert "is not the file that was saved" in watcher.status().error
    assert not watcher.settled, "it may not take the place of a replica that answers"
    shelf.add(one)
    watcher.look()
    assert (watcher.status().state, watcher.status().loaded) == ("ready", "2")


def test_a_model_that_answers_another_question_is_refused_unless_it_is_the_first(
    shelf: Shelf, watcher: ChampionWatcher, recorder: Recorder, one: Path, of_another_target: Path
) -> None:
    shelf.add(one)
    watcher.look()
    shelf.add(of_another_target)
    watcher.look()
    assert watcher.status().loaded == "1"
    assert "targets ['down'] → ['up']" in watcher.status().error
    fresh = ChampionWatcher(shelf.settings, identifier=shelf.identifier, replica="r2", instruments=recorder)
    fresh.look()
    assert fresh.status().loaded == "2"


def test_what_could_not_be_fetched_is_tried_again_after_growing_pauses(
    shelf: Shelf,
    watcher: ChampionWatcher,
    recorder: Recorder,
    one: Path,
    two: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    now, tries = [1000.0], list[float]()
    monkeypatch.setattr(lifecycle, "time", SimpleNamespace(monotonic=lambda: now[0]))
    shelf.add(one)
    watcher.look()
    shelf.add(two)

    def no_answer(self: ModelRegistry, version: str, destination: Path) -> Path:
        tries.append(now[0])
        raise StorageError("the bucket does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(ModelRegistry, "download", no_answer)
        for _ in range(30):
            watcher.look()
            now[0] += 0.05
    pauses = np.diff(tries)
    assert len(pauses) >= 3
    assert (np.diff(pauses) > 0).all()
    assert watcher.status().loaded == "1"
    assert "version 2 cannot be fetched yet: the bucket does not answer" in watcher.status().error
    assert len(events(caplog, "champion_delayed")) == 1
    assert recorder.swaps == []
    now[0] += lifecycle.LONGEST_PAUSE_S
    watcher.look()
    assert (watcher.status().loaded, watcher.status().error, recorder.swaps) == ("2", "", ["ok"])


# The registry is away -----------------------------------------------------------------------------------------------


def test_without_the_registry_the_model_goes_on(
    shelf: Shelf,
    watcher: ChampionWatcher,
    one: Path,
    two: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="flts_ray")
    shelf.add(one)
    watcher.look()
    before = watcher.status()
    with monkeypatch.context() as patch:
        patch.setattr(watcher, "_registry", away(free_ports(1)[0], tmp_path, shelf.identifier))
        patch.setattr(lifecycle, "now_utc", _never)
        watcher.look()
        watcher.look()
        assert watcher.status() == before
        (gone,) = events(caplog, "registry_unreachable")
        assert "Could not look up champion" in gone["reason"]
        assert gone["checked_at"] == before.checked_at
        assert events(caplog, "registry_back") == []
    shelf.add(two)
    watcher.look()
    watcher.look()
    assert watcher.status().loaded == "2"
    assert len(events(caplog, "registry_back")) == 1


def test_a_replica_that_starts_without_the_registry_says_why_it_waits(
    shelf: Shelf, watcher: ChampionWatcher, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(watcher, "_registry", away(free_ports(1)[0], tmp_path, shelf.identifier))
        watcher.look()
        status = watcher.status()
        assert (status.state, status.checked_at) == ("waiting", "")
        assert "Could not look up champion" in status.error
        assert not watcher.settled
    watcher.look()
    assert watcher.status().error == ""
    shelf.add(one)
    watcher.look()
    assert watcher.status().state == "ready"


def test_an_identifier_that_names_no_model_is_refused(shelf: Shelf, recorder: Recorder) -> None:
    with pytest.raises(ConfigError, match="cannot name a model"):
        ChampionWatcher(shelf.settings, identifier="a b", replica="r1", instruments=recorder)


# The thread ---------------------------------------------------------------------------------------------------------


def test_the_thread_follows_the_alias_until_it_is_stopped(
    shelf: Shelf, watcher: ChampionWatcher, one: Path, two: Path
) -> None:
    assert not watcher.alive
    watcher.start()
    shelf.add(one)
    until(lambda: watcher.status().loaded == "1")
    shelf.add(two)
    until(lambda: watcher.status().loaded == "2")
    assert watcher.alive
    watcher.stop()
    assert not watcher.alive
    assert watcher.current is not None


def test_it_need_not_wait_for_its_next_look_to_stop(shelf: Shelf, recorder: Recorder, one: Path) -> None:
    shelf.add(one)
    patient = shelf.bench.with_settings(serve={"poll_s": 3600.0})
    watcher = ChampionWatcher(patient, identifier=shelf.identifier, replica="r1", instruments=recorder)
    watcher.start()
    until(lambda: watcher.status().state == "ready")
    watcher.stop()
    assert not watcher.alive


def test_a_load_that_outlives_the_stop_changes_nothing(
    shelf: Shelf, watcher: ChampionWatcher, one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, released = threading.Event(), threading.Event()

    def slow(self: Engine) -> None:
        loading.set()
        assert released.wait(LONG_S)

    monkeypatch.setattr(Engine, "check", slow)
    monkeypatch.setattr(lifecycle, "STOP_S", 0.01)
    shelf.add(one)
    watcher.start()
    assert loading.wait(LONG_S)
    watcher.stop()
    released.set()
    until(lambda: not watcher.alive)
    assert watcher.status().state == "waiting"


def test_requests_during_swaps_always_meet_one_whole_model(
    shelf: Shelf, watcher: ChampionWatcher, one: Path, two: Path
) -> None:
    """Readers hammer while the alias goes back and forth: every answer is that of the version it claims."""
    history = shelf.bench.dataset.raws[0]
    query = Query(history=history, horizon=1, levels=(0.9,), adapt_rows=0)
    wanted = {str(n): Bundle.load(folder).forecast(history).values for n, folder in enumerate((one, two), start=1)}
    assert not np.allclose(wanted["1"], wanted["2"], rtol=1e-3)
    shelf.add(one)
    watcher.look()
    shelf.add(two)
    answers, wrong, done = dict.fromkeys(wanted, 0), list[str](), threading.Event()

    def ask() -> None:
        while not done.is_set():
            model, status = watcher.current, watcher.status()
            if model is None or status.state != "ready" or status.loaded not in wanted:
                wrong.append(f"{model} {status}")
                return
            (forecast,) = model.engine.forecast([query])
            found = getattr(forecast, "values", np.array(np.nan))
            if not np.allclose(found, wanted[model.version], rtol=1e-5):
                wrong.append(f"version {model.version} answered {found}")
                return
            answers[model.version] += 1

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    for _ in range(10):
        watcher.look()
        shelf.registry.rollback()
    done.set()
    for asker in askers:
        asker.join()
    assert wrong == []
    assert min(answers.values()) > 0
    assert watcher.status().swaps == 10
