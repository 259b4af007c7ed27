"""HPACK (RFC 7541) for peers who say the same again: header blocks that are known aren't worked out anew.

A block that consists of indexed fields alone changes no table, neither the peer's nor ours, so it means the
same until another block changes the table. Calls of one method on one connection are such blocks from the
second on. Everything else is hpack's; what it decodes and encodes is what it would without this.
"""

from collections.abc import Iterable
from typing import Any, Final

from hpack import Decoder, Encoder, HeaderTuple
from hpack.table import HeaderTable

_MAX_KEPT: Final = 8  # blocks a connection and direction; most connections see two methods
_MAX_FIELDS: Final = 32


class _Entries(list[tuple[bytes, bytes]]):
    """The entries of a header table, newest first, without the deque's first block, which is more than half
    a KiB in each direction of each connection. A table of 4 KiB has at most 128 entries."""

    def appendleft(self, entry: tuple[bytes, bytes]) -> None:
        self.insert(0, entry)


class RepeatedDecoder(Decoder):
    """hpack's decoder with a memory for blocks of indexed fields."""

    def __init__(self, max_header_list_size: int) -> None:
        super().__init__(max_header_list_size)
        self.header_table.dynamic_entries = _Entries()  # type: ignore[assignment]
        self._kept: dict[bytes, list[HeaderTuple]] | None = None

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:
        """See hpack. The answer is shared: nobody may change it."""
        kept = self._kept
        if raw and kept is not None:
            known = kept.get(data)
            if known is not None:
                return known
        headers = list(super().decode(data, raw))
        if not is_indexed_alone(data):
            self._kept = None
        elif raw and (kept is None or len(kept) < _MAX_KEPT):
            self._kept = {**(kept or {}), data: headers}
        return headers


class RepeatedEncoder(Encoder):
    """hpack's encoder with a memory for the header sets that it wrote as indexed fields.

    Headers that must never be indexed (RFC 7541, section 7.1.3) aren't for it; we send none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.header_table.dynamic_entries = _Entries()  # type: ignore[assignment]
        self._kept: dict[tuple[Any, ...], bytes] | None = None

    @property
    def header_table_size(self) -> int:
        """Bytes of the table that we keep, as RFC 7541, section 4.1 counts them."""
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, allowed: int) -> None:
        # What a peer allows is no duty (section 4.2): with the 4 GiB that it may allow, each status message
        # would stay, and be searched through for each header that follows.
        self.header_table.maxsize = min(allowed, HeaderTable.DEFAULT_SIZE)
        if self.header_table.resized:
            self.table_size_changes.append(self.header_table.maxsize)

    def encode(self, headers: Any, huffman: bool = True) -> bytes:
        """See hpack."""
        given, kept = tuple(headers), self._kept
        if kept is not None and not self.header_table.resized:
            known = kept.get(given)
            if known is not None:
                return known
        block = super().encode(given, huffman)
        if not is_indexed_alone(block):
            self._kept = None
        elif kept is None or len(kept) < _MAX_KEPT:
            self._kept = {**(kept or {}), given: block}
        return block


def is_indexed_alone(block: bytes) -> bool:
    """Whether a block consists of a few indexed fields of one byte each (section 6.1)."""
    return 0 < len(block) <= _MAX_FIELDS and min(block) >= 0x80 and max(block) < 0xFF
