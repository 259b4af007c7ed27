"""The four frames that calls are made of, read in one step each.

h2 reads frames by way of hyperframe, which builds flags, padding and a text for the log of each frame: a
quarter of what a call costs. DATA and HEADERS without padding and priority, PING and WINDOW_UPDATE are read
here; whatever else comes, or isn't plainly right, goes the way of the library, which judges it.
"""

from collections.abc import Callable
from typing import Any, Final

from h2.connection import H2Connection
from h2.frame_buffer import FrameBuffer
from hyperframe.frame import DataFrame, Frame, HeadersFrame, PingFrame, WindowUpdateFrame

_HEADER_BYTES: Final = 9
_NONE: Final[frozenset[str]] = frozenset()
_END: Final = frozenset({"END_STREAM"})
_HEADERS: Final = frozenset({"END_HEADERS"})

# By type and flags, as they stand in the fourth and fifth byte of a frame's header (RFC 9113, section 4.1).
_PLAIN: Final[dict[tuple[int, int], frozenset[str]]] = {
    (0, 0): _NONE,
    (0, 1): _END,
    (1, 4): _HEADERS,
    (1, 5): _HEADERS | _END,
    (6, 0): _NONE,
    (6, 1): frozenset({"ACK"}),
    (8, 0): _NONE,
}


class _Plain(Frame):
    """A frame whose flags are one of the sets above. Its parents' initialisers are left out on purpose."""

    flags: frozenset[str]  # type: ignore[assignment]

    def __repr__(self) -> str:
        # The library makes this text for each frame, for a log that nobody reads.
        return type(self).__name__


class PlainData(_Plain, DataFrame):
    """DATA, its content in `data`."""

    def __init__(self, stream_id: int, flags: frozenset[str], data: bytes) -> None:
        self.stream_id, self.flags, self.data, self.body_len = stream_id, flags, data, len(data)
        self.pad_length = 0


class PlainHeaders(_Plain, HeadersFrame):
    """HEADERS, its whole block in `data`."""

    def __init__(self, stream_id: int, flags: frozenset[str], data: bytes) -> None:
        self.stream_id, self.flags, self.data, self.body_len = stream_id, flags, data, len(data)
        self.pad_length = self.depends_on = self.stream_weight = 0
        self.exclusive = False


class PlainPing(_Plain, PingFrame):
    """PING."""

    def __init__(self, flags: frozenset[str], opaque_data: bytes) -> None:
        self.stream_id, self.flags, self.opaque_data, self.body_len = 0, flags, opaque_data, 8


class PlainWindowUpdate(_Plain, WindowUpdateFrame):
    """WINDOW_UPDATE."""

    def __init__(self, stream_id: int, increment: int) -> None:
        self.stream_id, self.flags, self.window_increment, self.body_len = stream_id, _NONE, increment, 4


class FrameReader(FrameBuffer):
    """h2's buffer of what came in, from which frames are taken."""

    def __next__(self) -> Frame:
        data = self._data
        if len(data) < _HEADER_BYTES:
            raise StopIteration
        flags = _PLAIN.get((data[3], data[4]))
        if flags is None or self._headers_buffer:
            return super().__next__()
        length = int.from_bytes(data[:3], "big")
        end = _HEADER_BYTES + length
        if len(data) < end or length > self.max_frame_size:
            return super().__next__()
        frame = _plain(data[3], flags, int.from_bytes(data[5:_HEADER_BYTES], "big") & 0x7FFF_FFFF, data, end)
        if frame is None:
            return super().__next__()
        del data[:end]
        return frame


def _plain(kind: int, flags: frozenset[str], stream_id: int, data: bytearray, end: int) -> Frame | None:
    """The frame, or None if the library should say what is wrong with it."""
    with memoryview(data) as view:
        body = view[_HEADER_BYTES:end].tobytes()
    if kind == 0:
        return PlainData(stream_id, flags, body) if stream_id else None
    if kind == 1:
        return PlainHeaders(stream_id, flags, body) if stream_id else None
    if kind == 6:
        return PlainPing(flags, body) if len(body) == 8 and not stream_id else None
    increment = int.from_bytes(body, "big") & 0x7FFF_FFFF
    return PlainWindowUpdate(stream_id, increment) if len(body) == 4 and increment else None


class Handlers:
    """Which method of h2's connection takes which frame, ours included. The library keeps a table of bound
    methods for each connection, which is more than two KiB; this looks them up."""

    __slots__ = ("_connection",)

    def __init__(self, connection: H2Connection) -> None:
        self._connection = connection

    def __getitem__(self, kind: type[Frame]) -> Callable[[Frame], Any]:
        return getattr(self._connection, _HANDLERS[kind])  # type: ignore[no-any-return]


def _names() -> dict[type[Frame], str]:
    """The names of h2's own table, and the frames above with those that they stand for."""
    names = {kind: str(bound.__name__) for kind, bound in H2Connection()._frame_dispatch_table.items()}
    for ours in (PlainData, PlainHeaders, PlainPing, PlainWindowUpdate):
        names[ours] = names[ours.__mro__[2]]
    return names


_HANDLERS: Final = _names()
