"""Rows of JSON by the digest of what they follow from, each sealed, over a store that may lose or bend any.

A seal is the digest of key and content. It finds accidents: bits that turned, half a row, a row in
another's place. It is no signature: who may write into the store can make seals, and must be trusted (the
caller sees to that). Rows are read as JSON, within bounds, and whoever asks for one checks its shape.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass, field
from typing import Final, Protocol

MAX_ROW_BYTES: Final = 64 << 20
_WORTH_PACKING: Final = 512
_SEAL: Final = 16
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))
_DECODER: Final = json.JSONDecoder()
_PLAIN: Final = b"j"
_PACKED: Final = b"z"


class Store(Protocol):
    """Rows by key. Nothing is raised for what can't be read or written: it is as if it weren't there."""

    def find(self, key: bytes) -> bytes | None:
        """The content under a key, or None."""

    def put(self, key: bytes, content: bytes) -> None:
        """Keeps a content for later, in the place of an earlier one."""


@dataclass(slots=True)
class MemoryStore:
    """Rows of one process; also what there is where nothing is to be kept."""

    rows: dict[bytes, bytes] = field(default_factory=dict)

    def find(self, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def put(self, key: bytes, content: bytes) -> None:
        self.rows[key] = content


@dataclass(slots=True)
class Shelf:
    """Documents in a store. `compiler` is a digest of the compiler's sources: another's rows aren't found."""

    compiler: str
    store: Store
    found: int = 0
    missed: int = 0

    def find(self, kind: str, key: str) -> object | None:
        """The document under a key, None where there is none that is whole."""
        name = self._name(kind, key)
        row = self.store.find(name)
        document = None if row is None else _read(name, row)
        if document is None:
            self.missed += 1
        else:
            self.found += 1
        return document

    def put(self, kind: str, key: str, document: object) -> None:
        """Keeps a document."""
        name = self._name(kind, key)
        body = _ENCODER.encode(document).encode()
        if len(body) > MAX_ROW_BYTES:
            return
        body = _PLAIN + body if len(body) < _WORTH_PACKING else _PACKED + zlib.compress(body, 1)
        self.store.put(name, _seal(name, body) + body)

    def _name(self, kind: str, key: str) -> bytes:
        return bytes.fromhex(digest(self.compiler, kind, key))


def digest(*parts: str) -> str:
    """SHA-256 over texts; lengths stand before them, so that no two lists run together to the same bytes."""
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return hashlib.sha256(b"".join([len(one).to_bytes(8, "big") + one for one in encoded])).hexdigest()


def _seal(name: bytes, body: bytes) -> bytes:
    return hashlib.sha256(name + body).digest()[:_SEAL]


def _read(name: bytes, row: bytes) -> object | None:
    seal, body = row[:_SEAL], row[_SEAL:]
    if seal != _seal(name, body):  # no secret: it tells a row that is whole from one that isn't
        return None
    try:
        text = body[1:]
        if body[:1] == _PACKED:
            reader = zlib.decompressobj()
            text = reader.decompress(text, MAX_ROW_BYTES + 1)
            if len(text) > MAX_ROW_BYTES or not reader.eof:
                return None
        written = text.decode()
        found, end = _DECODER.raw_decode(written)
    except (ValueError, RecursionError, zlib.error):
        return None
    return found if end == len(written) else None
