"""Why a body holds or doesn't: its statements one after the other, up to the first that fails, and beyond.

A statement after the first failure is asked by itself, as far as its variables are known: a person wants to
hear everything that stands in the way at once.
"""

from __future__ import annotations

from typing import Final

from policies.explain.asking import MAX_SOLUTIONS, Asking, Bindings, unified
from policies.explain.reads import Reader
from policies.explain.trace import Condition, Outcome, Read
from policies.language.concrete.errors import EvaluationError
from policies.language.concrete.patterns import ROOTS, variables
from policies.language.concrete.scan import nodes
from policies.language.concrete.world import UNDEFINED, Result
from policies.language.source import Span
from policies.language.syntax import ast
from policies.language.values import Object, Set, Value, members

MAX_DEPTH: Final = 12
MAX_CONDITIONS: Final = 20_000

_HOISTED: Final = (
    "`not` isn't asked where what it is given is undefined: `import future.keywords.not` makes it hold then"
)


class BodyTracer:
    """Traces bodies; `left` bounds how many conditions one explanation looks at."""

    def __init__(self, asking: Asking, reader: Reader) -> None:
        self._asking = asking
        self._reader = reader
        self.left = MAX_CONDITIONS

    def body(self, body: ast.Body, given: Bindings, depth: int) -> tuple[list[Condition], list[Bindings]]:
        """The conditions in order, and the solutions: none where the body doesn't hold."""
        try:
            solutions = self._asking.solutions(body, given)
        except EvaluationError:
            solutions = []
        if solutions:
            return [
                self._held(one, solutions[0], depth) for one in body if not _hoisted(one, body)
            ], solutions
        return self._failed(body, given, depth), []

    def _failed(self, body: ast.Body, given: Bindings, depth: int) -> list[Condition]:
        reached: list[Bindings] = [given]
        failing: Condition | None = None
        at = 0
        for at, expression in enumerate(body):
            try:
                onward = self._asking.solutions(body[: at + 1], given)
            except EvaluationError as error:
                failing = _erred(expression, error)
                break
            if not onward:
                failing = self._first_failure(body, at, reached, depth)
                break
            reached = onward
        known = dict(reached[0])
        found = [self._held(one, known, depth) for one in body[:at] if not _hoisted(one, body)]
        if failing is None:  # the whole body raised, and its parts don't: the solutions were too many
            return found
        found.append(failing)
        lost = _names(body[at]) - known.keys()
        for expression in body[at + 1 :]:
            if expression.span == failing.span:
                lost |= _names(expression) - known.keys()
            elif not _hoisted(expression, body):
                found.append(self._alone(expression, known, lost, depth))
        return found

    def _first_failure(self, body: ast.Body, at: int, reached: list[Bindings], depth: int) -> Condition:
        """The statement that stopped the body. A part that was moved out of `not` speaks for the `not`."""
        expression, given = body[at], reached[0]
        owner = _owner(expression, body)
        failing = self._fails(expression, given, depth, len(reached))
        if owner is None:
            return failing
        note = _HOISTED if isinstance(owner.node, ast.Not) else failing.note
        return Condition(
            owner.span, _line(owner.span), failing.outcome, failing.reads, note=note, tried=failing.tried
        )

    def _alone(self, expression: ast.Expr, known: dict[str, Value], lost: set[str], depth: int) -> Condition:
        """A statement after the failure, by itself; `known` gains what it binds."""
        given = dict(known)
        if _names(expression) & lost:
            lost |= _names(expression) - known.keys()
            return Condition(expression.span, _line(expression.span), Outcome.NOT_REACHED)
        try:
            solutions = self._asking.solutions((expression,), given, 1)
        except EvaluationError as error:
            return _erred(expression, error)
        if solutions:
            known.update(solutions[0])
            return self._held(expression, solutions[0], depth)
        lost |= _names(expression) - known.keys()
        return self._fails(expression, given, depth, 1)

    # --- single statements --------------------------------------------------------------------------

    def _held(self, expression: ast.Expr, given: Bindings, depth: int) -> Condition:
        inner: tuple[Condition, ...] = ()
        if isinstance(expression.node, ast.Not) and not expression.modifiers and self._deeper(depth):
            inner = tuple(self.body(expression.node.body, given, depth + 1)[0])
        return self._condition(expression, given, Outcome.HOLDS, inner=inner)

    def _fails(self, expression: ast.Expr, given: Bindings, depth: int, tried: int) -> Condition:
        try:
            return self._failing(expression, given, depth, tried)
        except EvaluationError as error:  # a part that the whole didn't come to
            return _erred(expression, error)

    def _failing(self, expression: ast.Expr, given: Bindings, depth: int, tried: int) -> Condition:
        node, modifiers = expression.node, expression.modifiers
        if isinstance(node, ast.Not):
            inner = () if modifiers or not self._deeper(depth) else self.body(node.body, given, depth + 1)[0]
            return self._condition(expression, given, Outcome.FALSE, inner=tuple(inner), tried=tried)
        if isinstance(node, ast.Every):
            return self._every(expression, node, given, depth, tried)
        outcome, note = self._why(node, given, modifiers)
        return self._condition(expression, given, outcome, note=note, tried=tried)

    def _why(
        self, node: ast.ExprNode, given: Bindings, modifiers: tuple[ast.With, ...]
    ) -> tuple[Outcome, str]:
        """Whether a statement that doesn't hold is false or undefined."""
        if isinstance(node, ast.Call) and node.name == "eq":
            values = [self._side(side, given, modifiers) for side in node.arguments]
            if UNDEFINED in values:
                return Outcome.UNDEFINED, ""
            iterates = any(not variables(side) <= given.keys() for side in node.arguments)
            return Outcome.FALSE, _nothing_fits(values) if iterates else ""
        if isinstance(node, ast.Some | ast.SomeIn | ast.Not | ast.Every):
            return Outcome.FALSE, ""
        if not variables(node) <= given.keys():
            value = self._side(node, given, modifiers)
            return (Outcome.UNDEFINED, "") if value is UNDEFINED else (Outcome.FALSE, _nothing_fits([value]))
        value = self._asking.value(node, given, modifiers)
        return Outcome.UNDEFINED if value is UNDEFINED else Outcome.FALSE, ""

    def _side(self, side: ast.Term, given: Bindings, modifiers: tuple[ast.With, ...]) -> Result:
        """The value of a side; of one that iterates, what it iterates over; a pattern counts as there."""
        if variables(side) <= given.keys():
            return self._asking.value(side, given, modifiers)
        if not isinstance(side, ast.Ref):
            return ()
        ground = 0
        while variables(side.operands[ground]) <= given.keys():
            ground += 1
        if not ground:
            return self._asking.value(side.head, given, modifiers)
        return self._asking.value(ast.Ref(side.head, side.operands[:ground]), given, modifiers)

    def _every(
        self, expression: ast.Expr, every: ast.Every, given: Bindings, depth: int, tried: int
    ) -> Condition:
        domain = self._asking.value(every.domain, given, expression.modifiers)
        if not isinstance(domain, tuple | Object | Set):
            outcome = Outcome.UNDEFINED if domain is UNDEFINED else Outcome.FALSE
            note = "" if domain is UNDEFINED else "`every` goes through arrays, objects and sets"
            return self._condition(expression, given, outcome, note=note, tried=tried)
        for position, (key, item) in enumerate(members(domain)):
            if position >= MAX_SOLUTIONS or not self._deeper(depth) or expression.modifiers:
                break
            inside = {**given, every.value.name: item} | ({every.key.name: key} if every.key else {})
            if not self._asking.solutions(every.body, inside, 1):
                inner = tuple(self.body(every.body, inside, depth + 1)[0])
                note = f"fails for element {position + 1} of {len(domain)}"
                return self._condition(expression, given, Outcome.FALSE, inner=inner, note=note, tried=tried)
        return self._condition(expression, given, Outcome.FALSE, tried=tried)

    def _condition(
        self,
        expression: ast.Expr,
        given: Bindings,
        outcome: Outcome,
        *,
        inner: tuple[Condition, ...] = (),
        note: str = "",
        tried: int = 1,
    ) -> Condition:
        self.left -= 1
        reads: tuple[Read, ...] = ()
        if self.left > 0:
            reads = self._reader.reads(expression.node, given, expression.modifiers)
        return Condition(expression.span, _line(expression.span), outcome, reads, inner, note, tried)

    def _deeper(self, depth: int) -> bool:
        return depth < MAX_DEPTH and self.left > 0


