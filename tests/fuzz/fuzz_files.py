"""A file that is never written: opening a real one takes longer than reading what is in it."""

from __future__ import annotations

import io
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

_SIZELESS: Final = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


class _Content(io.BytesIO):
    """What is open; asked for its size it is as a pipe, which has none."""

    def fileno(self) -> int:
        """Of a device."""
        return _SIZELESS


class InMemory(type(Path())):  # type: ignore[misc]
    """Its path. There is one content for all, which is set before each read."""

    content = b""

    def open(self, mode: str = "r", *_: object, **_named: object) -> _Content:
        """What was set last."""
        return _Content(InMemory.content)

    def read_bytes(self) -> bytes:
        """Likewise."""
        return InMemory.content

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """Likewise."""
        return InMemory.content.decode(encoding or "utf-8", errors or "strict")

    def stat(self, **_: object) -> Any:
        """A file of that size, never older than it was."""
        return SimpleNamespace(st_mtime_ns=1, st_size=len(InMemory.content))
