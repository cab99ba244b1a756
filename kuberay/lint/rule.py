"""What a rule is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from kuberay.lint.model import Rendering, Resource


class Fault(NamedTuple):
    """One thing that is wrong, as a rule tells it.

    Attributes:
        resource: The object.
        path: Where in it, such as ``spec.template.spec.containers[0].image``; empty: all of it.
        what: What is wrong.
        fix: What to do about it.
    """

    resource: Resource
    path: str
    what: str
    fix: str


Faults = Iterator[Fault]

MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What comes of a text where a mapping should be, and the like: rules take objects as their schemas have them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, as it is shown.

    Attributes:
        rule: Id of the rule.
        why: What comes of it.
        object: Kind and name.
        path: Where in the object.
        what: What is wrong.
        fix: What to do about it.
    """

    rule: str
    why: str
    object: str
    path: str
    what: str
    fix: str

    def __str__(self) -> str:
        place = f"{self.object} {self.path}".rstrip()
        return f"{place}: {self.what}; do: {self.fix} [{self.rule}: {self.why}]"


@dataclass(frozen=True, slots=True)
class Rule:
    """One check of all objects of a rendering.

    Attributes:
        id: Name.
        why: What happens on a cluster otherwise, in one line.
        check: Tells what is wrong.
    """

    id: str
    why: str
    check: Callable[[Rendering], Faults]

    def findings(self, rendering: Rendering) -> Iterator[Finding]:
        """What is wrong with these objects by this rule; that it cannot read them is one such thing."""
        try:
            for resource, path, what, fix in self.check(rendering):
                yield Finding(self.id, self.why, str(resource), path, what, fix)
        except MALFORMED as error:
            fix = "kubectl apply --dry-run=server --validate=strict names the field"
            what = f"an object has not the shape of its schema ({type(error).__name__}: {error})"
            yield Finding(self.id, "this rule cannot see what else is wrong", "the objects", "", what, fix)


def rule(name: str, why: str) -> Callable[[Callable[[Rendering], Faults]], Rule]:
    """Make a function a rule."""
    return lambda check: Rule(name, why, check)
