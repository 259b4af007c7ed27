"""Calls of built-in functions on values that are partly unknown.

With every argument known the concrete built-in answers. Otherwise a test becomes a formula, a few functions
have a symbolic meaning of their own, and the rest gives a derived value that only opaque conditions speak of.
"""

from __future__ import annotations

from typing import Final

from control_plane.core.errors import GatehouseError
from policies import formula as f
from policies.formula import FALSE, TRUE, Domain, Formula
from policies.language.builtins.errors import BuiltinError, HaltError
from policies.language.builtins.registry import BUILTINS, Builtin
from policies.language.symbolic.conditions import Site
from policies.language.symbolic.input import PartialInput, attribute_at
from policies.language.symbolic.messages import is_text
from policies.language.symbolic.relations import defined, equal, member, ordering, test, truth
from policies.language.symbolic.values import (
    Choices,
    Derived,
    Node,
    Outcome,
    Symbolic,
    Unknown,
    is_known,
)
from policies.language.values import FALSE as REGO_FALSE
from policies.language.values import TRUE as REGO_TRUE
from policies.language.values import Value

_ORDERINGS: Final = frozenset({"lt", "lte", "gt", "gte"})
_KINDS: Final = {"is_string": str, "is_number": int, "is_boolean": bool}
_EMPTINESS: Final[dict[str, tuple[int, bool]]] = {"equal": (0, True), "gt": (0, False)}


