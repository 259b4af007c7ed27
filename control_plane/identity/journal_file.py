"""The journal's files: their form, and reading them after anything that can happen to a disk.

A journal is a row of segment files, `issuer-<index>-<first sequence>.journal`. A segment is a row of frames:

    length of payload (4) · CRC-32 of sequence and payload (4) · sequence (8) · payload

Sequences count the records of one issuer from 1, without gaps and across segments. Each group of frames that
is flushed together begins with a marker frame, which has sequence 0 and the payload
`b"GATEHOUSE-BATCH\\x01"` · its own offset in the file (8) · sequence of the next record (8) · time (8).

The marker tells a torn tail from damage. A group is written only after the one before it was flushed, so
whatever precedes a whole marker was durable once: a broken frame before a later marker is damage, and is
reported by file and offset. Broken frames with no marker after them are the remains of a group that was never
acknowledged, and are cut off.

A file that is being written, or was when its writer was killed, may end in zeros: room that was made ahead.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control_plane.core.errors import Corrupt, Unavailable

HEADER: Final = struct.Struct(">IIQ")
MARKER_MAGIC: Final = b"GATEHOUSE-BATCH\x01"
MAX_PAYLOAD_BYTES: Final = 1 << 20

_MARKER_BODY = struct.Struct(">QQQ")
_MARKER_BYTES: Final = len(MARKER_MAGIC) + _MARKER_BODY.size
_SEQUENCE = struct.Struct(">Q")
_LENGTH_AND_CHECKSUM = struct.Struct(">II")  # what stands before the sequence
_NAME = re.compile(r"issuer-(\d{1,6})-(\d{20})\.journal")


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of one issuer's journal."""

    issuer: int
    first_sequence: int
    path: Path


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that were durable once and can't be read any more. `end` is where reading could go on."""

    path: Path
    offset: int
    end: int
    detail: str

    def __str__(self) -> str:
        return f"{self.path}: bytes {self.offset} to {self.end}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a segment holds: payloads by sequence, damage, and the length of what is sound at its end.

    `total_bytes` doesn't count the zeros of room that was made ahead.
    """

    payloads: list[tuple[int, bytes]]
    damage: list[Damage]
    valid_bytes: int
    total_bytes: int
    next_sequence: int


def segment_path(directory: Path, issuer: int, first_sequence: int) -> Path:
    """The file that holds an issuer's records from `first_sequence` on."""
    return directory / f"issuer-{issuer}-{first_sequence:020d}.journal"


