"""Terms of compiled Rego as Python closures.

A closure takes the frame of the rule being evaluated and returns a value or UNDEFINED. A frame is a list:
position 0 holds the world, every local variable has a position of its own. Which variables are bound at
which point of a body is known before anything runs, so there is nothing to undo on the way back: a later
solution overwrites.

Not here: what iterates (`evaluate_bodies`) and what rules mean (`evaluate_rules`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from policies.language.builtins.registry import BUILTINS
from policies.language.concrete.builtin_calls import builtin_closure
from policies.language.concrete.errors import ConflictError, LimitExceededError, RefusedError
from policies.language.concrete.world import UNDEFINED, Evaluate, Frame, Mock, Path, Result, World
from policies.language.numbers import NumberLimitExceededError, Real, parse_number, written_integer
from policies.language.source import Span
from policies.language.syntax import ast
from policies.language.values import FALSE, TRUE, Object, Set, Value

Step = Callable[[Frame], bool]
"""Continues with the rest of a body; True asks to stop looking for more solutions."""


def item_of(value: Result, key: Value) -> Result:
    """The value at a key, position or member; UNDEFINED where there is none."""
    kind = type(value)
    if kind is Object:
        return value.get(key, UNDEFINED)  # type: ignore[union-attr]
    if kind is tuple:
        position = key if type(key) is int else written_integer(key) if type(key) is Real else None
        if position is not None and 0 <= position < len(value):  # type: ignore[arg-type]
            return value[position]  # type: ignore[index]
        return UNDEFINED
    if kind is Set:
        return key if key in value else UNDEFINED  # type: ignore[operator]
    return UNDEFINED


class Rules(Protocol):
    """What terms ask of the rules around them. RefusedError for what isn't implemented."""

    observed: bool
    """Whether somebody is told which expressions held."""
    functions: dict[str, Path]
    """Functions of the policy by their written name."""
    mockable: frozenset[str]
    """Functions that some `with` replaces."""

    def arity_of(self, call: ast.Call) -> int:
        """How many arguments a call has without an output argument."""

    def function_closure(self, name: str, call: ast.Call, arguments: list[Evaluate]) -> Evaluate:
        """A call of a function of the policy."""

    def mocked_call(
        self, world: World, name: str, mock: Mock, operands: tuple[Any, ...], span: Span
    ) -> Result:
        """A call of a function that `with` replaced."""

    def document_closure(self, path: Path) -> Evaluate:
        """The whole document at a constant path of `data`."""

    def data_reference(
        self, compiler: TermCompiler, operands: tuple[ast.Term, ...], bound: frozenset[str]
    ) -> Evaluate:
        """A reference into `data` without unbound variables."""


