"""Which requests satisfy a relation between two values: Rego's operators and tests as formulas.

Every function takes values that are defined (their guards are the caller's business) and answers with the
exact set of requests under which the relation is true. What no atom can say becomes an opaque atom: the
same relation has the same digest wherever it stands, so its negation is its complement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final, TypeGuard

from control_plane.core.errors import InvalidInput
from policies import formula as f
from policies.formula import FALSE, TRUE, Domain, Formula
from policies.language.builtins.errors import BuiltinError
from policies.language.builtins.globs import beyond, read_glob
from policies.language.numbers import Real
from policies.language.symbolic.conditions import Site
from policies.language.symbolic.values import (
    Choices,
    Derived,
    Node,
    Sequence,
    Symbolic,
    Unknown,
    is_known,
    text_of,
)
from policies.language.values import FALSE as REGO_FALSE
from policies.language.values import TRUE as REGO_TRUE
from policies.language.values import Boolean, Object, Set, Value, compare

MAX_PORT: Final = 65535
_ORDERINGS: Final[dict[str, tuple[int, ...]]] = {"lt": (-1,), "lte": (-1, 0), "gt": (1,), "gte": (1, 0)}


def truth(value: Symbolic, site: Site) -> Formula:
    """Where a defined value counts as true: everywhere but where it is `false`."""
    if isinstance(value, Unknown):
        if value.attribute.domain in (Domain.FLAG, Domain.CLAIM):
            return ~f.equals(value.attribute, False)
        return TRUE
    if isinstance(value, Derived):
        return site.opaque("true", (value,), f"{value.function} of an unknown value")
    return FALSE if value is REGO_FALSE else TRUE


def defined(value: Symbolic, site: Site) -> Formula:
    """Where a derived value exists: a built-in may have no result for what it is given."""
    if isinstance(value, Derived):
        return site.opaque("defined", (value,), f"{value.function} of an unknown value")
    return TRUE


def equal(left: Symbolic, right: Symbolic, site: Site) -> Formula:
    """`left == right`."""
    if is_known(left) and is_known(right):
        return TRUE if left == right else FALSE
    if left == right:
        return TRUE
    if is_known(left):
        left, right = right, left
    if isinstance(left, Unknown) and is_known(right):
        return _attribute_equals(left, right, site)
    if isinstance(left, Sequence) and isinstance(right, Sequence | tuple):
        items = right.items if isinstance(right, Sequence) else right
        if len(items) != len(left.items):
            return FALSE
        return f.all_of(*(equal(a, b, site) for a, b in zip(left.items, items, strict=True)))
    if isinstance(left, Sequence) and is_known(right):
        return FALSE
    derived = [value.function for value in (left, right) if isinstance(value, Derived)]
    reason = (
        f"{derived[0]} of an unknown value is compared"
        if derived
        else "two attributes of the request are compared"
    )
    return site.opaque("equal", (left, right), reason)


def ordering(operator: str, left: Symbolic, right: Symbolic, site: Site) -> Formula:
    """`<`, `<=`, `>`, `>=` in Rego's total order over all types."""
    wanted = _ORDERINGS[operator]
    if is_known(left) and is_known(right):
        return TRUE if compare(_plain(left), _plain(right)) in wanted else FALSE
    if is_known(left):
        mirrored = {"lt": "gt", "gt": "lt", "lte": "gte", "gte": "lte"}[operator]
        return ordering(mirrored, right, left, site)
    if isinstance(left, Unknown) and is_known(right):
        bound = _integer(_plain(right))
        domain = left.attribute.domain
        if domain is Domain.NUMBER and isinstance(bound, Real):
            below = math.floor(bound)  # a whole number never equals a fraction, so only its floor matters
            low, high = (0, below) if operator in ("lt", "lte") else (below + 1, MAX_PORT)
            return f.between(left.attribute, max(low, 0), min(high, MAX_PORT))
        if domain is Domain.NUMBER and type(bound) is int:
            low = 0 if operator in ("lt", "lte") else bound + (operator == "gt")
            high = MAX_PORT if operator in ("gt", "gte") else bound - (operator == "lt")
            return f.between(left.attribute, max(low, 0), min(high, MAX_PORT))
        rank = _ranks(domain)
        if rank is not None and not isinstance(bound, rank):
            # Different types never tie: the order of types alone decides.
            sample: Value = "" if rank is str else 0 if rank is int else REGO_TRUE
            return TRUE if compare(sample, bound) in wanted else FALSE
    return site.opaque(operator, (left, right), "an order between values is no condition of a mesh")


