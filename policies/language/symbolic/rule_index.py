"""Which rules of a large group can hold for a destination, found without trying each.

A rule that says `input.destination.service == "cart"` says so of every request. Evaluated once with nothing
known of the destination, such an expression becomes a formula; where that asks an attribute of the
destination to have one of a few values, the rule is looked up by these. 10,000 rules for each of 1,000
workloads are out of reach otherwise. A rule is left out only where its formula would be false.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from policies.formula import Attribute, Formula
from policies.formula.atoms import Equal, In
from policies.language.compiler.compiled import CompiledRule
from policies.language.values import Object

WORTH_AN_INDEX = 16
"""Smaller groups are tried rule by rule."""

Text = str | int | bool
Need = tuple[Attribute, tuple[Text, ...]]
"""An attribute of the destination and the values of which it must have one."""

_PREFIX: Final = "destination."


def needs(formula: Formula) -> Iterator[Need]:
    """What a formula asks of the destination, whatever else it says."""
    if formula.kind == "and":
        for child in formula.children:
            yield from needs(child)
    atom = formula.atom
    if isinstance(atom, Equal | In) and not formula.negated and atom.attribute.name.startswith(_PREFIX):
        yield atom.attribute, atom.values if isinstance(atom, In) else (atom.value,)


@dataclass(frozen=True, slots=True)
class RuleIndex:
    """Rules of one group by one need of each; `rest` are positions of rules without any."""

    rules: tuple[CompiledRule, ...]
    by_value: Mapping[Attribute, Mapping[Text, list[int]]]
    rest: tuple[int, ...]

    @staticmethod
    def of(rules: tuple[CompiledRule, ...], found: Iterable[list[Need]]) -> RuleIndex:
        """Each rule under that of its needs which the fewest rules share."""
        listed = list(found)
        shared = Counter(
            (attribute, value) for row in listed for attribute, values in row for value in values
        )
        by_value: dict[Attribute, dict[Text, list[int]]] = {}
        rest: list[int] = []
        for position, row in enumerate(listed):
            if not row:
                rest.append(position)
                continue
            attribute, values = min(row, key=lambda need: sum(shared[need[0], value] for value in need[1]))
            for value in values:
                by_value.setdefault(attribute, {}).setdefault(value, []).append(position)
        return RuleIndex(rules, by_value, tuple(rest))

    def possible(self, known: Object) -> list[CompiledRule]:
        """The rules that can hold where this much of the input is known, in their order."""
        chosen = set(self.rest)
        for attribute, by_value in self.by_value.items():
            value: object = known
            for step in (*attribute.name.split("."), *attribute.path):
                value = value.get(step) if isinstance(value, Object) else None
            if isinstance(value, str):
                chosen.update(by_value.get(value, ()))
            else:
                chosen.update(position for positions in by_value.values() for position in positions)
        return [self.rules[position] for position in sorted(chosen)]
