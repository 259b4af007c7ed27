"""A gate in front of the HTTP/2 library: it sees every frame header before anything is parsed.

The library parses first and counts never: a few hundred KiB of nine-byte frames are seconds of its time, and
it buffers an oversized frame before it refuses it. The gate walks the headers with integer arithmetic,
counts what floods are made of, refuses what is too large, and keeps GOAWAY frames back, because the library
takes one as the end of the connection while RFC 9113, section 6.8 lets open streams finish.

It judges neither order nor content of frames; that stays with the library.
"""

from control_plane.core.errors import PeerMisbehaved, ResourceExhausted
from control_plane.runtime.transport.limits import FLOOD_WINDOW_SECONDS, FrameLimits

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
_UNKNOWN = 10
_HEADER_BYTES = 9
_SMALL_DATA_BYTES = 64
END_STREAM, END_HEADERS = 0x1, 0x4
CLIENT_PREFACE_BYTES = 24


class FrameGate:
    """Counts the frames of one connection. `feed` returns what the HTTP/2 library may see.

    `sent` is raised by the owner with what it sends, since a peer answers that with frames of its own.
    `last_stream_id` is what the peer's GOAWAY said, None before one came.
    """

    __slots__ = ("_blocks", "_counts", "_held", "_limits", "_skip", "_window_end", "last_stream_id", "sent")

    def __init__(self, limits: FrameLimits, *, skip_bytes: int = 0) -> None:
        self._limits = limits
        self._skip = skip_bytes
        self._held = b""
        self._counts: list[int] | None = None
        self._window_end = 0.0
        self._blocks = 0
        self.sent = 0
        self.last_stream_id: int | None = None

    def feed(self, data: bytes, now: float) -> bytes:
        """Takes what was read from the peer at `now` (monotonic seconds).

        Raises:
            ResourceExhausted: the peer floods us; close with ENHANCE_YOUR_CALM.
            PeerMisbehaved: a frame is larger than we said we would take.
        """
        if self._held:
            data = self._held + data
            self._held = b""
        if now >= self._window_end:
            self._window_end = now + FLOOD_WINDOW_SECONDS
            self._counts = None
            self.sent = 0
        kept: list[bytes] = []
        start = 0  # of what hasn't been handed on
        position, end = self._skip, len(data)
        while position + _HEADER_BYTES <= end:
            length = int.from_bytes(data[position : position + 3], "big")
            kind, flags = data[position + 3], data[position + 4]
            if length > self._limits.max_frame_bytes:
                raise PeerMisbehaved(
                    f"HTTP/2 frame of {length} bytes came, at most {self._limits.max_frame_bytes} are taken"
                )
            self._count(kind, flags, length)
            following = position + _HEADER_BYTES + length
            if kind == GOAWAY:
                if following > end:
                    break
                if any(data[position + 5 : position + _HEADER_BYTES]):
                    raise PeerMisbehaved("HTTP/2 GOAWAY came on a stream, it belongs to the connection")
                self._read_goaway(data[position + _HEADER_BYTES : following])
                kept.append(data[start:position])
                start = following
            position = following
        if position >= end:
            self._skip = position - end
        else:
            self._skip = 0
            self._held = data[position:]
            end = position
        if not kept and start == 0 and end == len(data):
            return data
        kept.append(data[start:end])
        return b"".join(kept)

    def _read_goaway(self, payload: bytes) -> None:
        if len(payload) < 8:
            raise PeerMisbehaved(f"HTTP/2 GOAWAY of {len(payload)} bytes came, at least 8 were expected")
        self.last_stream_id = int.from_bytes(payload[:4], "big") & 0x7FFF_FFFF

    def _count(self, kind: int, flags: int, length: int) -> None:
        if kind == CONTINUATION:
            self._blocks += 1
            if self._blocks > self._limits.continuations:
                raise ResourceExhausted(
                    f"HTTP/2 flood: {self._blocks} CONTINUATION frames in one header block"
                )
            return
        if kind == HEADERS:
            self._blocks = 0
            return
        if kind == DATA and (length >= _SMALL_DATA_BYTES or flags & END_STREAM):
            return
        if self._counts is None:
            self._counts = [0] * (_UNKNOWN + 1)
        index = min(kind, _UNKNOWN)
        self._counts[index] = count = self._counts[index] + 1
        if count > self._allowance(index):
            raise ResourceExhausted(
                f"HTTP/2 flood: {count} frames of type {kind} within {FLOOD_WINDOW_SECONDS:g} s"
            )

    def _allowance(self, kind: int) -> int:
        limits = self._limits
        if kind == DATA:
            return limits.small_data + 4 * self.sent
        if kind == PING:
            return limits.pings + 2 * self.sent
        if kind == WINDOW_UPDATE:
            return limits.window_updates + 2 * self.sent
        if kind == RST_STREAM:
            return limits.resets
        if kind == SETTINGS:
            return limits.settings
        return limits.priorities if kind == PRIORITY else limits.unknown


def goaway_frame(last_stream_id: int, error_code: int, reason: str = "") -> bytes:
    """A GOAWAY frame that the library's state machine doesn't see, so open streams can go on."""
    payload = last_stream_id.to_bytes(4, "big") + error_code.to_bytes(4, "big") + reason.encode()[:256]
    return frame_header(len(payload), GOAWAY, 0, 0) + payload


def frame_header(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """The nine bytes before a frame's payload (RFC 9113, section 4.1)."""
    return ((length << 16 | kind << 8 | flags) << 32 | stream_id).to_bytes(_HEADER_BYTES, "big")