def member(item: Symbolic, collection: Symbolic, site: Site) -> Formula:
    """`item in collection`."""
    if isinstance(collection, Choices):
        return f.any_of(*(guard & equal(item, value, site) for guard, _, value in collection.members))
    if isinstance(collection, Sequence):
        return f.any_of(*(equal(item, value, site) for value in collection.items))
    if isinstance(collection, Unknown):
        if collection.attribute.domain is not Domain.CLAIM:
            return FALSE
        if isinstance(item, str):
            return f.has_member(collection.attribute, (item,))
    elif is_known(collection):
        values = _values(_plain(collection))
        if isinstance(item, Unknown):
            return _attribute_among(item, values, site)
        return f.any_of(*(equal(item, value, site) for value in values))
    return site.opaque("member", (item, collection), "membership in a value that only the evaluator knows")


def test(name: str, arguments: tuple[Symbolic, ...], site: Site) -> Formula | None:
    """A built-in test on unknown values as a formula; None where this module has no form for it.

    The formula says where the test is true. On texts it is false, and not undefined, wherever else its
    arguments are defined. Raises InvalidInput for a constant that the built-in would refuse.
    """
    form = _TESTS.get(name)
    return form(arguments, site) if form else None


def _starts(arguments: tuple[Symbolic, ...], _site: Site) -> Formula | None:
    subject, prefix = arguments
    if _is_text(subject) and isinstance(prefix, str):
        return f.starts_with(subject.attribute, prefix)
    return None


def _ends(arguments: tuple[Symbolic, ...], _site: Site) -> Formula | None:
    subject, suffix = arguments
    if _is_text(subject) and isinstance(suffix, str):
        return f.ends_with(subject.attribute, suffix)
    return None


def _contains(arguments: tuple[Symbolic, ...], _site: Site) -> Formula | None:
    subject, part = arguments
    if _is_text(subject) and isinstance(part, str):
        return f.contains(subject.attribute, part)
    return None


def _any_prefix(arguments: tuple[Symbolic, ...], _site: Site) -> Formula | None:
    return _any(arguments, f.starts_with)


def _any_suffix(arguments: tuple[Symbolic, ...], _site: Site) -> Formula | None:
    return _any(arguments, f.ends_with)


def _any(arguments: tuple[Symbolic, ...], build: Callable[[f.Attribute, str], Formula]) -> Formula | None:
    subject, parts = arguments
    if not _is_text(subject) or not is_known(parts):
        return None
    plain = _plain(parts)
    texts = (plain,) if isinstance(plain, str) else tuple(_values(plain))
    if not all(isinstance(text, str) for text in texts):
        return None
    return f.any_of(*(build(subject.attribute, text) for text in texts if isinstance(text, str)))


def _glob(arguments: tuple[Symbolic, ...], _site: Site) -> Formula | None:
    pattern, delimiters, subject = arguments
    if not isinstance(pattern, str) or not _is_text(subject):
        return None
    if delimiters is None:
        marks: tuple[str, ...] = ()
    elif isinstance(delimiters, tuple) and all(isinstance(mark, str) for mark in delimiters):
        marks = tuple(mark for mark in delimiters if isinstance(mark, str)) or (".",)
    else:
        return None
    try:
        # OPA's matcher accepts a little more than the plain language; the policy means what OPA does with it.
        extra = beyond(read_glob(pattern, "".join(marks)))
    except BuiltinError as error:
        raise InvalidInput(f"glob.match: {error}") from error
    return f.matches_glob(subject.attribute, pattern, marks) | f.one_of(subject.attribute, extra)


