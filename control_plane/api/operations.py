"""spire.api.server.debug.v1.Debug and logger.v1.Logger: for whoever sits at the machine."""

from collections.abc import Callable, Sequence
from typing import Final

from cryptography import x509

from control_plane.api.context import ServerContext
from control_plane.core.errors import GatehouseError, InvalidInput
from control_plane.core.spiffe_id import SpiffeId
from control_plane.core.svid import spiffe_id_of
from control_plane.proto.convert import spiffe_id_to_message
from control_plane.proto.spire.api.server.debug.v1 import debug_pb2
from control_plane.proto.spire.api.server.logger.v1 import logger_pb2
from control_plane.proto.spire.api.types.logger_pb2 import Logger, LogLevel
from control_plane.runtime.log import get_logger
from control_plane.runtime.transport import Call

# SPIRE's levels to ours: what we don't tell apart goes to the nearest that says at least as much.
_LEVELS: Final = {
    LogLevel.PANIC: "error",
    LogLevel.FATAL: "error",
    LogLevel.ERROR: "error",
    LogLevel.WARN: "warning",
    LogLevel.INFO: "info",
    LogLevel.DEBUG: "debug",
    LogLevel.TRACE: "debug",
}
_NAMES: Final = {
    "error": LogLevel.ERROR,
    "warning": LogLevel.WARN,
    "info": LogLevel.INFO,
    "debug": LogLevel.DEBUG,
}


class DebugService:
    """Counts, uptime, and the chain that the server presents."""

    def __init__(self, context: ServerContext, chain: Callable[[], Sequence[bytes]]) -> None:
        self._context = context
        self._chain = chain

    async def get_info(self, call: Call, request: debug_pb2.GetInfoRequest) -> debug_pb2.GetInfoResponse:
        index = self._context.replica.index
        return debug_pb2.GetInfoResponse(
            svid_chain=[_certificate(der) for der in self._chain()],
            uptime=self._context.clock.unix() - self._context.started_at,
            agents_count=len(index.agents),
            federated_bundles_count=len(index.bundles),
            entries_count=index.entry_count,
        )


class LoggerService:
    """The log level of this process; the other processes keep theirs."""

    def __init__(self, launch_level: str, configure: Callable[[str], None]) -> None:
        self._launch = launch_level
        self._current = launch_level
        self._configure = configure
        self._log = get_logger("logger")

    async def get_logger(self, call: Call, request: logger_pb2.GetLoggerRequest) -> Logger:
        return self._state()

    async def set_log_level(self, call: Call, request: logger_pb2.SetLogLevelRequest) -> Logger:
        level = _LEVELS.get(request.new_level)
        if level is None:
            known = ", ".join(f"{LogLevel.Name(one)} ({one})" for one in _LEVELS)
            raise InvalidInput(f"log level {request.new_level}: expected one of {known}")
        return self._set(level)

    async def reset_log_level(self, call: Call, request: logger_pb2.ResetLogLevelRequest) -> Logger:
        return self._set(self._launch)

    def _set(self, level: str) -> Logger:
        self._log.warning("log_level_changed", before=self._current, now=level)
        self._configure(level)
        self._current = level
        return self._state()

    def _state(self) -> Logger:
        return Logger(current_level=_NAMES[self._current], launch_level=_NAMES[self._launch])


def _certificate(der: bytes) -> debug_pb2.GetInfoResponse.Cert:
    certificate = x509.load_der_x509_certificate(der)
    spiffe_id: SpiffeId | None
    try:
        spiffe_id = spiffe_id_of(certificate)
    except GatehouseError:
        spiffe_id = None  # an intermediate may name nothing but its subject
    return debug_pb2.GetInfoResponse.Cert(
        id=spiffe_id_to_message(spiffe_id) if spiffe_id else None,
        expires_at=int(certificate.not_valid_after_utc.timestamp()),
        subject=certificate.subject.rfc4514_string(),
    )