def argument_body(patterns: tuple[ast.Term, ...], names: tuple[str, ...]) -> ast.Body:
    """Statements that match given operands with the patterns of a function's head."""
    return tuple(
        ast.Expr(unified(ast.Var(name), pattern), (), pattern.span)
        for name, pattern in zip(names, patterns, strict=True)
    )


def _nothing_fits(values: list[Result]) -> str:
    sizes = [len(value) for value in values if isinstance(value, Object | Set | tuple) and value != ()]
    if not sizes:
        return "there is nothing in it"
    return f"none of {max(sizes)} fits" if max(sizes) else "there is nothing in it"


def _names(expression: ast.Expr) -> set[str]:
    found = {one.name for one in nodes(expression, every=True) if isinstance(one, ast.Var)}
    return found - ROOTS


def _owner(expression: ast.Expr, body: ast.Body) -> ast.Expr | None:
    """The author's statement that a generated one was taken out of."""
    if not expression.generated:
        return None
    span = expression.span
    for other in body:
        around = other.span
        is_around = around.start <= span.start and span.end <= around.end and around != span
        if not other.generated and around.source is span.source and is_around:
            return other
    return None


def _hoisted(expression: ast.Expr, body: ast.Body) -> bool:
    return _owner(expression, body) is not None


def _erred(expression: ast.Expr, error: EvaluationError) -> Condition:
    return Condition(expression.span, _line(expression.span), Outcome.ERROR, note=error.message)


def _line(span: Span) -> str:
    return " ".join(span.text.split())
