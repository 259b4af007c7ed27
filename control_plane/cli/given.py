"""What people give to commands in files, read up to a limit: a device has no size, and no end either."""

from __future__ import annotations

import sys
from pathlib import Path

import typer


def read_given(path: Path | None, limit: int, flag: str) -> bytes:
    """The content of a file, of standard input where there is none. Raises typer's usage error naming `flag`
    for what can't be read and for more than `limit` bytes."""
    try:
        if path is None:
            content = sys.stdin.buffer.read(limit + 1)
        else:
            with path.open("rb") as file:
                content = file.read(limit + 1)
    except OSError as error:
        raise typer.BadParameter(error.strerror or str(error), param_hint=flag) from error
    if len(content) > limit:
        raise typer.BadParameter(f"holds more than {limit} bytes", param_hint=flag)
    return content
