"""Whole parts of the input, which are there wherever anything in them is.

A policy that gives a part a name (`headers := input.request.headers`) asks that the part be there, which no
atom can say. Where the same condition asks for something in the part (`headers["x-team"] == "red"`), that
says it already, and the question falls away.
"""

from __future__ import annotations

from collections.abc import Mapping

from policies import formula as f
from policies.formula import Formula

Parts = Mapping[Formula, tuple[str, ...]]
"""The path below `input` of each part whose presence a condition asks about, by that condition."""


def without_implied(guard: Formula, parts: Parts) -> Formula:
    """The same requests, without the questions about parts that the other conditions of `guard` answer."""
    if not parts or guard.kind != "and":
        return guard
    others = [child for child in guard.children if child not in parts]
    asked = [child for child in guard.children if child in parts]
    left = [part for part in asked if not any(_needs(child, parts[part]) for child in others)]
    return f.all_of(*others, *left) if len(left) < len(asked) else guard


def _needs(formula: Formula, part: tuple[str, ...]) -> bool:
    """Whether a formula is false wherever the part is missing, as far as its shape tells."""
    if formula.kind == "and":
        return any(_needs(child, part) for child in formula.children)
    if formula.kind == "or":
        return all(_needs(child, part) for child in formula.children)
    if formula.atom is None or formula.negated or isinstance(formula.atom, f.Opaque):
        return formula is f.FALSE
    attribute = formula.atom.attribute
    path = (*attribute.name.split("."), *attribute.path)
    return path[: len(part)] == part