class TermCompiler:
    """Turns the terms of one rule (or query) into closures; subclassed with what bodies add."""

    def __init__(self, program: Rules) -> None:
        self.program = program
        self.slots: dict[str, int] = {}
        self.size = 1

    def slot(self, name: str) -> int:
        """The frame position of a variable."""
        if name not in self.slots:
            self.slots[name] = self.size
            self.size += 1
        return self.slots[name]

    def temporary(self) -> int:
        """A frame position of its own for a value in between."""
        self.size += 1
        return self.size - 1

    # --- constants ----------------------------------------------------------------------------------

    def constant(self, term: ast.Term) -> Result:
        """The value of a term that is the same everywhere, else UNDEFINED."""
        match term:
            case ast.Null():
                return None
            case ast.Boolean(value=truth):
                return TRUE if truth else FALSE
            case ast.Number(text=text):
                try:
                    return parse_number(text)
                except NumberLimitExceededError as error:
                    raise LimitExceededError("number", str(error), term.span) from error
            case ast.String(value=text):
                return text
            case ast.Array(items=items):
                values = [self.constant(item) for item in items]
                return UNDEFINED if UNDEFINED in values else tuple(values)  # type: ignore[arg-type]
            case ast.Set(items=items):
                values = [self.constant(item) for item in items]
                return UNDEFINED if UNDEFINED in values else Set(values)  # type: ignore[arg-type]
            case ast.Object(entries=entries):
                pairs = [(self.constant(key), self.constant(item)) for key, item in entries]
                if any(UNDEFINED in pair for pair in pairs):
                    return UNDEFINED
                return self._object(pairs, term.span)  # type: ignore[arg-type]
        return UNDEFINED

    @staticmethod
    def _object(pairs: list[tuple[Value, Value]], span: Span) -> Object:
        made = dict(pairs)
        if len(made) != len(pairs):
            for key, item in pairs:
                if made[key] != item:
                    raise ConflictError("object keys must be unique", span)
        return Object(made)

    # --- terms with one value -----------------------------------------------------------------------

    def term(self, term: ast.Term, bound: frozenset[str]) -> Evaluate:
        """The closure of a term whose variables are all bound."""
        constant = self.constant(term)
        if constant is not UNDEFINED:
            return lambda _frame: constant
        match term:
            case ast.Var(name="input"):
                return lambda frame: frame[0].input
            case ast.Var(name="data"):
                return self.program.document_closure(())
            case ast.Var(name=name):
                slot = self.slot(name)
                return lambda frame: frame[slot]
            case ast.Ref():
                return self.reference(term, bound)
            case ast.Call():
                return self.call(term, bound)
            case ast.Array(items=items):
                return _array([self.term(item, bound) for item in items])
            case ast.Set(items=items):
                return _set([self.term(item, bound) for item in items])
            case ast.Object(entries=entries):
                pairs = [(self.term(key, bound), self.term(item, bound)) for key, item in entries]
                return self._object_closure(pairs, term.span)
            case ast.ArrayComprehension() | ast.SetComprehension() | ast.ObjectComprehension():
                return self.comprehension(term, bound)
        raise RefusedError(type(term).__name__, "not a term of compiled Rego", term.span)

    def comprehension(self, term: ast.Comprehension, bound: frozenset[str]) -> Evaluate:
        raise NotImplementedError  # bodies

    def _object_closure(self, pairs: list[tuple[Evaluate, Evaluate]], span: Span) -> Evaluate:
        def evaluate(frame: Frame) -> Result:
            made = []
            for key, item in pairs:
                key_value, item_value = key(frame), item(frame)
                if key_value is UNDEFINED or item_value is UNDEFINED:
                    return UNDEFINED
                made.append((key_value, item_value))
            weighed: Value = frame[0].run.weighed(self._object(made, span))  # type: ignore[arg-type]
            return weighed

        return evaluate

    # --- references ---------------------------------------------------------------------------------

    def reference(self, ref: ast.Ref, bound: frozenset[str]) -> Evaluate:
        """A reference without unbound variables."""
        if not isinstance(ref.head, ast.Var):
            return _steps(self.term(ref.head, bound), [self.term(operand, bound) for operand in ref.operands])
        if ref.head.name == "data":
            return self.program.data_reference(self, ref.operands, bound)
        head = self.term(ref.head, bound)
        keys = [self.constant(operand) for operand in ref.operands]
        if UNDEFINED not in keys:
            if ref.head.name == "input":
                return _input_path(keys)  # type: ignore[arg-type]
            if len(keys) == 1:
                return _one_key(head, keys[0])  # type: ignore[arg-type]
        return _steps(head, [self.term(operand, bound) for operand in ref.operands])

    # --- calls --------------------------------------------------------------------------------------

    def call(self, call: ast.Call, bound: frozenset[str]) -> Evaluate:
        """A call with exactly the declared arguments, as a value."""
        name = call.name
        arguments = [self.term(argument, bound) for argument in call.arguments]
        own = self._own_call(call, arguments)
        if name not in self.program.mockable:
            return own
        program, span = self.program, call.span

        def evaluate(frame: Frame) -> Result:
            world: World = frame[0]
            mock = world.mocks.get(name)
            if mock is None:
                return own(frame)
            operands = [argument(frame) for argument in arguments]
            if UNDEFINED in operands:
                return UNDEFINED
            return program.mocked_call(world, name, mock, tuple(operands), span)

        return evaluate

    def _own_call(self, call: ast.Call, arguments: list[Evaluate]) -> Evaluate:
        name = call.name
        if isinstance(call.operator.head, ast.Var) and call.operator.head.name == "data":
            return self.program.function_closure(name, call, arguments)
        builtin = BUILTINS.get(name)
        if builtin is None:
            raise RefusedError(name, "no such function", call.span)
        if builtin.relation:
            raise RefusedError(name, "it has many results: bind them to a variable first", call.span)
        return builtin_closure(builtin, arguments, call.span)


def _array(items: list[Evaluate]) -> Evaluate:
    def evaluate(frame: Frame) -> Result:
        values: list[Any] = [item(frame) for item in items]
        return UNDEFINED if UNDEFINED in values else frame[0].run.weighed(tuple(values))

    return evaluate


def _set(items: list[Evaluate]) -> Evaluate:
    def evaluate(frame: Frame) -> Result:
        values: list[Any] = [item(frame) for item in items]
        return UNDEFINED if UNDEFINED in values else frame[0].run.weighed(Set(values))

    return evaluate


def _one_key(head: Evaluate, key: Value) -> Evaluate:
    def evaluate(frame: Frame) -> Result:
        value = head(frame)
        return value.get(key, UNDEFINED) if type(value) is Object else item_of(value, key)

    return evaluate


def _input_path(keys: list[Value]) -> Evaluate:
    def evaluate(frame: Frame) -> Result:
        value = frame[0].input
        for key in keys:
            value = value.get(key, UNDEFINED) if type(value) is Object else item_of(value, key)
            if value is UNDEFINED:
                return UNDEFINED
        return value  # type: ignore[no-any-return]

    return evaluate


def _steps(head: Evaluate, keys: list[Evaluate]) -> Evaluate:
    def evaluate(frame: Frame) -> Result:
        value = head(frame)
        for key in keys:
            if value is UNDEFINED:
                return UNDEFINED
            operand = key(frame)
            if operand is UNDEFINED:
                return UNDEFINED
            value = item_of(value, operand)  # type: ignore[arg-type]
        return value

    return evaluate


__all__ = ["Evaluate", "Frame", "Mock", "Rules", "Step", "TermCompiler", "item_of"]