def _regex(arguments: tuple[Symbolic, ...], site: Site) -> Formula | None:
    pattern, subject = arguments
    if isinstance(pattern, str) and _is_text(subject):
        found = f.matches(subject.attribute, pattern, str(site.span))
        reasons = [atom.reason for atom in f.atoms_of(found) if isinstance(atom, f.Opaque)]
        # The whole call as one condition, so that the evaluator can answer it for a request.
        return site.opaque("true", (Derived("regex.match", arguments),), reasons[0]) if reasons else found
    return None


def _cidr(arguments: tuple[Symbolic, ...], _site: Site) -> Formula | None:
    network, address = arguments
    if (
        isinstance(network, str)
        and isinstance(address, Unknown)
        and address.attribute.domain is Domain.ADDRESS
    ):
        if "/" not in network:
            raise InvalidInput(
                f"net.cidr_contains: {network!r} is an address, a network is expected",
                hint=f"write {network}/32",
            )
        return f.in_network(address.attribute, network)
    return None


_TESTS: Final[dict[str, Callable[[tuple[Symbolic, ...], Site], Formula | None]]] = {
    "startswith": _starts,
    "endswith": _ends,
    "contains": _contains,
    "strings.any_prefix_match": _any_prefix,
    "strings.any_suffix_match": _any_suffix,
    "glob.match": _glob,
    "regex.match": _regex,
    "re_match": _regex,
    "net.cidr_contains": _cidr,
}


def _is_text(value: Symbolic) -> TypeGuard[Unknown]:
    # A claim may be a list or a number; the atoms of texts are false there, as the tests are not true.
    return isinstance(value, Unknown) and value.attribute.domain in (
        Domain.TEXT,
        Domain.ADDRESS,
        Domain.CLAIM,
    )


def _integer(value: Value) -> Value:
    """A whole number as an integer, however it is written (`80.0`, `8e1`)."""
    return int(value) if isinstance(value, Real) and value == int(value) else value


def _attribute_equals(unknown: Unknown, value: Symbolic, site: Site) -> Formula:
    if isinstance(value, Real):
        value = _integer(value)
    if isinstance(value, str):
        return f.equals(unknown.attribute, value)
    if isinstance(value, Boolean):
        return f.equals(unknown.attribute, bool(value))
    if isinstance(value, int):
        return f.equals(unknown.attribute, value)
    if unknown.attribute.domain is not Domain.CLAIM:
        return FALSE  # no attribute of the schema but a claim is null, a fraction or a collection
    return site.opaque(
        "equal", (unknown, value), "a claim is compared with a value that is neither text nor number"
    )


def _attribute_among(unknown: Unknown, values: Iterable[Value], site: Site) -> Formula:
    """One atom for all plain scalars, so that a set of a thousand names stays one condition."""
    scalars: list[str | int | bool] = []
    others: list[Formula] = []
    for value in map(_integer, values):
        if isinstance(value, Boolean):
            scalars.append(bool(value))
        elif isinstance(value, str | int):
            scalars.append(value)
        else:
            others.append(_attribute_equals(unknown, value, site))
    return f.any_of(f.one_of(unknown.attribute, scalars), *others)


def _values(collection: Value) -> Iterable[Value]:
    if isinstance(collection, Object):
        return tuple(collection.values())
    return tuple(collection) if isinstance(collection, tuple | Set) else ()


def _ranks(domain: Domain) -> type | None:
    if domain in (Domain.TEXT, Domain.ADDRESS):
        return str
    return {Domain.NUMBER: int, Domain.FLAG: Boolean}.get(domain)


def _plain(value: Symbolic) -> Value:
    if isinstance(value, Unknown | Node | Derived | Sequence | Choices):
        raise TypeError(f"{text_of(value)} is not known")
    return value
