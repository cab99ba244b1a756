"""Which difference causes which: a table of rules, each of which claims some inputs and explains what follows.

A rule sees the differences that no earlier rule has claimed. What a setting can change is in :data:`EFFECTS`; an
outcome may follow from several causes, and is listed under each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flts_ray.reconcile.inputs import NUMERICS
from flts_ray.reconcile.ledger import Difference
from flts_ray.reconcile.outcomes import FAILED, KINDS
from flts_ray.reconcile.sampling import Finding, sampling_rules
from flts_ray.reconcile.side import Side

NETWORKS = ("gru", "lstm")


def _models(kinds: Sequence[str]) -> frozenset[str]:
    return frozenset({*(f"id:{kind}" for kind in kinds), *(f"fit:{kind}" for kind in kinds), "verdict"})


_ROWS = frozenset({"rows", "block", "counts"})
FITS = frozenset({*(f"fit:{kind}" for kind in KINDS), "baselines", "verdict"})
_DATASET = frozenset({"dataset_id", "transform", "baselines"}) | _models(KINDS)

EFFECTS: tuple[tuple[tuple[str, ...], frozenset[str]], ...] = (
    (("SAMPLE_",), FITS),
    (("sampling.seed",), _DATASET | {"config_hash", "block"}),
    (("sampling.", "requested rows", "kept rows"), _DATASET | {"config_hash", "asked", *_ROWS}),
    (("data.train", "data.test", "file"), _DATASET | {"data_digest", *_ROWS}),
    (("data.",), _DATASET | {"config_hash", *_ROWS}),
    (("hash_salt",), frozenset({"config_hash", "dataset_id", *(f"id:{kind}" for kind in KINDS)})),
    (("cleaning.", "features.", "scaling."), _DATASET | {"config_hash"}),
    (("transform_version",), _DATASET | _ROWS),
    (("code_version", "image"), FITS),
    (("seed",), _models(KINDS)),
    (("windows.",), _models(KINDS) | {"baselines", "counts"}),
    (("evaluation.",), _models(KINDS) | {"baselines"}),
    (("training.validation_fraction",), _models(KINDS) | {"counts"}),
    (("training.epochs",), _models(NETWORKS) | {"epochs"}),
    (("recurrent.", "training."), _models(NETWORKS)),
    (("prophet.",), _models(("prophet",))),
    (("baselines.",), frozenset({"baselines", "counts", "verdict"})),
    (("candidates",), _models(KINDS)),
    (("promotion.", "backtest.", "tune.", "identifier", "candidate"), frozenset({"verdict"})),
)
"""What is put in, by the start of its name → the outcomes that it can change. Where a name is not here, the rule says
what follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why the sides differ.

    Attributes:
        rule: Which rule found it.
        title: What it is, in a sentence.
        remedy: What to do.
        differences: What it consists of.
        consequences: What follows, from it alone or together with other causes.
    """

    rule: str
    title: str
    remedy: str
    differences: tuple[Difference, ...]
    consequences: tuple[Difference, ...] = ()

    def document(self) -> dict[str, Any]:
        """As JSON; differences by name."""
        return {
            "rule": self.rule,
            "title": self.title,
            "remedy": self.remedy,
            "differences": [one.name for one in self.differences],
            "consequences": [one.name for one in self.consequences],
        }


ORDER = (
    "sampling_in_several_places",
    "sampling_not_applied",
    "sampling",
    "source",
    "code_version",
    "services",
    "recipe",
    "shaping",
    "seed",
    "epochs",
    "model",
    "judging",
    "libraries",
    "environment",
    "failure",
    "chance",
)
"""Causes as they are listed: as data flow."""

UNSURE = ("code_version", "libraries", "environment")
"""Rules that cannot tell whether what they list would have come out otherwise without them."""


def find_causes(a: Side, b: Side, differences: Sequence[Difference]) -> tuple[Cause, ...]:
    """Explain what can be explained.

    Args:
        a: One side.
        b: The other.
        differences: Those that matter.
    """
    left = list(differences)
    outcomes = [one for one in differences if one.outcome]
    causes: list[Cause] = []
    for finding in _findings(a, b, left):
        for one in finding.differences:
            left.remove(one)
        effects = finding.effects
        if effects is None:
            effects = frozenset[str]().union(*(effects_of(one) for one in finding.differences))
        causes.append(
            Cause(
                rule=finding.rule,
                title=finding.title,
                remedy=finding.remedy,
                differences=finding.differences,
                consequences=tuple(o for o in outcomes if o.outcome in effects and o not in finding.differences),
            )
        )
    return tuple(sorted(_with_the_rest(causes, outcomes), key=lambda cause: ORDER.index(cause.rule)))


def effects_of(one: Difference) -> frozenset[str]:
    """The outcomes that an input can change."""
    return next((effects for starts, effects in EFFECTS if one.key.startswith(starts)), frozenset())


def _findings(a: Side, b: Side, left: list[Difference]) -> Iterator[Finding]:
    """Every rule in turn; ``left`` shrinks between them as findings are taken."""
    for rule in (*sampling_rules(a, b), lambda left: _code(a, b, left), *RULES):
        found = rule(left)
        if found is not None and found.differences:
            yield found


def _with_the_rest(causes: list[Cause], outcomes: Sequence[Difference]) -> list[Cause]:
    """New code can change anything that nothing else explains; without it, equal inputs leave chance."""
    told = {id(one) for cause in causes for one in (*cause.differences, *cause.consequences)}
    rest = [one for one in outcomes if id(one) not in told]
    out = []
    for cause in causes:
        if cause.rule == "code_version":
            known = list(cause.consequences)
            cause = Cause(
                rule=cause.rule,
                title=cause.title,
                remedy=cause.remedy,
                differences=cause.differences,
                consequences=(*known, *(one for one in rest if one not in known)),
            )
            rest = []
        out.append(cause)
    by_chance = tuple(one for one in rest if one.outcome in FITS and one.key != "candidate")
    if by_chance and len(by_chance) == len(rest):
        out.append(
            Cause(
                rule="chance",
                title="Everything that is recorded of the inputs is the same, and yet results differ: chance, such as "
                "the order of sums over several threads or workers",
                remedy="repeat one of them with --force; if it repeats itself, look at the machine of the other",
                differences=by_chance,
            )
        )
    return out


def _rule(
    name: str,
    title: Callable[[Sequence[Difference]], str],
    remedy: str,
    picks: Callable[[Difference], bool],
    effects: frozenset[str] | None = None,
) -> Callable[[Sequence[Difference]], Finding | None]:
    def rule(left: Sequence[Difference]) -> Finding | None:
        mine = tuple(one for one in left if picks(one) and not one.outcome)
        return Finding(name, title(mine), remedy, mine, effects) if mine else None

    return rule


def _listed(start: str) -> Callable[[Sequence[Difference]], str]:
    return lambda found: start + values(found)


def values(found: Sequence[Difference], limit: int = 3) -> str:
    """``key: a → b`` of a few differences."""
    parts = [f"{one.name}: {text(one.a)} → {text(one.b)}" for one in found[:limit]]
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return ", ".join(parts) + more


def text(value: Any, width: int = 60) -> str:
    """A value in a few characters."""
    if value is None:
        return "not set"
    if isinstance(value, Mapping) and len(value) > 1:
        first = next(iter(value))
        return f"{text({first: value[first]}, width)} and {len(value) - 1} more"
    if isinstance(value, Mapping):
        value = [f"{name} {part}" for name, part in value.items()]
    if isinstance(value, bool) or not isinstance(value, int | float):
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        if shown == "":
            return "none"
        return shown if len(shown) <= width else shown[: width - 1] + "…"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _is_recipes(one: Difference) -> bool:
    origins = [origin.partition(",")[0] for origin in (one.origin_a, one.origin_b)]
    return any(origin.startswith("recipe ") for origin in origins) and all(
        origin == "default" or origin.startswith("recipe ") for origin in origins
    )


def _recipe(left: Sequence[Difference]) -> Finding | None:
    named = [one for one in left if one.key == "recipe"]
    if not named:
        return None
    follows = [one for one in left if _is_recipes(one)]
    count = f"; it sets {len(follows)} of the settings that differ" if follows else ""
    return Finding(
        "recipe",
        f"Different recipes: {text(named[0].a)} → {text(named[0].b)}{count}",
        "name the same recipe on both sides",
        (*named, *follows),
    )


def _seed_title(found: Sequence[Difference]) -> str:
    alone = [one.key for one in found] == ["sampling.seed"]
    return f"Different seed{' of the sampling' if alone else ''}: {values(found)}"


def _code(a: Side, b: Side, left: Sequence[Difference]) -> Finding | None:
    mine = tuple(one for one in left if one.area == "code" and not one.outcome)
    if not mine:
        return None
    stale = [
        f"{label} used a dataset made by {side.record.claim_code_version} in a run of {side.record.code_version}"
        for label, side in (("A", a), ("B", b))
        if side.record and side.record.claim_code_version != side.record.code_version
    ]
    if not stale and (a.record is None) != (b.record is None) and any(one.key == "code_version" for one in mine):
        stale = ["the dataset and the run were made by different code"]
    start = f"Stale code version: {'; '.join(stale)}; " if stale else "Different code versions: "
    return Finding(
        "code_version",
        start + values(mine),
        "deploy one version everywhere (an image tag that says which), then run the older side again with --force",
        mine,
    )


def _failure(left: Sequence[Difference]) -> Finding | None:
    mine = tuple(one for one in left if one.key == "candidate" and one.note == FAILED)
    return Finding(
        "failure",
        f"A candidate could not be fitted: {values(mine)}",
        "see its events in runs/<run_id>/events.jsonl, then run again",
        mine,
    )


RULES: tuple[Callable[[Sequence[Difference]], Finding | None], ...] = (
    _recipe,
    _failure,
    _rule(
        "source",
        _listed("Different source data: "),
        "preprocess both from the same files; the claims list their SHA-256",
        lambda one: one.area == "source",
    ),
    _rule(
        "services",
        lambda found: "Services stand on one side only: " + ", ".join(str(one.a or one.b) for one in found),
        "deploy them on both sides, or leave the file of the other side complete",
        lambda one: one.key.startswith("service "),
    ),
    _rule(
        "seed",
        _seed_title,
        "set the same seed on both sides",
        lambda one: one.key in ("seed", "sampling.seed"),
    ),
    _rule(
        "epochs",
        _listed("Different number of epochs: "),
        "set the same training.epochs on both sides",
        lambda one: one.key == "training.epochs",
    ),
    _rule(
        "shaping",
        _listed("Settings that shape the data differ, so these are different datasets: "),
        "set them alike to compare scores",
        lambda one: one.key.startswith(("data.", "cleaning.", "features.", "scaling.", "hash_salt")),
    ),
    _rule(
        "model",
        _listed("Models are set up differently: "),
        "set them alike, or take the difference in scores as the answer to your question",
        lambda one: one.key.startswith(("windows.", "recurrent.", "training.", "prophet.", "candidates", "tune.")),
    ),
    _rule(
        "judging",
        _listed("Results are judged differently: "),
        "set them alike to compare verdicts",
        lambda one: one.key.startswith(("evaluation.", "promotion.", "baselines.", "backtest.", "identifier")),
    ),
    _rule(
        "libraries",
        _listed("Different library versions: "),
        "install the same versions, as constraints.txt has them",
        lambda one: one.area == "libraries",
        FITS | {"transform"},
    ),
    _rule(
        "environment",
        _listed("Different machine or threads: "),
        "set the same threads (OMP_NUM_THREADS); other processors may round differently",
        lambda one: one.key.startswith(("host ", *NUMERICS)),
        FITS,
    ),
)
