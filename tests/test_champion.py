"""The alias moves when a saved candidate beats the champion on the same rows, and only then."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from flts_ray.candidates import FitSummary, FittedCandidate
from flts_ray.champion import identifier_of, identifiers_of, promote, promote_each
from flts_ray.config import Settings
from flts_ray.errors import BundleError, ConfigError, FltsError, TrackingError
from flts_ray.evaluation.promotion import Verdict
from flts_ray.evaluation.stage import evaluate
from flts_ray.models.baselines import Persistence
from flts_ray.tracking.registry import ChampionRef, ModelRegistry
from flts_ray.training.stage import bundle_of
from tests.stages import Bench, make_bench

pytestmark = pytest.mark.unit


@dataclass
class Shelf:
    """A registry in memory, over the folders of saved candidates."""

    folders: dict[str, Path] = field(default_factory=dict)
    versions: list[ChampionRef] = field(default_factory=list)
    promoted: list[str] = field(default_factory=list)
    trouble: FltsError | None = None
    rival: Callable[[], None] | None = None
    name: str = "flts-alpha"

    def register(self, run_id: str, candidate_id: str, *, tags: dict[str, str]) -> str:
        version = str(len(self.versions) + 1)
        all_tags = {"candidate_id": candidate_id, **tags}
        self.versions.append(ChampionRef(name="flts-alpha", version=version, run_id=run_id, tags=all_tags))
        if self.rival is not None:
            rival, self.rival = self.rival, None
            rival()
        return version

    def promote(self, version: str) -> None:
        self.promoted.append(version)

    def champion(self) -> ChampionRef | None:
        return self.versions[int(self.promoted[-1]) - 1] if self.promoted else None

    def download(self, version: str, destination: Path) -> Path:
        if self.trouble is not None:
            raise self.trouble
        folder = self.folders[self.versions[int(version) - 1].candidate_id]
        return Path(shutil.copytree(folder, destination, dirs_exist_ok=True))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("champion"))


@pytest.fixture(scope="module")
def good(bench: Bench) -> FittedCandidate:
    return bench.fit(settings=bench.with_settings(training={"epochs": 40}))


@pytest.fixture(scope="module")
def weak(bench: Bench) -> FittedCandidate:
    return bench.fit()


@pytest.fixture
def shelf(good: FittedCandidate, weak: FittedCandidate) -> Shelf:
    return Shelf({c.summary.candidate_id: c.folder for c in (good, weak)})


def decide(bench: Bench, candidate: FittedCandidate, shelf: Shelf, **changes: Any) -> Verdict:
    settings = bench.with_settings(**changes)
    evaluated = evaluate(bench.dataset, {"gru": candidate}, {}, settings)
    registry = cast(ModelRegistry, shelf)
    return promote(
        bench.dataset, evaluated, {"gru": candidate}, {}, settings, registry=registry, run_ids={"gru": "run"}
    )


def test_the_first_winner_is_registered_and_promoted(bench: Bench, weak: FittedCandidate, shelf: Shelf) -> None:
    verdict = decide(bench, weak, shelf)
    assert (verdict.state, verdict.champion) == ("promoted", "gru")
    (version,) = shelf.versions
    assert version.candidate_id == weak.summary.candidate_id
    assert version.tags["dataset_id"] == bench.dataset.dataset_id
    assert (version.tags["kind"], version.run_id, shelf.promoted) == ("gru", "run", ["1"])


def test_the_champion_itself_again_is_kept_and_nothing_moves(bench: Bench, weak: FittedCandidate, shelf: Shelf) -> None:
    decide(bench, weak, shelf)
    verdict = decide(bench, weak, shelf)
    assert (verdict.state, verdict.champion, verdict.exit_code) == ("kept", "gru", 0)
    assert (len(shelf.versions), shelf.promoted) == (1, ["1"])


def test_a_better_one_takes_over_and_a_weaker_one_does_not(
    bench: Bench, good: FittedCandidate, weak: FittedCandidate, shelf: Shelf
) -> None:
    assert decide(bench, weak, shelf).state == "promoted"
    assert decide(bench, good, shelf).state == "promoted"
    assert shelf.promoted == ["1", "2"]
    assert decide(bench, weak, shelf).state == "kept"
    assert shelf.promoted == ["1", "2"]


def test_the_incumbent_is_scored_as_if_it_were_a_candidate(
    bench: Bench, good: FittedCandidate, weak: FittedCandidate, shelf: Shelf
) -> None:
    """Rescored from its bundle through its own transform, it gets to the last digit what it got on the leaderboard."""
    decide(bench, good, shelf)
    row = evaluate(bench.dataset, {"gru": good}, {}, bench.settings).leaderboard.overall("gru")
    assert row is not None
    verdict = decide(bench, weak, shelf)
    assert f"against {row.composite:.6f} on the same rows" in verdict.reasons[-1]


def test_a_champion_whose_bundle_is_damaged_gives_way_with_the_reason(
    bench: Bench, good: FittedCandidate, weak: FittedCandidate, shelf: Shelf
) -> None:
    decide(bench, good, shelf)
    shelf.trouble = BundleError("its weights are not what was written")
    verdict = decide(bench, weak, shelf)
    assert verdict.state == "promoted"
    assert "could not be scored on these rows: its weights are not what was written" in verdict.reasons[-1]


def test_an_outage_dethrones_nobody(bench: Bench, good: FittedCandidate, weak: FittedCandidate, shelf: Shelf) -> None:
    decide(bench, good, shelf)
    shelf.trouble = TrackingError("the store did not answer")
    with pytest.raises(TrackingError, match="did not answer"):
        decide(bench, weak, shelf)
    assert shelf.promoted == ["1"]


def test_a_champion_that_changes_while_this_run_decides_is_judged_anew(
    bench: Bench, good: FittedCandidate, weak: FittedCandidate, shelf: Shelf
) -> None:
    """Another run, which does not share our lock, promotes the better model just before this one moves the alias."""
    shelf.rival = lambda: shelf.promote(Shelf.register(shelf, "other", good.summary.candidate_id, tags={"kind": "gru"}))
    verdict = decide(bench, weak, shelf)
    assert verdict.state == "kept"
    assert shelf.champion() is not None
    assert shelf.champion().candidate_id == good.summary.candidate_id  # type: ignore[union-attr]


def test_a_champion_that_never_stays_is_an_error(bench: Bench, weak: FittedCandidate, shelf: Shelf) -> None:
    def another() -> None:
        shelf.promote(shelf.register("other", "unknown", tags={"kind": "gru"}))
        shelf.rival = another

    shelf.rival = another
    shelf.trouble = BundleError("gone")
    with pytest.raises(TrackingError, match="changed 3 times"):
        decide(bench, weak, shelf)


def test_a_sampled_dataset_promotes_nothing(bench: Bench, weak: FittedCandidate, shelf: Shelf) -> None:
    claim = bench.dataset.claim.model_copy(update={"sampled": True})
    sampled = replace(bench, dataset=replace(bench.dataset, claim=claim))
    verdict = decide(sampled, weak, shelf)
    assert (verdict.state, verdict.champion, verdict.exit_code) == ("sampled", None, 31)
    assert shelf.versions == []
    assert decide(sampled, weak, shelf, promotion={"allow_sampled": True}).state == "promoted"


def test_a_missing_candidate_promotes_nothing(bench: Bench, weak: FittedCandidate, shelf: Shelf) -> None:
    verdict = decide(bench, weak, shelf, candidates=("gru", "lstm"))
    assert (verdict.state, verdict.exit_code, shelf.versions) == ("missing_candidate", 32, [])


def test_a_champion_of_another_horizon_or_station_cannot_be_compared(
    bench: Bench, weak: FittedCandidate, shelf: Shelf, tmp_path: Path
) -> None:
    decide(bench, weak, shelf)
    ahead = decide_with(make_bench(tmp_path / "ahead", windows={"lookback": 4, "horizon": 2}), shelf)
    assert "it forecasts 1 steps of down, this run 2 of down" in " ".join(ahead.reasons)
    elsewhere = decide_with(make_bench(tmp_path / "elsewhere", ("omega",)), shelf)
    assert "it does not know series 'omega', only alpha" in " ".join(elsewhere.reasons)


def decide_with(bench: Bench, shelf: Shelf) -> Verdict:
    """The verdict on a good candidate of another dataset; the shelf stays as it is."""
    own = Shelf(dict(shelf.folders), list(shelf.versions), list(shelf.promoted))
    return decide(bench, bench.fit(settings=bench.with_settings(training={"epochs": 40})), own)


def test_the_registered_name_is_the_one_set_else_the_station_else_stations(bench: Bench) -> None:
    assert identifier_of(bench.dataset, bench.settings) == "alpha"
    assert identifier_of(bench.dataset, Settings(identifier="north")) == "north"
    both = replace(bench.dataset, frames=bench.dataset.frames * 2)
    assert identifier_of(both, bench.settings) == "stations"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("pair"), ("alpha", "beta"), candidates=("gru", "prophet"))


@pytest.fixture(scope="module")
def pair_fits(pair: Bench) -> dict[str, FittedCandidate]:
    """A network that knows both stations, and one that stands in for a Prophet that lacks one."""
    whole = pair.fit(settings=pair.with_settings(training={"epochs": 40}))
    name = "prophet-000000000000"
    bundle = bundle_of(OnlyAlpha.fit(pair.settings), name, pair.dataset, pair.settings)
    summary = FitSummary(kind="prophet", candidate_id=name, fit_s=1.0, failures={"beta": "too few rows"})
    return {"gru": whole, "prophet": pair.candidates.save(bundle, summary)}


class OnlyAlpha(Persistence):
    """Knows one station only."""

    def knows(self, series: str) -> bool:
        return series == "alpha"


def decide_each(pair: Bench, fits: dict[str, FittedCandidate], shelves: dict[str, Shelf], **changes: Any) -> Verdict:
    settings = pair.with_settings(promotion={"scope": "series"}, **changes)
    evaluated = evaluate(pair.dataset, fits, {}, settings)

    def registry(name: str) -> ModelRegistry:
        folders = {fitted.summary.candidate_id: fitted.folder for fitted in fits.values()}
        return cast(ModelRegistry, shelves.setdefault(name, Shelf(folders)))

    run_ids = dict.fromkeys(fits, "run")
    return promote_each(pair.dataset, evaluated, fits, {}, settings, registry=registry, run_ids=run_ids, guard=Free)


class Free:
    """A lock that nobody else wants."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> Free:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def check(self) -> None:
        pass


