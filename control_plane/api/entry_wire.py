"""Entries as bytes, remembered: agents of SPIRE ask for all of their entries every five seconds, and the same
entry is asked for by many agents.

What is remembered is keyed by ID, revision and creation time, which change with the entry, and by the mask.
Replies are concatenations of length-prefixed fields; a test holds them against the generated classes.
"""

from collections.abc import Sequence
from typing import Final

from control_plane.core.entry import Entry
from control_plane.proto.convert import entry_to_message
from control_plane.proto.spire.api.types import entry_pb2

MAX_REMEMBERED: Final = 50_000  # of a few hundred bytes each
GET_ENTRIES: Final = b"\x0a"  # GetAuthorizedEntriesResponse.entries = 1
SYNC_ENTRIES: Final = b"\x12"  # SyncAuthorizedEntriesResponse.entries = 2
SYNC_MORE: Final = b"\x18\x01"  # SyncAuthorizedEntriesResponse.more = 3, true


class EntryWriter:
    """Writes entries under one mask after another; one an event loop."""

    def __init__(self) -> None:
        self._written: dict[tuple[str, int, int, bytes], bytes] = {}

    def write(self, entries: Sequence[Entry], mask: entry_pb2.EntryMask | None, tag: bytes) -> list[bytes]:
        """Each entry as a field with `tag`, in order."""
        selected = b"all" if mask is None else mask.SerializeToString(deterministic=True)
        fields = []
        for entry in entries:
            key = (entry.id, entry.revision, entry.created_at, selected)
            body = self._written.get(key)
            if body is None:
                if len(self._written) >= MAX_REMEMBERED:
                    self._written.clear()
                body = entry_to_message(entry, mask).SerializeToString()
                body = self._written[key] = _length(len(body)) + body
            fields.append(tag + body)
        return fields


def _length(number: int) -> bytes:
    """Base 128, least significant group first (protobuf encoding, "Base 128 Varints")."""
    groups = bytearray()
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
