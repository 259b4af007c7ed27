"""The process's log: events with fields, as JSON lines or for a human, on standard error.

`configure` is called once by a process's entry; libraries only call `get_logger`. Values that are Secret and
control characters never reach the output, whoever logged them. This is not the audit log.
"""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog
from structlog.typing import FilteringBoundLogger

from control_plane.core.secret import Secret

Log = FilteringBoundLogger

_HIDDEN = "[secret]"
_MAX_BYTES_SHOWN = 16
_CONTROL = {code: f"\\x{code:02x}" for code in [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029]}
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
LEVELS = tuple(_LEVELS)


def get_logger(name: str) -> Log:
    """A logger whose events carry `name` as their `component` field."""
    logger: Log = structlog.get_logger(component=name)
    return logger


def configure(*, level: str = "info", json: bool = True, stream: TextIO | None = None) -> None:
    """Sets up all loggers of this process, those that exist already included.

    Raises:
        KeyError: `level` is none of LEVELS; settings are validated before they come here.
    """
    _configure_events(level, json, stream)
    # Libraries that use the standard logger may warn, no more; their lines are not in our form.
    logging.basicConfig(level=logging.WARNING, stream=stream or sys.stderr, force=True)


def _configure_events(level: str, json: bool, stream: TextIO | None) -> None:
    renderer: Any
    if json:
        renderer = structlog.processors.JSONRenderer(sort_keys=False, ensure_ascii=True)
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=bool(stream is None and sys.stderr.isatty()),
            exception_formatter=structlog.dev.plain_traceback,  # the default one prints local variables
        )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=stream or sys.stderr),
        cache_logger_on_first_use=False,
    )


def redact(logger: object, name: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """structlog processor: hides secrets and escapes control characters in every value, also nested ones."""
    return {key: _safe(value, multiline=key == "exception") for key, value in event.items()}


def _safe(value: Any, *, multiline: bool = False) -> Any:
    if isinstance(value, Secret):
        return _HIDDEN
    if isinstance(value, str):
        if multiline:
            return "\n".join(line.translate(_CONTROL) for line in value.split("\n"))
        return value.translate(_CONTROL)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        raw = bytes(value)
        return raw[:_MAX_BYTES_SHOWN].hex() + (f"…({len(raw)} bytes)" if len(raw) > _MAX_BYTES_SHOWN else "")
    if isinstance(value, Mapping):
        return {str(key): _safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_safe(item) for item in value]
    return str(value).translate(_CONTROL)


if not structlog.is_configured():
    # A process that never configures its log still must not print local variables in tracebacks.
    _configure_events("warning", json=True, stream=None)