def test_each_station_gets_a_champion_of_its_own_under_its_own_name(
    pair: Bench, pair_fits: dict[str, FittedCandidate]
) -> None:
    shelves: dict[str, Shelf] = {}
    verdict = decide_each(pair, pair_fits, shelves)
    assert set(shelves) == {"alpha", "beta"}
    assert {series: (found.state, found.champion) for series, found in verdict.series.items()} == {
        "alpha": ("promoted", "gru"),
        "beta": ("promoted", "gru"),
    }
    assert (verdict.state, verdict.exit_code, verdict.champion) == ("promoted", 0, "gru")
    reasons = " ".join(verdict.series["beta"].reasons)
    assert "prophet is left out: it has no result of beta: too few rows." in reasons
    assert "left out" not in " ".join(verdict.series["alpha"].reasons)
    assert [shelf.promoted for shelf in shelves.values()] == [["1"], ["1"]]
    again = decide_each(pair, pair_fits, shelves)
    assert (again.state, [found.state for found in again.series.values()]) == ("kept", ["kept", "kept"])
    named: dict[str, Shelf] = {}
    assert decide_each(pair, pair_fits, named, identifier="north").series["beta"].identifier == "north-beta"
    assert set(named) == {"north-alpha", "north-beta"}


def test_with_one_champion_for_all_a_candidate_that_lacks_a_station_is_left_out(
    pair: Bench, pair_fits: dict[str, FittedCandidate], shelf: Shelf
) -> None:
    evaluated = evaluate(pair.dataset, pair_fits, {}, pair.settings)
    board = evaluated.leaderboard
    own, missing, pooled = (board.row("prophet", series=name, target="down") for name in ("alpha", "beta", "*"))
    assert own is not None
    assert own.composite is not None
    assert missing is not None
    assert (missing.n, missing.note) == (0, "too few rows")
    assert pooled is not None
    assert (pooled.n, pooled.composite) == (0, None)
    assert pooled.note.endswith(
        "1 of 2 series, so its score would not be of the same rows as the others'; the first, beta: too few rows"
    )
    registry = cast(ModelRegistry, shelf)
    verdict = promote(
        pair.dataset, evaluated, pair_fits, {}, pair.settings, registry=registry, run_ids=dict.fromkeys(pair_fits, "r")
    )
    assert (verdict.state, verdict.champion) == ("promoted", "gru")
    assert "prophet is left out: it has no result for 1 of 2 series" in verdict.reasons[0]
    alone = {"prophet": pair_fits["prophet"]}
    only = pair.with_settings(candidates=("prophet",))
    empty = cast(ModelRegistry, Shelf())
    lonely = promote(pair.dataset, evaluate(pair.dataset, alone, {}, only), alone, {}, only, registry=empty, run_ids={})
    assert (lonely.state, lonely.exit_code) == ("missing_candidate", 32)


def test_a_station_whose_name_cannot_name_a_model_is_refused(pair: Bench) -> None:
    strange = replace(pair.dataset, frames=(replace(pair.dataset.frames[0], series="a/b"),))
    with pytest.raises(ConfigError, match="a/b"):
        identifiers_of(strange, pair.settings)
