"""What a condition looks at: the parts of its text that have a value, in the order in which they stand.

Constants are left out, they say themselves. What a comprehension, `not` or `every` looks at inside is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from policies.explain.asking import Asking, Bindings
from policies.explain.trace import DocumentTrace, Read
from policies.language.compiler.compiled import RuleTree, Shape
from policies.language.concrete.errors import EvaluationError
from policies.language.concrete.patterns import ROOTS, variables
from policies.language.concrete.world import UNDEFINED, Undefined
from policies.language.source import NOWHERE
from policies.language.syntax import ast
from policies.language.values import Object, Value, type_name

Follow = Callable[[tuple[str, ...], tuple[Value, ...] | None], DocumentTrace | None]
"""The rules at a path; with operands, of one call."""

MAX_READS: Final = 24
_SHOWN_KEYS: Final = 8


class Reader:
    """Finds what the conditions of one explanation read."""

    def __init__(self, asking: Asking, follow: Follow) -> None:
        self._asking = asking
        self._follow = follow

    def reads(
        self, term: ast.ExprNode, given: Bindings, modifiers: tuple[ast.With, ...] = ()
    ) -> tuple[Read, ...]:
        """What a statement reads, each text once. Under `with`, rules are not followed."""
        found: dict[str, Read] = {}
        for part in _parts(term, frozenset(given), outermost=True):
            text = _written(part)
            if text and text not in found and len(found) < MAX_READS:
                found[text] = self._read(part, text, given, modifiers)
        return tuple(found.values())

    def _read(self, part: ast.Term, text: str, given: Bindings, modifiers: tuple[ast.With, ...]) -> Read:
        try:
            value = self._asking.value(part, given, modifiers)
            missing = self._missing(part, given, modifiers) if value is UNDEFINED else ""
        except EvaluationError as error:
            return Read(text, UNDEFINED, error.message)
        return Read(text, value, missing, None if modifiers else self._document(part, given))

    def _document(self, part: ast.Term, given: Bindings) -> DocumentTrace | None:
        if isinstance(part, ast.Call):
            path = _constant(part.operator)
            group = self._asking.modules.groups.get(path) if path is not None else None
            if group is None or group.shape is not Shape.FUNCTION:
                return None
            operands: list[Value] = []
            for argument in part.arguments:
                value = self._asking.value(argument, given)
                if isinstance(value, Undefined):
                    return None
                operands.append(value)
            return self._follow(group.path, tuple(operands))
        if isinstance(part, ast.Ref) and (path := rule_path(self._asking.modules.tree, part)) is not None:
            return self._follow(path, None)
        return None

    def _missing(self, part: ast.Term, given: Bindings, modifiers: tuple[ast.With, ...]) -> str:
        """Which part of a reference isn't there, or what a function said."""
        if isinstance(part, ast.Call):
            return self._asking.failure(part, given, modifiers)
        if not isinstance(part, ast.Ref):
            return ""
        # Packages are not asked for as documents: that would evaluate every rule in them.
        for length in range(_first_document(self._asking.modules.tree, part), len(part.operands)):
            beginning = ast.Ref(part.head, part.operands[:length])
            base = self._asking.value(beginning if length else part.head, given, modifiers)
            if isinstance(base, Undefined):
                return f"there is no {ast.dotted(beginning)}"
            key = self._asking.value(part.operands[length], given, modifiers)
            if isinstance(key, Undefined):
                return ""  # the operand is read by itself, and says what it misses
            below = ast.Ref(part.head, part.operands[: length + 1])
            if self._asking.value(below, given, modifiers) is UNDEFINED:
                return _lacks(ast.dotted(beginning), base, key)
        return ""


def rule_path(tree: RuleTree, ref: ast.Ref) -> tuple[str, ...] | None:
    """The path of the rule that a reference goes through; None where it is plain data, or a whole package."""
    node: RuleTree | None = tree
    path: tuple[str, ...] = ()
    if not isinstance(ref.head, ast.Var) or ref.head.name != "data":
        return None
    for operand in ref.operands:
        if node is None or not isinstance(operand, ast.String):
            return None
        node = node.children.get(operand.value)
        path = (*path, operand.value)
        if node is not None and node.group is not None:
            return None if node.group.shape is Shape.FUNCTION else path
    return None


