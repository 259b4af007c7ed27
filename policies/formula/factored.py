"""Alternatives that differ in the values of one attribute, as one alternative with all these values.

    (caller is a and X) or (caller is b and X) or (caller is c and Y)
    =  (caller is a or b) and X  or  caller is c and Y

A rule that goes through a table of edges holds for one row or another, and rows that ask the same of many
callers are the usual case. Emission and proof then work with what differs, not with every pair.

Only the alternatives of one disjunction are looked at, and only exact values are joined: those of patterns
would be no single literal.
"""

from collections import Counter

from policies.formula.atoms import Equal, In
from policies.formula.attributes import Attribute
from policies.formula.expression import Formula, all_of, any_of

_Parts = tuple[Formula, ...]


def factored(formula: Formula) -> Formula:
    """The same formula; as a disjunction with no more alternatives than before."""
    if formula.kind != "or":
        return formula
    alternatives = list(formula.children)
    for attribute in _by_variety(alternatives):
        alternatives = _joined(alternatives, attribute)
    return formula if len(alternatives) == len(formula.children) else any_of(*alternatives)


def _by_variety(alternatives: list[Formula]) -> list[Attribute]:
    """The attributes that several alternatives compare with values, those with most different ones first."""
    literals = Counter(part for one in alternatives for part in _parts(one) if _has_values(part))
    several: dict[Attribute, int] = {}
    for part in literals:
        assert part.atom is not None
        several[part.atom.attribute] = several.get(part.atom.attribute, 0) + 1
    varied = [attribute for attribute, count in several.items() if count > 1]
    return sorted(varied, key=lambda attribute: (-several[attribute], attribute))


def _joined(alternatives: list[Formula], attribute: Attribute) -> list[Formula]:
    """Alternatives that are alike but for the values of `attribute`, joined."""
    groups: dict[_Parts, list[Formula]] = {}
    kept: list[Formula] = []
    for one in alternatives:
        parts = _parts(one)
        for index, part in enumerate(parts):
            if _has_values(part) and part.atom is not None and part.atom.attribute == attribute:
                groups.setdefault((*parts[:index], *parts[index + 1 :]), []).append(part)
                break
        else:
            kept.append(one)
    return kept + [all_of(any_of(*values), *rest) for rest, values in groups.items()]


def _parts(alternative: Formula) -> _Parts:
    return alternative.children if alternative.kind == "and" else (alternative,)


def _has_values(part: Formula) -> bool:
    """Whether a literal names the values that its attribute may have; a conjunction has one of them each."""
    return isinstance(part.atom, Equal | In) and not part.negated
