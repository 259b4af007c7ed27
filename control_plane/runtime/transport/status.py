"""Errors to gRPC trailers and back: the one table of this border.

What goes out of an error is its code, its message and hint, the reason that agents act upon
(spire.api.types.PermissionDeniedDetails inside google.rpc.Status, trailer grpc-status-details-bin) and the
time to wait. An exception that nobody meant becomes INTERNAL with an id; its story stays in the log.
"""

from collections.abc import Mapping
from typing import Final

from google.protobuf.message import DecodeError

from control_plane.core import errors
from control_plane.core.errors import Code, DenialReason, GatehouseError
from control_plane.proto.google.rpc.status_pb2 import Status
from control_plane.proto.spire.api.types.status_pb2 import PermissionDeniedDetails
from control_plane.runtime.transport.messages import (
    decode_binary,
    decode_message,
    encode_binary,
    encode_message,
)

MAX_MESSAGE_CHARACTERS = 4096
_DETAILS = "grpc-status-details-bin"
_PUSHBACK = "grpc-retry-pushback-ms"

_BY_CODE: Final[dict[Code, type[GatehouseError]]] = {
    Code.CANCELLED: errors.Unavailable,
    Code.UNKNOWN: errors.PeerMisbehaved,
    Code.INVALID_ARGUMENT: errors.InvalidInput,
    Code.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    Code.NOT_FOUND: errors.NotFound,
    Code.ALREADY_EXISTS: errors.AlreadyExists,
    Code.PERMISSION_DENIED: errors.PermissionDenied,
    Code.RESOURCE_EXHAUSTED: errors.ResourceExhausted,
    Code.FAILED_PRECONDITION: errors.FailedPrecondition,
    Code.ABORTED: errors.Unavailable,
    Code.OUT_OF_RANGE: errors.InvalidInput,
    Code.UNIMPLEMENTED: errors.Unimplemented,
    Code.INTERNAL: errors.Bug,
    Code.UNAVAILABLE: errors.Unavailable,
    Code.DATA_LOSS: errors.Corrupt,
    Code.UNAUTHENTICATED: errors.Unauthenticated,
}

# grpc/doc/http-grpc-status-mapping.md: what an HTTP status without a grpc-status means.
_BY_HTTP_STATUS: Final[dict[str, Code]] = {
    "400": Code.INTERNAL,
    "401": Code.UNAUTHENTICATED,
    "403": Code.PERMISSION_DENIED,
    "404": Code.UNIMPLEMENTED,
    "429": Code.UNAVAILABLE,
    "502": Code.UNAVAILABLE,
    "503": Code.UNAVAILABLE,
    "504": Code.UNAVAILABLE,
}

OK_TRAILERS: Final = [("grpc-status", "0")]


def to_trailers(error: GatehouseError) -> list[tuple[str, str]]:
    """The trailers that tell a caller of `error`."""
    message = str(error)[:MAX_MESSAGE_CHARACTERS]
    trailers = [("grpc-status", str(int(error.code))), ("grpc-message", encode_message(message))]
    if isinstance(error, errors.PermissionDenied) and error.reason is not DenialReason.UNKNOWN:
        status = Status(code=int(error.code), message=message)
        status.details.add().Pack(PermissionDeniedDetails(reason=error.reason.name))
        trailers.append((_DETAILS, encode_binary(status.SerializeToString())))
    if isinstance(error, errors.Unavailable) and error.retry_after_seconds is not None:
        trailers.append((_PUSHBACK, str(int(error.retry_after_seconds * 1000))))
    return trailers


def from_trailers(headers: Mapping[str, str]) -> GatehouseError | None:
    """The error that a reply's headers or trailers tell of, None for OK. Never raises."""
    http_status = headers.get(":status", "200")
    text = headers.get("grpc-status")
    if text is None:
        code = _BY_HTTP_STATUS.get(http_status, Code.UNKNOWN)
        return make_error(
            code, f"the server answered HTTP status {errors.shown(http_status)} without gRPC status"
        )
    try:
        code = Code(int(text))
    except ValueError:
        return errors.PeerMisbehaved(f"the server answered grpc-status {errors.shown(text)}")
    if code is Code.OK:
        return None
    message = decode_message(headers.get("grpc-message", ""))[:MAX_MESSAGE_CHARACTERS]
    error = make_error(code, message or code.name.lower().replace("_", " "))
    if isinstance(error, errors.PermissionDenied):
        error.reason = _reason(headers.get(_DETAILS))
    if isinstance(error, errors.Unavailable):
        error.retry_after_seconds = _pushback(headers.get(_PUSHBACK))
    return error


def make_error(code: Code, message: str) -> GatehouseError:
    """An error of the class that stands for `code`."""
    return _BY_CODE[code](message)


def _reason(details: str | None) -> DenialReason:
    if details is None:
        return DenialReason.UNKNOWN
    try:
        for detail in Status.FromString(decode_binary(details)).details:
            found = PermissionDeniedDetails()
            if detail.Unpack(found):
                return DenialReason(found.reason)
    except (DecodeError, errors.InvalidInput, ValueError):
        # Details are an addition; a status with broken ones is still the status.
        pass
    return DenialReason.UNKNOWN


def _pushback(text: str | None) -> float | None:
    if text is None or not (text.isascii() and text.isdigit() and len(text) <= 9):
        return None
    return int(text) / 1000
