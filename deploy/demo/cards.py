"""How the shop looks cards up: in PostgreSQL's own protocol, or line by line where that isn't installed.

Just as much of the protocol as one question needs ("Frontend/Backend Protocol" in PostgreSQL's manual): no
TLS and no password, since it is spoken to one's own Envoy on the loopback interface.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

QUESTION = "SELECT number FROM cards WHERE id = 7"
USER = "payments"
DATABASE = "postgres"
TIMEOUT_SECONDS = 25.0  # longer than an Envoy waits for an agent that restarts
LONGEST_MESSAGE = 65536


@dataclass(frozen=True, slots=True)
class Cards:
    """Where the database is found; `sql` says that it is PostgreSQL."""

    host: str
    port: int
    sql: bool

    def look_up(self) -> str:
        """The number of a card, over a connection of its own; empty where that was closed without one."""
        try:
            with self.open() as connection:
                return connection.ask()
        except OSError:
            return ""

    def open(self) -> Connection:
        """A connection to ask over several times. Raises OSError."""
        return Connection(self)


class Connection:
    """One connection to the database. Everything raises OSError."""

    def __init__(self, cards: Cards) -> None:
        self._sql = cards.sql
        self._socket = socket.create_connection((cards.host, cards.port), TIMEOUT_SECONDS)
        self._stream: BinaryIO = self._socket.makefile("rwb")
        if self._sql:
            words = f"user\0{USER}\0database\0{DATABASE}\0\0".encode()
            self._send(b"", struct.pack("!i", 3 << 16) + words)
            for _ in self._until_ready():
                pass

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self) -> str:
        """The number of a card."""
        if not self._sql:
            self._stream.write(b"card 7\n")
            self._stream.flush()
            return self._whole(self._stream.readline(1024)).decode().strip()
        self._send(b"Q", QUESTION.encode() + b"\0")
        rows = [content for kind, content in self._until_ready() if kind == b"D"]
        (length,) = struct.unpack("!i", rows[0][2:6])  # of the only column of the first row
        return rows[0][6 : 6 + length].decode()

    def close(self) -> None:
        """Ends it."""
        self._socket.close()

    def _send(self, kind: bytes, content: bytes) -> None:
        self._stream.write(kind + struct.pack("!i", len(content) + 4) + content)
        self._stream.flush()

    def _until_ready(self) -> Iterator[tuple[bytes, bytes]]:
        """Kind and content of each message up to the one that says that the next question may come."""
        while True:
            head = self._whole(self._stream.read(5))
            kind, (length,) = head[:1], struct.unpack("!i", head[1:])
            if not 4 <= length <= LONGEST_MESSAGE:
                raise OSError(f"the database sends a message of {length} bytes")
            content = self._whole(self._stream.read(length - 4)) if length > 4 else b""
            if kind == b"E":
                raise OSError(f"the database refuses: {content!r}")
            if kind == b"Z":
                return
            yield kind, content

    @staticmethod
    def _whole(content: bytes) -> bytes:
        if not content:
            raise ConnectionResetError("the database closed the connection")
        return content
