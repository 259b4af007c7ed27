"""Formulas: atoms joined by AND and OR, in negation normal form, each shape once in memory.

Two formulas with the same shape are the same object (hash-consing), so comparison is `is` and a set of
formulas is cheap. Building simplifies: flattening, duplicates, a literal beside its negation, and finite sets
of values on one attribute are merged. Order is canonical and depends on content only.

Negation stands at literals and means "the atom is false", which includes an absent attribute.
"""

import hashlib
import json
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Literal

from control_plane.core.errors import ResourceExhausted
from policies.formula.atoms import (
    Atom,
    Between,
    Cidr,
    Contains,
    Equal,
    Glob,
    In,
    Member,
    Opaque,
    Prefix,
    Present,
    Regex,
    Suffix,
)
from policies.formula.attributes import Attribute, Domain, Value
from policies.formula.request import Request

MAX_DEPTH: Final = 128
MAX_CHILDREN: Final = 200_000

Kind = Literal["true", "false", "literal", "and", "or"]
ATOM_CLASSES: Final[tuple[type[Atom], ...]] = (
    Present, Equal, In, Prefix, Suffix, Contains, Glob, Regex, Cidr, Between, Member, Opaque,
)  # fmt: skip
_RANK: Final = {kind: rank for rank, kind in enumerate(ATOM_CLASSES)}


class Formula:
    """One node. Built by the functions of this module only; compared by identity."""

    __slots__ = ("__weakref__", "atom", "children", "depth", "kind", "negated", "order")

    def __init__(
        self,
        kind: Kind,
        children: tuple["Formula", ...],
        atom: Atom | None,
        negated: bool,
        order: tuple[int, str],
        depth: int,
    ) -> None:
        self.kind: Final = kind
        self.children: Final = children
        self.atom: Final = atom
        self.negated: Final = negated
        self.order: Final = order
        self.depth: Final = depth

    def __repr__(self) -> str:
        return render(self)

    def __lt__(self, other: "Formula") -> bool:
        return self.order < other.order

    def __and__(self, other: "Formula") -> "Formula":
        if other is TRUE or self is other:
            return self
        return other if self is TRUE else all_of(self, other)

    def __or__(self, other: "Formula") -> "Formula":
        if other is FALSE or self is other:
            return self
        return other if self is FALSE else any_of(self, other)

    def __invert__(self) -> "Formula":
        return negate(self)


TRUE: Final = Formula("true", (), None, False, (0, ""), 0)
FALSE: Final = Formula("false", (), None, False, (0, ""), 0)
_literals: "weakref.WeakValueDictionary[tuple[Atom, type, bool], Formula]" = weakref.WeakValueDictionary()
_junctions: "weakref.WeakValueDictionary[tuple[Kind, tuple[Formula, ...]], Formula]" = (
    weakref.WeakValueDictionary()
)


def literal(atom: Atom, negated: bool = False) -> Formula:
    """An atom or its negation; atoms that can't hold by their type become constants."""
    if isinstance(atom, In) and len(atom.values) <= 1:
        return (
            (TRUE if negated else FALSE)
            if not atom.values
            else literal(Equal(atom.attribute, atom.values[0]), negated)
        )
    if _impossible(atom):
        return TRUE if negated else FALSE
    key = (atom, _value_type(atom), negated)
    found = _literals.get(key)
    if found is None:
        order = (
            1,
            json.dumps(
                [
                    atom.attribute.name,
                    *atom.attribute.path,
                    _RANK[type(atom)],
                    *map(str, atom.parts()),
                    negated,
                ]
            ),
        )
        found = Formula("literal", (), atom, negated, order, 1)
        _literals[key] = found
    return found


def all_of(*formulas: Formula) -> Formula:
    """Conjunction; of nothing it is TRUE."""
    return _join("and", formulas, TRUE, FALSE)


def any_of(*formulas: Formula) -> Formula:
    """Disjunction; of nothing it is FALSE."""
    return _join("or", formulas, FALSE, TRUE)


def negate(formula: Formula) -> Formula:
    """The complement, pushed down to the literals."""
    done: dict[Formula, Formula] = {TRUE: FALSE, FALSE: TRUE}

    def turned(node: Formula) -> Formula:
        result = done.get(node)
        if result is None:
            if node.atom is not None:
                result = literal(node.atom, not node.negated)
            else:
                join = any_of if node.kind == "and" else all_of
                result = join(*map(turned, node.children))
            done[node] = result
        return result

    return turned(formula)


