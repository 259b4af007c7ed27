"""What a built-in function reports when it has no result.

By default such a call is undefined, as Rego has it; when errors are strict, evaluation ends with the
error's code.
"""

from __future__ import annotations


class BuiltinError(Exception):
    """A built-in function has no result for its operands (`eval_builtin_error`)."""

    code = "eval_builtin_error"


class OperandError(BuiltinError):
    """An operand has a type or a form that the function does not accept (`eval_type_error`)."""

    code = "eval_type_error"

    @classmethod
    def expected(cls, position: int, wanted: str, got: str) -> OperandError:
        """`operand 2 must be array but got object`."""
        return cls(f"operand {position} must be {wanted} but got {got}")


class HaltError(BuiltinError):
    """The call can't be ignored: evaluation ends whether or not errors are strict."""
