"""What an evaluation sees: input, data, replaced functions, and what has been worked out about them.

A `World` is a set of documents together with the results that hold for them. `with` makes another
world, and leaving the expression goes back to the old one with everything it already knew. The counters
of `Run` are shared by all worlds of one evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from policies.language.compiler.compiled import CompiledRule
from policies.language.concrete.errors import LimitExceededError
from policies.language.source import Span
from policies.language.values import EMPTY_OBJECT, Object, Set, Value


class Undefined:
    """The absence of a value. Only UNDEFINED exists; compare with `is`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "undefined"


UNDEFINED: Final = Undefined()
Result = Value | Undefined

Path = tuple[str, ...]

Frame = list[Any]
"""The world at position 0, then the local variables of a rule."""
Evaluate = Callable[[Frame], Result]
"""A term, compiled: its value for the variables of a frame."""

Made = TypeVar("Made", bound=tuple[Value, ...] | Object | Set)

_LIGHT: Final = 100
_SMALL: Final = 16
_CONTAINERS: Final = frozenset({tuple, Object, Set})


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one evaluation; there is no clock in here, so time is bounded by steps."""

    steps: int = 3_000_000
    """Elements visited, rules entered and results collected, together. A step takes about a microsecond."""
    text_characters: int = 16_000_000
    """Longest string that a built-in may return."""
    elements: int = 2_000_000
    """Most elements of an array, object or set that a built-in may return."""
    weight: int = 4_000_000
    """Most elements of a value made by the policy, parts that it shares counted each time they occur: a few
    rules like `b := [a, a]; c := [b, b]; …` make a value that nobody can compare, hash or print."""


@dataclass(frozen=True, slots=True)
class Observer:
    """Called while evaluating, for coverage and explanations."""

    on_expression: Callable[[Span, Any], None] | None = None
    """The place of an expression that held."""
    on_rule: Callable[[CompiledRule, Value], None] | None = None
    """A rule and the value it produced."""


class Run:
    """Counters and settings shared by all worlds of one evaluation."""

    __slots__ = ("_weights", "limits", "now_ns", "observer", "steps", "strict")

    def __init__(
        self, limits: Limits, *, strict: bool, now_ns: int | None, observer: Observer | None
    ) -> None:
        self.limits = limits
        self.steps = limits.steps
        self.strict = strict
        self.now_ns = now_ns
        self.observer = observer
        # By identity; each value is kept beside its weight, so that its identity is not given to another.
        self._weights: dict[int, tuple[Value, int]] = {}

    def weighed(self, made: Made, *, deep: bool = False) -> Made:
        """`made`, a new array, object or set; LimitExceededError when its weight is beyond the limit.

        `deep`: its parts may be new as well. Other parts that are not known come from a document, or are made
        and small, and count as one.
        """
        total = 1 + len(made) if len(made) > _SMALL else 1
        for part in made.values() if isinstance(made, Object) else made:
            if type(part) in _CONTAINERS:
                known = self._weights.get(id(part))
                if known is None and deep:
                    self.weighed(part, deep=True)  # type: ignore[type-var]
                    known = self._weights.get(id(part))
                total += known[1] if known is not None else 1
        if total > 1:
            if total > self.limits.weight:
                limit = self.limits.weight
                message = f"a value has more than {limit} elements, shared ones counted each time"
                raise LimitExceededError("weight", message)
            self._weights[id(made)] = (made, total)
        return made

    def is_light(self, operands: tuple[Value, ...]) -> bool:
        """Whether operands can be hashed in little time (arrays don't remember their hash)."""
        for operand in operands:
            if type(operand) is tuple and (len(operand) > _LIGHT or self._weight(operand) > _LIGHT):
                return False
        return True

    def _weight(self, value: Value) -> int:
        known = self._weights.get(id(value))
        return known[1] if known is not None else 1

    def exhausted(self) -> LimitExceededError:
        return LimitExceededError(
            "steps",
            f"evaluation took more than {self.limits.steps} steps; the policy joins or collects too much",
        )


@dataclass(frozen=True, slots=True)
class Mock:
    """What replaces a function: a value, or the name of another function."""

    value: Result = UNDEFINED
    function: str = ""


class World:
    """Documents, replaced functions and the results known for them."""

    __slots__ = ("cache", "data", "hidden", "input", "mocks", "run")

    def __init__(
        self,
        run: Run,
        input_document: Result,
        data: Value,
        mocks: Mapping[str, Mock] | None = None,
        hidden: tuple[Path, ...] = (),
    ) -> None:
        self.run = run
        self.input = input_document
        self.data = data
        self.mocks: Mapping[str, Mock] = mocks or {}
        self.hidden = hidden
        self.cache: dict[Any, Any] = {}

    def hides(self, path: Path) -> bool:
        """Whether `with` replaced the document at this path or above it, so that no rule counts there."""
        return any(path[: len(replaced)] == replaced for replaced in self.hidden)

    def without_mocks(self) -> World:
        """This world with every function's own meaning: what replaces a function sees no replacements."""
        known = self.cache.get("without mocks")
        if known is None:
            known = self.cache["without mocks"] = World(self.run, self.input, self.data, None, self.hidden)
        return known


def replaced_at(document: Result, path: tuple[Value, ...], value: Value) -> Value:
    """`document` with `value` at `path`; objects are made where there are none."""
    if not path:
        return value
    base = document if isinstance(document, Object) else EMPTY_OBJECT
    return Object({**base, path[0]: replaced_at(base.get(path[0], UNDEFINED), path[1:], value)})
