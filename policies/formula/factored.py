"""Alternatives that differ in the values of one attribute, as one alternative with all these values.

    (caller is a and X) or (caller is b and X) or (caller is c and Y)
    =  (caller is a or b) and X  or  caller is c and Y

A rule that goes through a table of edges holds for one row or another, and rows that ask the same of many
callers are the usual case. Emission and proof then work with what differs, not with every pair.

Only the alternatives of one disjunction are looked at, and only exact values are joined: those of patterns
would be no single literal.
"""

from collections.abc import Iterable

from policies.formula.atoms import Equal, In
from policies.formula.attributes import Attribute
from policies.formula.expression import FALSE, TRUE, Formula, all_of, any_of

_Parts = tuple[Formula, ...]


def factored(formula: Formula) -> Formula:
    """The same formula; as a disjunction with no more alternatives than before."""
    if formula.kind != "or":
        return formula
    alternatives = _shared([_parts(one) for one in formula.children])
    return formula if len(alternatives) == len(formula.children) else _built(alternatives)


def any_of_all(alternatives: Iterable[Iterable[Formula]]) -> Formula:
    """A disjunction of conjunctions, each given by its parts; factored before it is built, which is cheap."""
    found: dict[_Parts, None] = {}
    for one in alternatives:
        parts = dict.fromkeys(inner for part in one if part is not TRUE for inner in _parts(part))
        if FALSE not in parts:
            found[tuple(parts)] = None
    return _built(_shared(list(found)) if len(found) > 1 else found)


def _built(alternatives: Iterable[_Parts]) -> Formula:
    return any_of(*(all_of(*parts) for parts in alternatives))


def _shared(alternatives: list[_Parts]) -> list[_Parts]:
    for attribute in _by_variety(alternatives):
        alternatives = _joined(alternatives, attribute)
    return alternatives


def _by_variety(alternatives: list[_Parts]) -> list[Attribute]:
    """The attributes that several alternatives compare with values, those with most different ones first."""
    several: dict[Attribute, set[Formula]] = {}
    for part in {part for parts in alternatives for part in parts}:
        if (atom := _values(part)) is not None:
            several.setdefault(atom.attribute, set()).add(part)
    varied = [attribute for attribute, literals in several.items() if len(literals) > 1]
    return sorted(varied, key=lambda attribute: (-len(several[attribute]), attribute))


def _joined(alternatives: list[_Parts], attribute: Attribute) -> list[_Parts]:
    """Alternatives that are alike but for the values of `attribute`, joined."""
    groups: dict[_Parts, list[Formula]] = {}
    kept: list[_Parts] = []
    for parts in alternatives:
        for index, part in enumerate(parts):
            atom = _values(part)
            if atom is not None and atom.attribute == attribute:
                groups.setdefault((*parts[:index], *parts[index + 1 :]), []).append(part)
                break
        else:
            kept.append(parts)
    return kept + [(any_of(*values), *rest) for rest, values in groups.items()]


def _parts(alternative: Formula) -> _Parts:
    return alternative.children if alternative.kind == "and" else (alternative,)


def _values(part: Formula) -> Equal | In | None:
    """The atom of a literal that names the values its attribute may have: at most one in a conjunction."""
    atom = part.atom
    return atom if isinstance(atom, Equal | In) and not part.negated else None