def segments(directory: Path, issuer: int | None = None) -> list[Segment]:
    """The segments in a directory, by issuer and sequence; other files are left alone."""
    try:
        names = [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Unavailable(f"journal directory {directory}: can't be listed: {error.strerror}") from error
    found = [(_NAME.fullmatch(name), name) for name in names]
    listed = [Segment(int(m[1]), int(m[2]), directory / name) for m, name in found if m is not None]
    wanted = [segment for segment in listed if issuer in (None, segment.issuer)]
    return sorted(wanted, key=lambda segment: (segment.issuer, segment.first_sequence))


def frame(sequence: int, payload: bytes) -> bytes:
    """One record's frame."""
    body = _SEQUENCE.pack(sequence) + payload
    return _LENGTH_AND_CHECKSUM.pack(len(payload), zlib.crc32(body)) + body


def marker(offset: int, next_sequence: int, at: int) -> bytes:
    """The frame that begins a group."""
    return frame(0, MARKER_MAGIC + _MARKER_BODY.pack(offset, next_sequence, at))


def read_segment(segment: Segment) -> Contents:
    """Reads a whole segment. Raises Unavailable if the file can't be read; damage is in the answer."""
    try:
        data = segment.path.read_bytes()
    except OSError as error:
        raise Unavailable(f"journal {segment.path}: can't be read: {error.strerror}") from error
    payloads: list[tuple[int, bytes]] = []
    damage: list[Damage] = []
    position, expected, valid = 0, segment.first_sequence, 0
    while position < len(data):
        found = _frame_at(data, position)
        if found is not None:
            sequence, payload, end = found
            if sequence and sequence != expected:
                # Whole frames in the wrong order aren't an accident of a disk.
                detail = f"record {sequence} stands where {expected} should"
                damage.append(Damage(segment.path, position, end, detail))
            if sequence:
                payloads.append((sequence, payload))
                expected = sequence + 1
            position = valid = end
            continue
        resumed = _next_marker(data, position)
        if resumed is None:
            # A torn tail, which was never acknowledged, unless whole groups stand there in a wrong place:
            # then bytes were taken out before them, and cutting them off would lose what was durable.
            moved = _moved_marker(data, position)
            if moved is not None:
                detail = f"groups after record {expected - 1} aren't where they were written"
                damage.append(Damage(segment.path, position, len(data), detail))
                expected = max(expected, moved)
            break
        offset, next_sequence = resumed
        lost = max(0, next_sequence - expected)
        damage.append(
            Damage(segment.path, position, offset, f"unreadable, {lost} records from {expected} on are lost")
        )
        expected, position = max(expected, next_sequence), offset
    total = valid + len(data[valid:].rstrip(b"\0"))
    return Contents(payloads, damage, valid, total, expected)


def raise_damage(damage: Damage) -> None:
    """What readers do with damage unless told otherwise. Raises Corrupt."""
    raise Corrupt(
        f"ledger journal {damage}",
        hint="restore the file from a backup; the other records are still readable",
    )


def _frame_at(data: bytes, position: int) -> tuple[int, bytes, int] | None:
    """Sequence, payload and end of the frame at `position`, or None if there is no whole one."""
    start = position + HEADER.size
    if start > len(data):
        return None
    length, checksum, sequence = HEADER.unpack_from(data, position)
    end = start + length
    if length > MAX_PAYLOAD_BYTES or end > len(data):
        return None
    payload = data[start:end]
    if zlib.crc32(payload, zlib.crc32(_SEQUENCE.pack(sequence))) != checksum:
        return None
    if sequence == 0 and _marker_at(payload, position) is None:
        return None  # also what a run of zero bytes looks like, whose checksum would fit
    return sequence, payload, end


def _marker_at(payload: bytes, position: int) -> int | None:
    """The next sequence that a marker tells, or None if this is no marker that belongs at `position`."""
    if len(payload) != _MARKER_BYTES or not payload.startswith(MARKER_MAGIC):
        return None
    offset, next_sequence, _ = _MARKER_BODY.unpack_from(payload, len(MARKER_MAGIC))
    return int(next_sequence) if offset == position else None


def _next_marker(data: bytes, position: int) -> tuple[int, int] | None:
    """Offset and next sequence of the first whole marker after `position`."""
    for at in _occurrences(data, MARKER_MAGIC, position):
        offset = at - HEADER.size
        if offset < position:
            continue
        found = _frame_at(data, offset)
        if found is not None and found[0] == 0:
            next_sequence = _marker_at(found[1], offset)
            if next_sequence is not None:
                return offset, next_sequence
    return None


def _moved_marker(data: bytes, position: int) -> int | None:
    """The sequence after the last record of the whole groups after `position`, wherever they were written."""
    found: list[int] = []
    for at in _occurrences(data, MARKER_MAGIC, position):
        start, end = at - HEADER.size, at + _MARKER_BYTES
        if start < position or end > len(data):
            continue
        if frame(0, data[at:end]) == data[start:end]:
            _, next_sequence, _ = _MARKER_BODY.unpack_from(data, at + len(MARKER_MAGIC))
            found.append(_sequence_after(data, end, int(next_sequence)))
    return max(found, default=None)


def _sequence_after(data: bytes, position: int, next_sequence: int) -> int:
    while (record := _frame_at(data, position)) is not None and record[0] == next_sequence:
        next_sequence, position = next_sequence + 1, record[2]
    return next_sequence


def _occurrences(data: bytes, wanted: bytes, start: int) -> Iterator[int]:
    while (at := data.find(wanted, start)) >= 0:
        yield at
        start = at + 1