def substitute(formula: Formula, known: Callable[[Atom], bool | None]) -> Formula:
    """`formula` with every atom decided for which `known` gives an answer (None leaves the atom as it is)."""
    done: dict[Formula, Formula] = {}

    def grounded(node: Formula) -> Formula:
        result = done.get(node)
        if result is None:
            if node.atom is not None:
                answer = known(node.atom)
                result = node if answer is None else TRUE if answer != node.negated else FALSE
            elif node.kind in ("and", "or"):
                join = all_of if node.kind == "and" else any_of
                result = join(*map(grounded, node.children))
            else:
                result = node
            done[node] = result
        return result

    return grounded(formula)


def ground(formula: Formula, values: Mapping[Attribute, Value | None]) -> Formula:
    """`formula` with the attributes of `values` known; None says that the attribute is absent."""

    def known(atom: Atom) -> bool | None:
        if atom.attribute not in values or isinstance(atom, Opaque):
            return None
        value = values[atom.attribute]
        return value is not None and atom.holds(value)

    return substitute(formula, known)


def evaluate(formula: Formula, request: Request, decide: Callable[[Opaque], bool] | None = None) -> bool:
    """Whether one concrete request satisfies the formula.

    `decide` answers opaque atoms; without it such an atom raises InvalidInput with its span.
    """
    if formula.atom is not None:
        atom = formula.atom
        if isinstance(atom, Opaque) and decide is not None:
            return decide(atom) != formula.negated
        if isinstance(atom, Opaque):
            return atom.holds("")
        value = request.get(atom.attribute)
        return (value is not None and atom.holds(value)) != formula.negated
    if formula.kind == "and":
        return all(evaluate(child, request, decide) for child in formula.children)
    if formula.kind == "or":
        return any(evaluate(child, request, decide) for child in formula.children)
    return formula is TRUE


def atoms_of(formula: Formula) -> Iterator[Atom]:
    """Every atom, each once."""
    seen: set[Formula] = set()
    waiting = [formula]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.atom is not None:
            yield node.atom
        waiting.extend(reversed(node.children))


def render(formula: Formula) -> str:
    """Text for people and for test failures; not a format to be read back (see policies.formula.codec)."""
    if formula.atom is not None:
        atom = formula.atom
        name = type(atom).__name__.lower()
        text = f"{name}({', '.join([str(atom.attribute), *(repr(part) for part in atom.parts())])})"
        return f"not {text}" if formula.negated else text
    if formula.kind in ("and", "or"):
        return "(" + f" {formula.kind} ".join(map(render, formula.children)) + ")"
    return formula.kind


def _value_type(atom: Atom) -> type:
    """1, 1.0 and true are one value to Python and three to Rego; the type tells atoms apart."""
    return type(atom.value) if isinstance(atom, Equal) else type(atom)


def _impossible(atom: Atom) -> bool:
    """Whether no value of the attribute's domain satisfies the atom."""
    domain = atom.attribute.domain
    if isinstance(atom, Equal):
        expected = {Domain.TEXT: str, Domain.ADDRESS: str, Domain.NUMBER: int, Domain.FLAG: bool}.get(domain)
        return expected is not None and type(atom.value) is not expected
    if isinstance(atom, Between):
        return atom.low > atom.high or domain in (Domain.TEXT, Domain.ADDRESS, Domain.FLAG)
    if isinstance(atom, Member):
        return not atom.values or domain is not Domain.CLAIM
    return isinstance(atom, Prefix | Suffix | Contains | Glob | Regex | Cidr) and domain in (
        Domain.NUMBER,
        Domain.FLAG,
    )


