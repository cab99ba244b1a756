"""Rules about sampling, which has one owner: who else sets it, whether it was applied, whether it is the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flts_ray.data.sampling import SamplingEvidence
from flts_ray.env_names import SAMPLING_NAMES
from flts_ray.reconcile.deployment import PREPROCESS, WHOLE
from flts_ray.reconcile.inputs import asked_rows
from flts_ray.reconcile.ledger import Difference
from flts_ray.reconcile.outcomes import KINDS, SPLITS
from flts_ray.reconcile.side import Side, says

OWNER = "sampling has one owner, the preprocess step"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found: the differences that it claims, and the outcomes that they change; None: see the table."""

    rule: str
    title: str
    remedy: str
    differences: tuple[Difference, ...]
    effects: frozenset[str] | None = None


Rule = Callable[[Sequence[Difference]], Finding | None]


def sampling_rules(a: Side, b: Side) -> tuple[Rule, ...]:
    """The rules for these two sides, in the order in which they claim differences."""
    sides = {"A": a, "B": b}
    return (
        lambda left: _several_places(sides, left),
        lambda left: _not_applied(sides, left),
        _differs,
        lambda left: _idle_seed(sides, left),
    )


def places_of(side: Side) -> list[str]:
    """Where a side sets sampling, if that is more than one place or the wrong one."""
    services = [service for service in side.services.values() if service.sampling]
    if len(services) > 1 or any(service.role not in (PREPROCESS, WHOLE) for service in services):
        return [service.name for service in services]
    places: dict[str, None] = {}
    for key, record in side.settings.items():
        lost = [origin for origin, value in record.overridden if value != record.value]
        if key.startswith("sampling.") and lost:
            places.update(dict.fromkeys([*lost, record.origin]))
    return list(places)


def _several_places(sides: dict[str, Side], left: Sequence[Difference]) -> Finding | None:
    mine: dict[int, Difference] = {}
    titles: list[str] = []
    for label, side in sides.items():
        places = places_of(side)
        fought_over = {key for key, record in side.settings.items() if record.overridden} | set(SAMPLING_NAMES)
        here = [
            one
            for one in left
            if one.area == "sampling" and not one.outcome and one.key in fought_over
            if (one.a if label == "A" else one.b) is not None
        ]
        if places and here:
            titles.append(f"{label} sets sampling in {len(places)} places ({', '.join(places)})")
            mine.update({id(one): one for one in here})
    if not mine:
        return None
    return Finding(
        "sampling_in_several_places",
        f"{' and '.join(titles)}, so it is not plain which rows count: {OWNER}",
        "leave it in the preprocess step only, and unset SAMPLE_* everywhere else",
        tuple(mine.values()),
    )


def _not_applied(sides: dict[str, Side], left: Sequence[Difference]) -> Finding | None:
    titles: list[str] = []
    mine: dict[int, Difference] = {}
    for label, other in (("A", "B"), ("B", "A")):
        for split in SPLITS:
            key = f"sampling.{split}_rows"
            for owner, place in ((label, label), (label, other)):
                title = _unsampled(sides[owner], sides[place], owner, place, split)
                claimed = [
                    one
                    for one in left
                    if one.key == key or (one.key in ("requested rows", "kept rows") and one.where.endswith(split))
                ]
                if title and claimed:
                    titles.append(title)
                    mine.update({id(one): one for one in claimed})
    if not mine:
        return None
    if not any(one.a and one.b for one in left if one.key.startswith("sampling.") and one.key.endswith("_rows")):
        how = [one for one in left if one.key in ("sampling.strategy", "sampling.seed")]
        mine.update({id(one): one for one in how})  # of no effect where nothing is sampled
    made = {side.claim.code_version for side in sides.values() if side.claim}
    code = {side.record.code_version for side in sides.values() if side.record}
    hint = (
        f" (the dataset was made by {', '.join(sorted(made))}, not by {', '.join(sorted(code))})" if code - made else ""
    )
    return Finding(
        "sampling_not_applied",
        f"Sampling is configured but was not applied: {'; '.join(dict.fromkeys(titles))}{hint}",
        "see whether the setting reaches the preprocess step (flts config show), that no older image runs there, "
        "and preprocess again with --force; the claim then shows the rows kept",
        tuple(mine.values()),
    )


def _unsampled(asking: Side, having: Side, owner: str, place: str, split: str) -> str:
    """A sentence if one side asks for fewer rows than the other, or it itself, has kept."""
    if having.claim is None or (owner != place and asking.claim is not None):
        return ""  # two datasets that each follow their own settings are just different
    asked = asked_rows(asking, f"sampling.{split}_rows")
    evidence: list[SamplingEvidence] = [getattr(record, split).sampling for record in having.claim.series]
    wanted = asked.value if asked and isinstance(asked.value, int) else 0
    if owner == place:
        wanted = max([wanted, *(one.requested for one in evidence)])
    over = [one for one in evidence if wanted and one.kept_rows > wanted and (owner == place or not one.sampled)]
    if not over:
        return ""
    kept, source = max(one.kept_rows for one in over), max(one.source_rows for one in over)
    return f"{owner} asks for {wanted:,} {split} rows, and the dataset of {place} keeps {kept:,} of {source:,}"


def _differs(left: Sequence[Difference]) -> Finding | None:
    rows = [one for one in left if one.key in ("sampling.train_rows", "sampling.test_rows")]
    strategy = [one for one in left if one.key == "sampling.strategy"]
    one_sided = any(not one.a or not one.b for one in rows)
    seed = [one for one in left if one.key == "sampling.seed" and (one_sided or one.a is None or one.b is None)]
    names = [one for one in left if one.key in SAMPLING_NAMES]
    mine = (*rows, *strategy, *seed, *names)
    if not mine:
        return None
    parts = [f"{one.key.removeprefix('sampling.')} {one.a or 'all'} → {one.b or 'all'}" for one in rows]
    parts += [f"strategy {one.a or 'not set'} → {one.b or 'not set'}" for one in strategy]
    return Finding(
        "sampling",
        f"Sampling is set differently: {', '.join(parts) or ', '.join(one.name for one in mine)}",
        "set it alike, in the preprocess step; scores of a sample and of all rows cannot be compared",
        mine,
    )


def _idle_seed(sides: dict[str, Side], left: Sequence[Difference]) -> Finding | None:
    """The seed of a sampling that draws nothing: it names the dataset, and changes no row."""
    seed = tuple(one for one in left if one.key == "sampling.seed")
    drawn = any(
        record.value == "random" for side in sides.values() for record in says(side, "sampling.strategy").values()
    )
    if not seed or drawn:
        return None
    return Finding(
        "seed",
        f"Different seed of the sampling: {seed[0].a} → {seed[0].b}; nothing is drawn with it, so the same rows "
        "have another dataset_id",
        "set the same sampling.seed on both sides",
        seed,
        frozenset({"config_hash", "dataset_id", *(f"id:{kind}" for kind in KINDS)}),
    )
