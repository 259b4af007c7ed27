"""Patterns on one attribute: conjunction of unions and negations, simplified where that is plain.

A pattern is a kind and a text. A constraint is what a clause demands of one attribute: every union must have
a member that matches, no excluded pattern may match, and a positive union implies presence. Simplifying
never changes the meaning.
"""

import ipaddress
from dataclasses import dataclass
from typing import Final, NamedTuple

from policies.formula import Attribute, Cidr, Glob, Regex

_ANY: Final = Attribute("request.path")


class Pattern(NamedTuple):
    """One way to match: exact, prefix, suffix, contains, glob, regex, cidr, member, other or present.

    `more` holds a glob's delimiters. `other` is a condition that no target can say, `text` its digest.
    """

    kind: str
    text: str
    more: tuple[str, ...] = ()

    def matches(self, text: str) -> bool:
        """Whether a present text matches; not asked of `member` and `other`."""
        if self.kind == "exact":
            return text == self.text
        if self.kind == "present":
            return True
        if self.kind == "glob":
            return Glob(_ANY, self.text, self.more).holds(text)
        if self.kind == "cidr":
            return Cidr(_ANY, self.text).holds(text)
        if self.kind == "regex":
            return Regex(_ANY, self.text).holds(text)
        plain = {"prefix": str.startswith, "suffix": str.endswith, "contains": str.__contains__}
        return plain[self.kind](text, self.text)


PRESENT: Final = Pattern("present", "")
Union = frozenset[Pattern]


@dataclass(frozen=True, slots=True)
class Constraint:
    """Every union has a match and no excluded pattern matches; without unions, absence satisfies it."""

    unions: tuple[Union, ...] = ()
    excluded: frozenset[Pattern] = frozenset()

    @property
    def finite(self) -> Union | None:
        """The union, where the whole constraint is one union and nothing else."""
        return self.unions[0] if len(self.unions) == 1 and not self.excluded else None

    def order(self) -> tuple[list[list[Pattern]], list[Pattern]]:
        """A key for stable sorting."""
        return [sorted(union) for union in self.unions], sorted(self.excluded)


def both(left: Constraint, right: Constraint) -> Constraint | None:
    """The conjunction; None where nothing satisfies it."""
    unions: list[Union] = []
    for union in (*left.unions, *right.unions):
        for index, known in enumerate(unions):
            met = _meet(known, union)
            if met is not None:
                unions[index] = met
                break
        else:
            unions.append(union)
    excluded = left.excluded | right.excluded
    if PRESENT in excluded:
        # Only conditions that no target can say may still hold: they aren't about the attribute itself.
        opaque = [frozenset(one for one in union if one.kind == "other") for union in unions]
        if not all(opaque):
            return None
        unsaid = frozenset(one for one in excluded if one.kind == "other")
        return Constraint(tuple(sorted(opaque, key=sorted)), unsaid | {PRESENT})
    kept = [_without(union, excluded) for union in unions]
    if not all(kept):
        return None
    if excluded and any(all(pattern.kind == "exact" for pattern in union) for union in kept):
        excluded = frozenset(one for one in excluded if one.kind in ("member", "other"))
    return Constraint(tuple(sorted(kept, key=sorted)), excluded)


def _without(union: Union, excluded: frozenset[Pattern]) -> Union:
    decidable = [one for one in excluded if one.kind not in ("member", "other")]
    return frozenset(
        pattern
        for pattern in union - excluded
        if pattern.kind != "exact" or not any(one.matches(pattern.text) for one in decidable)
    )


def _meet(left: Union, right: Union) -> Union | None:
    """The intersection as one union; None where no simple pattern says it."""
    if left == right:
        return left
    if PRESENT in left or PRESENT in right:
        return right if PRESENT in left else left
    for exact, other in ((left, right), (right, left)):
        if all(one.kind == "exact" for one in exact) and not any(
            one.kind in ("member", "other") for one in other
        ):
            texts = {one.text for one in other if one.kind == "exact"}
            rest = [one for one in other if one.kind != "exact"]
            kept = (one for one in exact if one.text in texts or any(p.matches(one.text) for p in rest))
            return frozenset(kept)
    found: set[Pattern] = set()
    for one in left:
        for other_pattern in right:
            met = _meet_patterns(one, other_pattern)
            if met is None:
                return None
            found.update(met)
    return frozenset(found)


def _meet_patterns(left: Pattern, right: Pattern) -> tuple[Pattern, ...] | None:
    for one, other in ((left, right), (right, left)):
        if one == other:
            return (one,)
        if one.kind == "exact" and other.kind not in ("member", "other"):
            return (one,) if other.matches(one.text) else ()
        if one.kind == other.kind == "prefix" and one.text.startswith(other.text):
            return (one,)
        if one.kind == other.kind == "suffix" and one.text.endswith(other.text):
            return (one,)
        if one.kind == other.kind == "cidr":
            inner, outer = ipaddress.ip_network(one.text), ipaddress.ip_network(other.text)
            if inner.version == outer.version and inner.subnet_of(outer):  # type: ignore[arg-type]
                return (one,)
    same = left.kind == right.kind
    return () if same and left.kind in ("prefix", "suffix", "cidr") else None