def _join(
    kind: Literal["and", "or"], formulas: Iterable[Formula], neutral: Formula, dominant: Formula
) -> Formula:
    distinct = set(formulas)
    distinct.discard(neutral)
    if dominant in distinct:
        return dominant
    if len(distinct) < 2:  # most joins: nothing to simplify
        return distinct.pop() if distinct else neutral
    flat: set[Formula] = set()
    for formula in distinct:
        if formula.kind == kind:
            flat.update(formula.children)
        else:
            flat.add(formula)
    flat = _merge_values(kind, flat)
    if dominant in flat:
        return dominant
    for node in flat:
        if node.atom is not None and not node.negated and _opposite(node) in flat:
            return dominant
    flat.discard(neutral)
    if any(isinstance(node.atom, Present) for node in flat):
        presences = _settle_presence(kind, flat)
        if presences is None:
            return dominant
        flat = presences
    if not flat:
        return neutral
    if len(flat) == 1:
        return next(iter(flat))
    return _junction(kind, tuple(sorted(flat)))


def _settle_presence(kind: Literal["and", "or"], nodes: set[Formula]) -> set[Formula] | None:
    """Literals joined with `Present` of the same attribute: an atom that holds implies presence.

    present AND equal is equal; absent AND not equal is absent; absent AND equal is false (None: the join is
    dominated). OR follows by duality.
    """
    conjunction = kind == "and"
    presence = {(n.atom.attribute, n.negated) for n in nodes if isinstance(n.atom, Present)}
    kept = set(nodes)
    for node in nodes:
        atom = node.atom
        if atom is None or isinstance(atom, Present | Opaque):
            continue
        if (atom.attribute, not node.negated) in presence and node.negated != conjunction:
            return None
        if (atom.attribute, node.negated) in presence:
            weaker_is_presence = node.negated != conjunction
            kept.discard(literal(Present(atom.attribute), node.negated) if weaker_is_presence else node)
    return kept


def _opposite(node: Formula) -> Formula | None:
    """The negated twin of a positive literal where one exists already; nothing is built for the question."""
    atom = node.atom
    return None if atom is None else _literals.get((atom, _value_type(atom), True))


def _merge_values(kind: Literal["and", "or"], nodes: set[Formula]) -> set[Formula]:
    """Equal and In on one attribute merged: a value is one value, so AND intersects and OR unites.

    Negated literals follow by duality.
    """
    groups: dict[Attribute, list[Formula]] = {}
    for node in nodes:
        if isinstance(node.atom, Equal | In):
            groups.setdefault(node.atom.attribute, []).append(node)
    merged = nodes
    for attribute, group in groups.items():
        if len(group) < 2:
            continue
        if merged is nodes:
            merged = set(nodes)
        merged.difference_update(group)
        negated = kind == "or"  # AND keeps the positive sets less the excluded ones, OR the other way round
        kept, taken = (_sets(group, negated), _sets(group, not negated))
        remainder = set.intersection(*kept) if kept else None
        excluded = set.union(*taken) if taken else set()
        values = excluded if remainder is None else remainder - excluded
        merged.add(
            literal(_in(attribute, (value for _, value in values)), negated == (remainder is not None))
        )
    return merged


def _sets(group: list[Formula], negated: bool) -> list[set[tuple[type, str | int | bool]]]:
    return [{(type(value), value) for value in _values(node)} for node in group if node.negated == negated]


def _values(node: Formula) -> tuple[str | int | bool, ...]:
    atom = node.atom
    if isinstance(atom, In):
        return atom.values
    return (atom.value,) if isinstance(atom, Equal) else ()


def _in(attribute: Attribute, values: Iterable[str | int | bool]) -> In:
    ordered = sorted({(type(value).__name__, value) for value in values}, key=lambda pair: (pair[0], pair[1]))
    return In(attribute, tuple(value for _, value in ordered))


def _junction(kind: Literal["and", "or"], children: tuple[Formula, ...]) -> Formula:
    found = _junctions.get((kind, children))
    if found is not None:
        return found
    depth = 1 + max(child.depth for child in children)
    if depth > MAX_DEPTH or len(children) > MAX_CHILDREN:
        raise ResourceExhausted(
            f"building a formula: depth {depth} of {MAX_DEPTH}, {len(children)} parts of {MAX_CHILDREN}",
            hint="split the rule into several rules",
        )
    digest = hashlib.blake2b(kind.encode(), digest_size=16)
    for child in children:
        digest.update(repr(child.order).encode())
    node = Formula(kind, children, None, False, (2, digest.hexdigest()), depth)
    _junctions[(kind, children)] = node
    return node