class Undecidable(Exception):
    """A call can't be compiled; the message says why, `hint` what to write instead."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def call(
    name: str, arguments: tuple[Symbolic, ...], site: Site, known: PartialInput, *, statement: bool
) -> list[Outcome]:
    """Outcomes of a built-in call on defined arguments. `statement`: only the true ones are asked for.

    Raises Undecidable for what has no meaning before the request is known.
    """
    relation = _relation(name, arguments, site)
    if relation is not None:
        return _answers(relation)
    builtin = BUILTINS.get(name)
    if builtin is None or builtin.function is None or not builtin.deterministic:
        reason = builtin.refusal if builtin and builtin.refusal else "its result changes from call to call"
        raise Undecidable(
            f"{name} can't be compiled: {reason}", "decide without it, or put the value into data"
        )
    plain = [argument for argument in arguments if is_known(argument)]
    if len(plain) == len(arguments):
        return [(TRUE, value) for value in _concrete(builtin, tuple(plain), site)]  # type: ignore[arg-type]
    if name == "object.get":
        return _object_get(arguments, site, known)
    if name == "count" and isinstance(arguments[0], Choices):
        return _count(arguments[0], site)
    if (
        name in _KINDS
        and isinstance(arguments[0], Unknown)
        and arguments[0].attribute.domain is not Domain.CLAIM
    ):
        return [(TRUE, REGO_TRUE if _kind_of(arguments[0].attribute.domain) is _KINDS[name] else REGO_FALSE)]
    if name == "lower" and isinstance(arguments[0], Unknown) and _is_lower(arguments[0].attribute):
        return [(TRUE, arguments[0])]
    try:
        tested = test(name, arguments, site)
    except GatehouseError as error:
        raise Undecidable(
            str(error), "the constant is wrong, so the rule could never mean what it says"
        ) from error
    if tested is not None:
        return (
            _answers(tested) if not _of_claims(arguments) else _claim_answers(name, tested, arguments, site)
        )
    if builtin.relation:
        raise Undecidable(
            f"{name} of a part of the request can't be compiled", "name the fields that you need"
        )
    derived = Derived(name, arguments)
    if is_text(derived):
        return [(TRUE, REGO_TRUE if statement else derived)]
    if statement:
        return [(truth(derived, site), REGO_TRUE)]
    return [(defined(derived, site), derived)]


def _relation(name: str, arguments: tuple[Symbolic, ...], site: Site) -> Formula | None:
    """Where a comparison or membership holds; these are false, never undefined, elsewhere."""
    if len(arguments) == 2:
        left, right = arguments
        if name in ("equal", "eq"):
            return equal(left, right, site)
        if name == "neq":
            return ~equal(left, right, site)
        if name in _ORDERINGS:
            return ordering(name, left, right, site)
        if name == "internal.member_2":
            return member(left, right, site)
    if name == "internal.member_3":
        key, value, collection = arguments
        if isinstance(collection, Choices):
            return f.any_of(
                *(g & equal(key, k, site) & equal(value, v, site) for g, k, v in collection.members)
            )
    return None


def _answers(formula: Formula) -> list[Outcome]:
    found: list[Outcome] = [(formula, REGO_TRUE), (~formula, REGO_FALSE)]
    return [(guard, value) for guard, value in found if guard is not FALSE]


def _claim_answers(name: str, formula: Formula, arguments: tuple[Symbolic, ...], site: Site) -> list[Outcome]:
    """A claim may be no text at all, and then the test is undefined instead of false."""
    isnt = site.opaque("false", (Derived(name, arguments),), f"{name} of a claim is false")
    return [(formula, REGO_TRUE), (isnt, REGO_FALSE)]


def _concrete(builtin: Builtin, arguments: tuple[Value, ...], site: Site) -> list[Value]:
    assert builtin.function is not None
    if builtin.contextual:
        raise Undecidable(f"{builtin.name} can't be compiled", "it depends on the moment of evaluation")
    try:
        builtin.check_operands(arguments)
        result = builtin.function(*arguments)
    except HaltError as error:
        raise Undecidable(f"{builtin.name}: {error}", "no request can be decided with it") from error
    except BuiltinError as error:
        if builtin.name in ("regex.match", "glob.match", "net.cidr_contains"):
            raise Undecidable(
                f"{builtin.name}: {error}", "a bad constant makes the test undefined for ever"
            ) from error
        return []
    return list(result) if builtin.relation else [result]


def _object_get(arguments: tuple[Symbolic, ...], site: Site, known: PartialInput) -> list[Outcome]:
    """`object.get` of a part of the input: the attribute where it is present, the default elsewhere."""
    subject, key, default = arguments
    steps = key if isinstance(key, tuple) else (key,)
    if not isinstance(subject, Node) or not all(isinstance(step, str) for step in steps):
        derived = Derived("object.get", arguments)
        return [(defined(derived, site), derived)]
    here: Symbolic = subject
    for step in steps:
        if not isinstance(here, Node):
            raise Undecidable("object.get goes below a known value", "ask for the value itself")
        below = known.step(here, str(step))
        if not below:
            return [(TRUE, default)]
        here = below[0]
    if not isinstance(here, Node):
        return [(TRUE, here)]
    attribute = attribute_at(here.path)
    if attribute is None:
        raise Undecidable("object.get of a whole part of the request", "name one field of it")
    is_there = f.present(attribute)
    return [(is_there, Unknown(attribute)), (~is_there, default)]


def _count(collection: Choices, site: Site) -> list[Outcome]:
    """How many members there are: each number with its guard, by dynamic programming over the members."""
    if collection.kind == "set" and not all(is_known(value) for _, _, value in collection.members):
        derived = Derived("count", (collection,))
        return [(defined(derived, site), derived)]
    counts: list[Formula] = [TRUE]
    for guard, _, _ in collection.members:
        absent = ~guard
        counts = [
            (counts[n] & absent if n < len(counts) else FALSE) | (counts[n - 1] & guard if n else FALSE)
            for n in range(len(counts) + 1)
        ]
        if len(counts) > _MAX_COUNTED:
            derived = Derived("count", (collection,))
            return [(defined(derived, site), derived)]
    return [(formula, number) for number, formula in enumerate(counts) if formula is not FALSE]


_MAX_COUNTED: Final = 16


def _of_claims(arguments: tuple[Symbolic, ...]) -> bool:
    return any(isinstance(one, Unknown) and one.attribute.domain is Domain.CLAIM for one in arguments)


def _kind_of(domain: Domain) -> type:
    return {Domain.NUMBER: int, Domain.FLAG: bool}.get(domain, str)


def _is_lower(attribute: f.Attribute) -> bool:
    """Attributes that the input schema gives in lower case already."""
    return attribute in (f.HOST, f.SNI)
