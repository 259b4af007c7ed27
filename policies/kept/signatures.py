"""What stands for a decision: a digest of its formulas, and the lines they come from apart from it.

Lines move with every edit above them and change no meaning, so a digest holds only which rules share a line.
Records name lines by their place in the sorted list of them, and are read back with today's list.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from policies.formula import Decision, Formula, Origin, Question
from policies.formula.codec import formula_to_json
from policies.kept.facts import facts_of
from policies.kept.shelf import digest

_ENCODER: Final = json.JSONEncoder(sort_keys=True)


@dataclass(frozen=True, slots=True)
class Signature:
    """A question or a decision: a digest of its formulas, its lines in order, what it asks about callers."""

    digest: str
    origins: tuple[Origin, ...]
    facts: frozenset[str]


@dataclass(slots=True)
class Signer:
    """Makes signatures; formulas that several questions share are written once."""

    _known: dict[Formula, tuple[str, frozenset[str]]] = field(default_factory=dict)

    def question(self, question: Question) -> Signature:
        """The signature of both its decisions."""
        return self._of((question.allow, question.deny))

    def decision(self, decision: Decision) -> Signature:
        """The signature of one decision."""
        return self._of((decision,))

    def _of(self, decisions: tuple[Decision, ...]) -> Signature:
        found = tuple(sorted({one for decision in decisions for one in _origins(decision)}))
        place = {origin: index for index, origin in enumerate(found)}
        parts: list[str] = []
        facts: set[str] = set()
        for decision in decisions:
            for rule in decision.disjuncts:
                written, asked = self._formula(rule.formula)
                parts += [written, repr([place[one] for one in rule.origins])]
                facts |= asked
            parts.append("")
        return Signature(digest(*parts), found, frozenset(facts))

    def _formula(self, formula: Formula) -> tuple[str, frozenset[str]]:
        known = self._known.get(formula)
        if known is None:
            text = _ENCODER.encode(formula_to_json(formula))
            known = self._known[formula] = digest(text), facts_of(formula)
        return known


def _origins(decision: Decision) -> Iterator[Origin]:
    for rule in decision.disjuncts:
        yield from rule.origins


def combined(signatures: Iterable[Signature | None]) -> Signature:
    """Several signatures as one: their digests, and which lines of one are which of another."""
    listed = list(signatures)
    found = tuple(sorted({origin for one in listed if one is not None for origin in one.origins}))
    place = {origin: index for index, origin in enumerate(found)}
    parts = []
    for one in listed:
        parts += ["none", ""] if one is None else [one.digest, repr([place[each] for each in one.origins])]
    facts = frozenset().union(*(one.facts for one in listed if one is not None))
    return Signature(digest(*parts), found, facts)
