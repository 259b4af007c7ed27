"""Traces: W3C trace context (Level 1), read from calls and written into them, and spans for who wants them.

Who is called with a `traceparent` continues that trace: its log lines carry `trace_id` and `span_id`, and the
calls that it makes carry the trace on. Traces are begun by others: by whoever calls, or by the environment of
a command line (TRACEPARENT). Where the environment names a collector (`export_from`), command lines begin
traces of their own, and spans of traces that are sampled are sent to it (`otlp`): of work and of being
called (`Span`), and of calling somebody else (`Outgoing`). Without a collector nothing of that is loaded, and
without a trace nothing is paid.
"""

import re
import secrets
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import Final, Self

import structlog

HEADER: Final = "traceparent"
ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_SAMPLED: Final = 0x01
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

    @property
    def sampled(self) -> bool:
        """Whether spans of this trace are to be recorded (section 3.2.2.5)."""
        return bool(int(self.flags, 16) & _SAMPLED)


class Kind(IntEnum):
    """What a span is to its neighbours, numbered as in OTLP."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3


@dataclass(frozen=True, slots=True)
class FinishedSpan:
    """One span that has ended. Times are in Unix nanoseconds; `error` is empty if it went well."""

    context: TraceContext
    parent_id: str
    name: str
    kind: Kind
    began_ns: int
    ended_ns: int
    error: str = ""


_current: ContextVar[TraceContext | None] = ContextVar("trace", default=None)
_sink: Callable[[FinishedSpan], None] | None = None


def install(sink: Callable[[FinishedSpan], None] | None) -> None:
    """Hands the spans of this process to `sink` from now on, from whatever thread; it must not block."""
    global _sink  # noqa: PLW0603 - one for a process, as the log is
    _sink = sink


def exports() -> bool:
    """Whether the spans of this process go to anybody."""
    return _sink is not None


def hand_on(span: FinishedSpan) -> None:
    """A span that somebody else has ended goes where those of this process go."""
    if _sink is not None:
        _sink(span)


def export_from(environment: Mapping[str, str], service: str) -> None:
    """Sends spans to the collector that the environment names; does nothing where it names none. Raises
    InvalidInput for an address that can't be used."""
    if environment.get(ENDPOINT):
        from control_plane.runtime.otlp import Exporter  # who doesn't export doesn't pay for it

        install(Exporter.from_environment(environment, service).take)


def enter(header: str | None) -> None:
    """Continues the trace of a caller in this context, by a span of our own; without one changes nothing."""
    context = TraceContext.parse(header) if header else None
    if context is not None:
        ours = TraceContext(context.trace_id, _new_id(8), context.flags)
        _current.set(ours)
        structlog.contextvars.bind_contextvars(trace_id=ours.trace_id, span_id=ours.span_id)


def outgoing() -> str | None:
    """The header for a call to somebody else; None outside of a trace."""
    context = _current.get()
    return None if context is None else context.header


def family(path: str) -> str:
    """A path for the name of a span: without what differs from one thing to the next."""
    parts = path.partition("?")[0].split("/")[:4]
    return "/".join(part if part.isalpha() or part == "v1" else "*" for part in parts if part)


class Outgoing:
    """A call to somebody else, as a context manager; `header` goes with it, None outside of a trace.

    Where spans are collected the call is one, below that of this context, and what is called is below it. In
    this process nothing is, so that it may end in another task or thread than it began in. `error` may be set
    to say that it failed where no exception does.
    """

    __slots__ = ("_began_ns", "_context", "_name", "_parent_id", "error", "header")

    def __init__(self, name: str) -> None:
        parent = _current.get()
        self.error = ""
        self.header = None if parent is None else parent.header
        self._name = name
        self._context: TraceContext | None = None
        if parent is not None and parent.sampled and _sink is not None:
            self._context = TraceContext(parent.trace_id, _new_id(8), parent.flags)
            self._parent_id = parent.span_id
            self.header = self._context.header

    def __enter__(self) -> Self:
        self._began_ns = time.time_ns() if self._context is not None else 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._context is not None:
            told = self.error or _told(error)
            _report(self._context, self._parent_id, self._name, Kind.CLIENT, self._began_ns, told)


class Span:
    """A piece of work, as a context manager: below `header`'s span, or below the one in this context.

    `begin`: where there is neither, and spans are exported, this one begins a trace. Otherwise it is nothing.
    """

    __slots__ = ("_before", "_began_ns", "_context", "_kind", "_name", "_parent_id", "_ready", "error")

    def __init__(
        self, name: str, header: str | None = None, kind: Kind = Kind.INTERNAL, *, begin: bool = False
    ) -> None:
        parent = TraceContext.parse(header) if header else None
        parent = parent or _current.get()
        self.error = ""
        self._name = name
        self._kind = kind
        self._parent_id = "" if parent is None else parent.span_id
        self._context: TraceContext | None = None
        if parent is not None:
            self._context = TraceContext(parent.trace_id, _new_id(8), parent.flags)
        elif begin and _sink is not None:
            self._context = TraceContext(_new_id(16), _new_id(8), "01")

    def __enter__(self) -> Self:
        if self._context is not None:
            self._before: Token[TraceContext | None] = _current.set(self._context)
            self._ready = structlog.contextvars.bind_contextvars(
                trace_id=self._context.trace_id, span_id=self._context.span_id
            )
            self._began_ns = time.time_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._context is None:
            return
        _current.reset(self._before)
        structlog.contextvars.reset_contextvars(**self._ready)
        told = self.error or _told(error)
        _report(self._context, self._parent_id, self._name, self._kind, self._began_ns, told)


def _told(error: BaseException | None) -> str:
    """What a span says of an exception that ended it: its name. A program that ends well has not failed."""
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return ""
    return type(error).__name__


def _report(context: TraceContext, parent_id: str, name: str, kind: Kind, began_ns: int, error: str) -> None:
    if _sink is not None and context.sampled:
        _sink(FinishedSpan(context, parent_id, name, kind, began_ns, time.time_ns(), error))


def _new_id(size: int) -> str:
    """So many random bytes in hex, never all zero."""
    return f"{secrets.randbelow((1 << 8 * size) - 1) + 1:0{2 * size}x}"
