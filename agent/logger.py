"""The log level, to be changed while the agent runs (spire.api.agent.logger.v1, on the admin socket only).

SPIRE knows more levels than we write: TRACE counts as debug, FATAL and PANIC as error.
"""

from typing import Final

from control_plane.core.errors import InvalidInput
from control_plane.proto.spire.api.agent.logger.v1 import logger_pb2
from control_plane.proto.spire.api.types import logger_pb2 as types
from control_plane.runtime import log
from control_plane.runtime.transport import Call

_LEVELS: Final = {
    types.LogLevel.TRACE: "debug",
    types.LogLevel.DEBUG: "debug",
    types.LogLevel.INFO: "info",
    types.LogLevel.WARN: "warning",
    types.LogLevel.ERROR: "error",
    types.LogLevel.FATAL: "error",
    types.LogLevel.PANIC: "error",
}
_SHOWN: Final = {
    "debug": types.LogLevel.DEBUG,
    "info": types.LogLevel.INFO,
    "warning": types.LogLevel.WARN,
    "error": types.LogLevel.ERROR,
}


class Logger:
    """Implements spire.api.agent.logger.v1.Logger. `launch` is one of runtime.log.LEVELS."""

    def __init__(self, launch: str, *, json: bool) -> None:
        self._launch = self._current = launch
        self._json = json

    async def get_logger(self, call: Call, request: logger_pb2.GetLoggerRequest) -> types.Logger:
        """The level now and at the start."""
        return types.Logger(current_level=_SHOWN[self._current], launch_level=_SHOWN[self._launch])

    async def set_log_level(self, call: Call, request: logger_pb2.SetLogLevelRequest) -> types.Logger:
        """Another level, until the agent ends or the level is reset."""
        if request.new_level not in _LEVELS:
            raise InvalidInput(
                f"setting the log level: {request.new_level} is none",
                hint="DEBUG, INFO, WARN or ERROR",
            )
        return self._set(_LEVELS[request.new_level])

    async def reset_log_level(self, call: Call, request: logger_pb2.ResetLogLevelRequest) -> types.Logger:
        """Back to the level of the start."""
        return self._set(self._launch)

    def _set(self, level: str) -> types.Logger:
        self._current = level
        log.configure(level=level, json=self._json)
        return types.Logger(current_level=_SHOWN[level], launch_level=_SHOWN[self._launch])