def _first_document(tree: RuleTree, ref: ast.Ref) -> int:
    """How many operands lead through packages: what comes after them is a rule's document or plain data."""
    if not isinstance(ref.head, ast.Var) or ref.head.name != "data":
        return 0
    node: RuleTree | None = tree
    for length, operand in enumerate(ref.operands):
        if node is None or node.group is not None:
            return length
        node = node.children.get(operand.value) if isinstance(operand, ast.String) else None
    return len(ref.operands)


def _lacks(name: str, base: Value, key: Value) -> str:
    if not isinstance(base, Object):
        return f"{name} is {_article(type_name(base))}"
    known = [str(one) for one in base if isinstance(one, str)]
    others = "" if len(known) <= _SHOWN_KEYS else f" and {len(known) - _SHOWN_KEYS} more"
    has = f"only {', '.join(sorted(known)[:_SHOWN_KEYS])}{others}" if known else "nothing"
    return f"{name} has no {key if isinstance(key, str) else repr(key)}: {has}"


def _article(kind: str) -> str:
    return kind if kind == "null" else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _constant(ref: ast.Ref) -> tuple[str, ...] | None:
    if not isinstance(ref.head, ast.Var) or ref.head.name != "data":
        return None
    names = [operand.value for operand in ref.operands if isinstance(operand, ast.String)]
    return tuple(names) if len(names) == len(ref.operands) else None


def _parts(term: ast.ExprNode, given: frozenset[str], *, outermost: bool = False) -> Iterator[ast.Term]:
    """The parts of a term that have one value under `given`, outer ones first.

    Of a reference that iterates it is what it iterates over. The outermost built-in call is the condition
    itself; a function of the policy is read nevertheless, since its rules say why.
    """
    match term:
        case ast.Var(name=name):
            if name in given and term.span.text != "_":
                yield term
        case ast.Ref(head=head, operands=operands):
            ground = next(
                (at for at, operand in enumerate(operands) if not _bound(operand, given)), len(operands)
            )
            if _bound(head, given) and not (ground == 0 and isinstance(head, ast.Var) and head.name in ROOTS):
                yield term if ground == len(operands) else _beginning(term, ground)
            yield from _parts(head, given) if not isinstance(head, ast.Var) else ()
            for operand in operands:
                yield from _parts(operand, given)
        case ast.Call(arguments=arguments):
            own = isinstance(term.operator.head, ast.Var) and term.operator.head.name == "data"
            if (own or not outermost) and _bound(term, given):
                yield term
            for argument in arguments:
                yield from _parts(argument, given)
        case ast.Array(items=items) | ast.Set(items=items):
            for item in items:
                yield from _parts(item, given)
        case ast.Object(entries=entries):
            for key, item in entries:
                yield from _parts(key, given)
                yield from _parts(item, given)
        case ast.ArrayComprehension() | ast.SetComprehension() | ast.ObjectComprehension():
            yield term
        case ast.Every(domain=domain):
            yield from _parts(domain, given)


def _beginning(ref: ast.Ref, length: int) -> ast.Term:
    """The first operands of a reference, with the part of the text that says them."""
    if not length:
        return ref.head
    last = ref.operands[length - 1].span
    span = ref.span.to(last) if last is not NOWHERE and last.start >= ref.span.start else NOWHERE
    return ast.Ref(ref.head, ref.operands[:length], span=span)


def _bound(term: ast.Term, given: frozenset[str]) -> bool:
    return variables(term) <= given


def _written(term: ast.Term) -> str:
    """A part as the author wrote it, on one line; empty for what nobody wrote."""
    if term.span is not NOWHERE:
        return " ".join(term.span.text.split())
    if isinstance(term, ast.Ref):
        return ast.dotted(term)
    return ""
