"""Every error that Gatehouse raises on purpose, split by whose fault it is.

    GatehouseError
    ├── CallerError              the request can't be served as it was made
    │   ├── InvalidInput         INVALID_ARGUMENT
    │   ├── NotFound             NOT_FOUND
    │   ├── AlreadyExists        ALREADY_EXISTS
    │   ├── Unauthenticated      UNAUTHENTICATED
    │   ├── PermissionDenied     PERMISSION_DENIED, with the reason that agents act upon
    │   ├── FailedPrecondition   FAILED_PRECONDITION
    │   ├── ResourceExhausted    RESOURCE_EXHAUSTED
    │   └── Unimplemented        UNIMPLEMENTED
    ├── PeerError                the other side broke the protocol
    │   └── PeerMisbehaved       UNAVAILABLE
    ├── DependencyError          something that we need doesn't answer
    │   ├── Unavailable          UNAVAILABLE, perhaps with the time to wait
    │   └── DeadlineExceeded     DEADLINE_EXCEEDED
    └── InternalError            our fault
        ├── Corrupt              DATA_LOSS
        └── Bug                  INTERNAL

A message says what was being done, to what, what came and what was expected; the hint says what to do
next. Both may be shown to the caller, so neither may hold a secret; text from outside goes through
`shown`, which bounds and escapes it.

This module doesn't know gRPC or HTTP: the codes are those of gRPC because they fit, and each border
translates once.
"""

import enum
import re
from typing import ClassVar


class Code(enum.IntEnum):
    """Status codes, numbered as in gRPC (google/rpc/code.proto)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class DenialReason(enum.IntEnum):
    """Why an agent was refused, numbered as spire.api.types.PermissionDeniedDetails.Reason.

    Agents decide from it whether to attest again or to stop.
    """

    UNKNOWN = 0
    AGENT_EXPIRED = 1
    AGENT_NOT_ATTESTED = 2
    AGENT_NOT_ACTIVE = 3
    AGENT_BANNED = 4
    AGENT_MUST_REATTEST = 5


class GatehouseError(Exception):
    """The root of the tree; catch it at borders, raise its leaves."""

    code: ClassVar[Code] = Code.UNKNOWN
    kind: ClassVar[str] = "gatehouse-error"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} — {self.hint}" if self.hint else self.message


class CallerError(GatehouseError):
    """The caller asked for something that can't be had as asked."""


class InvalidInput(CallerError):
    """What came doesn't have the form or the values that it must have."""

    code = Code.INVALID_ARGUMENT


class NotFound(CallerError):
    """The thing that was named doesn't exist."""

    code = Code.NOT_FOUND


class AlreadyExists(CallerError):
    """The thing that was to be made is there already."""

    code = Code.ALREADY_EXISTS


class Unauthenticated(CallerError):
    """Who the caller is couldn't be established."""

    code = Code.UNAUTHENTICATED


class PermissionDenied(CallerError):
    """The caller is known and may not do this."""

    code = Code.PERMISSION_DENIED

    def __init__(self, message: str, *, hint: str = "", reason: DenialReason = DenialReason.UNKNOWN) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class FailedPrecondition(CallerError):
    """The request is well formed and the present state doesn't allow it."""

    code = Code.FAILED_PRECONDITION


class ResourceExhausted(CallerError):
    """A limit was reached: a rate, a size, the space on a disk. A rate says when it may be again."""

    code = Code.RESOURCE_EXHAUSTED

    def __init__(self, message: str, *, hint: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class Unimplemented(CallerError):
    """A part of the interface that this version doesn't serve."""

    code = Code.UNIMPLEMENTED


class PeerError(GatehouseError):
    """The other side of a connection is at fault."""

    code = Code.UNAVAILABLE


class PeerMisbehaved(PeerError):
    """The peer sent what its protocol doesn't allow."""

    code = Code.UNAVAILABLE


class DependencyError(GatehouseError):
    """Something that we depend on failed; the same request may succeed later."""

    code = Code.UNAVAILABLE


class Unavailable(DependencyError):
    """The service can't be reached now. `retry_after_seconds` is a wish, not a promise."""

    code = Code.UNAVAILABLE

    def __init__(self, message: str, *, hint: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceeded(DependencyError):
    """The time given for the work ran out; whether it was done is unknown."""

    code = Code.DEADLINE_EXCEEDED


class InternalError(GatehouseError):
    """Our own fault."""

    code = Code.INTERNAL


class Corrupt(InternalError):
    """Stored data isn't what we wrote."""

    code = Code.DATA_LOSS


class Bug(InternalError):
    """A state that the code promised can't be."""

    code = Code.INTERNAL


def shown(value: object, limit: int = 120) -> str:
    """Text from outside, fit for a message: quoted, escaped to ASCII, cut after `limit` characters."""
    if isinstance(value, str | bytes):
        length = len(value)
        text = ascii(value[:limit])
        return text if length <= limit else f"{text}… ({length} long)"
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # more digits than Python writes, or nested too deep
        text = f"({type(value).__name__}, too large to be shown)"
    return text if len(text) <= limit else f"{text[:limit]}…"
