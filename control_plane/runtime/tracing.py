"""Which trace a log line belongs to: W3C trace context (Level 1), read from calls and written into them.

Who is called with a `traceparent` continues that trace: its log lines carry `trace_id` and `span_id`, and the
calls that it makes carry the trace on. Traces are begun by others: by whoever calls, or by the environment of
a command line (TRACEPARENT). Nothing is sampled, kept or exported here; without a trace nothing is paid.
"""

import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

import structlog

HEADER: Final = "traceparent"
_FORM: Final = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_MAX_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Our own span in a trace. IDs in lower-case hex; `flags` are passed on as they came."""

    trace_id: str
    span_id: str
    flags: str = "00"

    @classmethod
    def parse(cls, header: str) -> "TraceContext | None":
        """The caller's context; None for what isn't one (section 3.2), which is then ignored."""
        found = _FORM.fullmatch(header) if len(header) <= _MAX_CHARACTERS else None
        if found is None or found["version"] == "ff" or (found["version"] == "00" and found["more"]):
            return None
        if not int(found["trace"], 16) or not int(found["span"], 16):
            return None
        return cls(found["trace"], found["span"], found["flags"])

    @property
    def header(self) -> str:
        """As it is sent."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


_current: ContextVar[TraceContext | None] = ContextVar("trace", default=None)


def enter(header: str | None) -> None:
    """Continues the trace of a caller in this context, by a span of our own; without one changes nothing."""
    context = TraceContext.parse(header) if header else None
    if context is not None:
        ours = TraceContext(context.trace_id, _new_span(), context.flags)
        _current.set(ours)
        structlog.contextvars.bind_contextvars(trace_id=ours.trace_id, span_id=ours.span_id)


def outgoing() -> str | None:
    """The header for a call to somebody else; None outside of a trace."""
    context = _current.get()
    return None if context is None else context.header


def _new_span() -> str:
    return f"{secrets.randbelow((1 << 64) - 1) + 1:016x}"
