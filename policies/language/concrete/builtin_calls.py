"""Calls of built-in functions: what they do where they fail, and how large their results may be.

Not here: the functions themselves (`builtins`), and calls that `with` replaced (`rules`).
"""

from __future__ import annotations

from typing import Any

from policies.language.builtins.errors import BuiltinError, HaltError
from policies.language.builtins.registry import Builtin
from policies.language.concrete.errors import BuiltinFailedError, LimitExceededError, RefusedError
from policies.language.concrete.world import UNDEFINED, Evaluate, Frame, Result, World
from policies.language.source import Span
from policies.language.values import FALSE, Object, Set

_DEEP = frozenset({"json.patch", "object.union", "object.union_n"})
"""Built-ins whose results have new parts in which old ones are shared."""


def apply_builtin(builtin: Builtin, world: World, operands: tuple[Any, ...], span: Span) -> Any:
    """The result of a built-in (an iterable of results for a relation), or UNDEFINED where it fails."""
    function = builtin.function
    if function is None:
        raise RefusedError(builtin.name, builtin.refusal, span)
    try:
        if not builtin.signature.variadic:
            builtin.check_operands(operands)
        result = function(world.run, *operands) if builtin.contextual else function(*operands)
    except BuiltinError as error:
        if builtin.tolerant:
            return FALSE
        if world.run.strict or isinstance(error, HaltError):
            raise BuiltinFailedError(f"{builtin.name}: {error}", span, code=error.code) from error
        return UNDEFINED
    except RecursionError as error:
        raise LimitExceededError("nesting", f"{builtin.name}: a value is nested too deeply", span) from error
    kind = type(result)
    limits = world.run.limits
    if kind is str:
        if len(result) > limits.text_characters:
            raise LimitExceededError(
                "text", f"{builtin.name} made a string of more than {limits.text_characters} characters", span
            )
    elif kind is tuple or kind is Set or kind is Object:
        if len(result) > limits.elements:
            raise LimitExceededError(
                "elements",
                f"{builtin.name} made a collection of more than {limits.elements} elements",
                span,
            )
        return world.run.weighed(result, deep=builtin.name in _DEEP)
    return result


def builtin_closure(builtin: Builtin, arguments: list[Evaluate], span: Span) -> Evaluate:
    """A call of a built-in that is no relation."""
    if len(arguments) == 2:
        first, second = arguments

        def evaluate_two(frame: Frame) -> Result:
            left = first(frame)
            if left is UNDEFINED:
                return UNDEFINED
            right = second(frame)
            if right is UNDEFINED:
                return UNDEFINED
            return apply_builtin(builtin, frame[0], (left, right), span)  # type: ignore[no-any-return]

        return evaluate_two

    def evaluate(frame: Frame) -> Result:
        operands = tuple([argument(frame) for argument in arguments])
        if UNDEFINED in operands:
            return UNDEFINED
        return apply_builtin(builtin, frame[0], operands, span)  # type: ignore[no-any-return]

    return evaluate
