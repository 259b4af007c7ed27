"""How an evaluation can end other than with results.

    EvaluationError
      ConflictError        a rule, function or object has two values (`eval_conflict_error`)
      BuiltinFailedError   a built-in failed while errors are strict (`eval_builtin_error`, `eval_type_error`)
      LimitExceededError   a bound on steps, nesting or size was reached (`limit_exceeded`)
      RefusedError         the policy uses what this evaluator does not implement (`refused`)

Each names the place in the policy where there is one. An error is never a decision: callers deny.
"""

from __future__ import annotations

from policies.language.source import NOWHERE, Span


class EvaluationError(Exception):
    """Evaluation ended without a result. `code` is OPA's where OPA has one."""

    code = "eval_internal_error"

    def __init__(self, message: str, span: Span = NOWHERE) -> None:
        super().__init__(message)
        self.message = message
        self.span = span

    def __str__(self) -> str:
        if self.span is NOWHERE:
            return self.message
        return f"{self.span.source.file}:{self.span.row}:{self.span.column}: {self.message}"


class ConflictError(EvaluationError):
    """Two different values where there may be one."""

    code = "eval_conflict_error"


class BuiltinFailedError(EvaluationError):
    """A built-in function has no result, and errors are strict (or the failure can't be ignored)."""

    code = "eval_builtin_error"

    def __init__(self, message: str, span: Span = NOWHERE, *, code: str = "eval_builtin_error") -> None:
        super().__init__(message, span)
        self.code = code


class LimitExceededError(EvaluationError):
    """The policy asked for more than the limits allow. `limit` names which."""

    code = "limit_exceeded"

    def __init__(self, limit: str, message: str, span: Span = NOWHERE) -> None:
        super().__init__(message, span)
        self.limit = limit


class RefusedError(EvaluationError):
    """A construct that is not implemented; `construct` names it."""

    code = "refused"

    def __init__(self, construct: str, reason: str, span: Span = NOWHERE) -> None:
        super().__init__(f"{construct} is refused: {reason}", span)
        self.construct = construct
