"""Patterns and iteration: matching values against terms with unbound variables, and going through documents.

A pattern binds the variables of a term to the parts of a value. An iteration gives every value of a
reference with unbound operands to a consumer; a consumer, like a step, answers True when it wants no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from policies.language.concrete.errors import RefusedError
from policies.language.concrete.terms import Evaluate, Frame, Rules, Step, TermCompiler, item_of
from policies.language.concrete.world import UNDEFINED
from policies.language.syntax import ast
from policies.language.values import Object, Value, members

Test = Callable[[Frame], bool]
Match = Callable[[Frame, Value], bool]
"""Binds the variables of a pattern to the parts of a value; False when the value does not fit."""
Consume = Callable[[Frame, Value], bool]
"""Continues with a value that an iteration came to."""

ROOTS = frozenset({"input", "data"})


def variables(term: ast.Term | ast.Expr) -> frozenset[str]:
    """The local variables that a term needs or binds: those inside comprehensions are not counted.

    Comprehension variables of the outside are bound before by the order of the body, hence of no interest
    here.
    """
    match term:
        case ast.Var(name=name):
            return frozenset() if name in ROOTS else frozenset({name})
        case ast.Ref(head=head, operands=operands):
            return variables(head).union(*map(variables, operands))
        case ast.Array(items=items) | ast.Set(items=items):
            return frozenset().union(*map(variables, items))
        case ast.Object(entries=entries):
            return frozenset().union(*(variables(key) | variables(item) for key, item in entries))
        case ast.Call(arguments=arguments):
            return frozenset().union(*map(variables, arguments))
    return frozenset()


class SingleTest:
    """An expression that holds at most once, and what it binds."""

    __slots__ = ("binds", "test")

    def __init__(self, test: Test, binds: frozenset[str] = frozenset()) -> None:
        self.test = test
        self.binds = binds


def in_a_row(tests: list[Test], last: Step) -> Step:
    """All tests, then the step."""
    if not tests:
        return last
    if len(tests) == 1:
        only = tests[0]
        return lambda frame: only(frame) and last(frame)
    if len(tests) == 2:
        first, second = tests
        return lambda frame: first(frame) and second(frame) and last(frame)

    def run(frame: Frame) -> bool:
        for test in tests:
            if not test(frame):
                return False
        return last(frame)

    return run


def matching(value_of: Evaluate, match: Match) -> Test:
    def test(frame: Frame) -> bool:
        value = value_of(frame)
        return value is not UNDEFINED and match(frame, value)  # type: ignore[arg-type]

    return test


def matchable(term: ast.Term, bound: frozenset[str]) -> bool:
    if isinstance(term, ast.Var) or variables(term) <= bound:
        return True
    if isinstance(term, ast.Array):
        return True
    if isinstance(term, ast.Object):
        return all(variables(key) <= bound for key, _ in term.entries)
    return False


class IteratedRules(Rules, Protocol):
    """What patterns ask of the rules besides."""

    def data_iteration(
        self,
        compiler: PatternCompiler,
        operands: tuple[ast.Term, ...],
        bound: frozenset[str],
        consume: Consume,
    ) -> Step:
        """Every value of a reference into `data` with unbound operands."""


class PatternCompiler(TermCompiler):
    """Adds patterns and references that iterate."""

    program: IteratedRules

    def __init__(self, program: IteratedRules) -> None:
        super().__init__(program)

    def pattern(self, term: ast.Term, bound: frozenset[str]) -> tuple[Match, frozenset[str]]:
        """The match of a value against a term, and the variables bound after it."""
        if isinstance(term, ast.Var) and term.name not in ROOTS and term.name not in bound:
            slot = self.slot(term.name)

            def bind(frame: Frame, value: Value) -> bool:
                frame[slot] = value
                return True

            return bind, bound | {term.name}
        if variables(term) <= bound:
            value_of = self.term(term, bound)
            return (lambda frame, value: value_of(frame) == value), bound
        if isinstance(term, ast.Array):
            return self._array_pattern(term, bound)
        if isinstance(term, ast.Object):
            return self._object_pattern(term, bound)
        raise RefusedError(
            type(term).__name__, "can't be matched while it holds unbound variables", term.span
        )

    def _array_pattern(self, term: ast.Array, bound: frozenset[str]) -> tuple[Match, frozenset[str]]:
        # Parts that need a variable which a later part binds are matched after it: [f(x), x].
        parts: list[tuple[int, Match]] = []
        waiting = list(enumerate(term.items))
        while waiting:
            at = next((i for i, (_, item) in enumerate(waiting) if matchable(item, bound)), 0)
            position, item = waiting.pop(at)
            match, bound = self.pattern(item, bound)
            parts.append((position, match))
        size = len(term.items)

        def fits(frame: Frame, value: Value) -> bool:
            if type(value) is not tuple or len(value) != size:
                return False
            return all(match(frame, value[position]) for position, match in parts)

        return fits, bound

    def _object_pattern(self, term: ast.Object, bound: frozenset[str]) -> tuple[Match, frozenset[str]]:
        entries: list[tuple[Evaluate, Match]] = []
        for key, item in term.entries:
            key_of = self.term(key, bound)
            match, bound = self.pattern(item, bound)
            entries.append((key_of, match))
        size = len(entries)

        def fits(frame: Frame, value: Value) -> bool:
            if type(value) is not Object or len(value) != size:
                return False
            for key_of, match in entries:
                item = value.get(key_of(frame), UNDEFINED)  # type: ignore[arg-type]
                if item is UNDEFINED or not match(frame, item):  # type: ignore[arg-type]
                    return False
            return True

        return fits, bound

    # --- iteration ----------------------------------------------------------------------------------

    def iterate(self, ref: ast.Ref, bound: frozenset[str], consume: Consume) -> Step:
        """A step that gives every value of a reference with unbound operands to `consume`."""
        if isinstance(ref.head, ast.Var) and ref.head.name == "data":
            return self.program.data_iteration(self, ref.operands, bound, consume)
        ground = 0
        while variables(ref.operands[ground]) <= bound:
            ground += 1
        start = self.term(ast.Ref(ref.head, ref.operands[:ground]) if ground else ref.head, bound)
        walk = self.walk(ref.operands[ground:], bound, consume)

        def step(frame: Frame) -> bool:
            value = start(frame)
            return value is not UNDEFINED and walk(frame, value)  # type: ignore[arg-type]

        return step

    def walk(self, operands: tuple[ast.Term, ...], bound: frozenset[str], consume: Consume) -> Consume:
        """Goes from a value along operands, bound or not, to every value at their end."""
        if not operands:
            return consume
        operand, below = operands[0], operands[1:]
        if variables(operand) <= bound:
            key_of = self.term(operand, bound)
            onward = self.walk(below, bound, consume)

            def direct(frame: Frame, value: Value) -> bool:
                key = key_of(frame)
                if key is UNDEFINED:
                    return False
                item = item_of(value, key)  # type: ignore[arg-type]
                return item is not UNDEFINED and onward(frame, item)  # type: ignore[arg-type]

            return direct
        match, bound = self.pattern(operand, bound)
        onward = self.walk(below, bound, consume)

        def each(frame: Frame, value: Value) -> bool:
            run = frame[0].run
            for key, item in members(value):
                run.steps -= 1
                if run.steps < 0:
                    raise run.exhausted()
                if match(frame, key) and onward(frame, item):
                    return True
            return False

        return each
