"""Asks one input many small questions: solutions of a few statements, values of a term, variables given.

All questions share one world: what a rule makes is worked out once, and one count of steps bounds them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from policies.language.compiler.compiled import CompiledModules, CompiledRule
from policies.language.concrete.bodies import BodyCompiler
from policies.language.concrete.errors import BuiltinFailedError, EvaluationError
from policies.language.concrete.evaluate import Translated
from policies.language.concrete.rules import Program
from policies.language.concrete.terms import Frame, Step
from policies.language.concrete.world import UNDEFINED, Limits, Observer, Result, Run, World
from policies.language.source import Span
from policies.language.syntax import ast
from policies.language.values import Value

Bindings = Mapping[str, Value]
"""Variables by their compiled names."""

MAX_SOLUTIONS: Final = 1_000
"""So many solutions of a body are looked at; that there are more makes no rule hold or fail."""

_VALUE: Final = "~asked"


class Asking:
    """One policy, one input, one set of data."""

    def __init__(
        self,
        modules: CompiledModules,
        input_document: Result,
        data: Value,
        limits: Limits,
        now_ns: int | None = None,
    ) -> None:
        self.modules = modules
        self.input = input_document
        self._program = Program(modules, observed=True)
        self._reached: set[tuple[str, int, int]] = set()
        self._held: set[int] = set()
        observer = Observer(self._on_expression, self._on_rule)
        self._world = World(Run(limits, strict=False, now_ns=now_ns, observer=observer), input_document, data)
        # A world of its own, since results are remembered: here a failing built-in is an error.
        self._strict = World(Run(limits, strict=True, now_ns=now_ns, observer=None), input_document, data)

    def document(self, path: tuple[str, ...]) -> Result:
        """The document at a path below `data`. Raises EvaluationError."""
        with Translated():
            return self._program.lookup(self._world, path)

    def progress(self, rule: CompiledRule) -> tuple[bool, int]:
        """Whether a rule held when its document was asked for, and how many of its statements did so far."""
        reached = 0
        for expression in rule.body:
            if _place(expression.span) not in self._reached:
                break
            reached += 1
        return id(rule) in self._held, reached

    def solutions(self, body: ast.Body, given: Bindings, limit: int = MAX_SOLUTIONS) -> list[Bindings]:
        """What a body binds, once per solution, `given` included. Raises EvaluationError."""
        return self._solutions(self._world, body, given, limit)

    def value(self, term: ast.Term, given: Bindings, modifiers: tuple[ast.With, ...] = ()) -> Result:
        """A term whose variables are all given. Raises EvaluationError."""
        found = self.solutions((_asked(term, modifiers),), given, 1)
        return found[0][_VALUE] if found else UNDEFINED

    def failure(self, term: ast.Term, given: Bindings, modifiers: tuple[ast.With, ...] = ()) -> str:
        """Why a term has no value: what a built-in function said, or nothing."""
        try:
            self._solutions(self._strict, (_asked(term, modifiers),), given, 1)
        except BuiltinFailedError as error:
            return error.message
        except EvaluationError:
            return ""
        return ""

    def _on_expression(self, span: Span, _frame: object) -> None:
        self._reached.add(_place(span))

    def _on_rule(self, rule: CompiledRule, _value: Value) -> None:
        self._held.add(id(rule))

    def _solutions(self, world: World, body: ast.Body, given: Bindings, limit: int) -> list[Bindings]:
        compiler = BodyCompiler(self._program)
        slots = {name: compiler.slot(name) for name in given}
        found: list[Bindings] = []

        def final(known: frozenset[str]) -> Step:
            names = [(name, compiler.slot(name)) for name in sorted(known)]

            def collect(frame: Frame) -> bool:
                found.append({name: frame[slot] for name, slot in names})
                return len(found) >= limit

            return collect

        with Translated():
            step = compiler.body_then(body, frozenset(given), final)
            frame: Frame = [UNDEFINED] * compiler.size
            frame[0] = world
            for name, slot in slots.items():
                frame[slot] = given[name]
            step(frame)
        return found


def _place(span: Span) -> tuple[str, int, int]:
    return span.source.file, span.start, span.end


def _asked(term: ast.Term, modifiers: tuple[ast.With, ...]) -> ast.Expr:
    return ast.Expr(unified(ast.Var(_VALUE), term), modifiers, term.span)


def unified(left: ast.Term, right: ast.Term) -> ast.Call:
    """`left = right`."""
    return ast.Call(ast.Ref(ast.Var("eq")), (left, right), span=right.span)
