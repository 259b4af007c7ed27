"""Reading files that somebody else may have put there: the size is looked at before a byte is read.

A file of gigabytes where a page was expected (a log moved to a wrong name, a sparse file) is refused at once,
instead of after seconds of reading and as much memory. What is no regular file, such as a pipe, has no size
before it is read, and is read up to the bound.
"""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from control_plane.core.errors import InvalidInput


def read_bounded(path: Path, limit: int) -> bytes:
    """The content of a file. Raises OSError as the file system does, InvalidInput for more than `limit`."""
    with path.open("rb") as file:
        return content_of(file, path, limit)


def read_text_bounded(path: Path, limit: int, encoding: str = "utf-8") -> str:
    """The same as text. Raises UnicodeDecodeError too."""
    return read_bounded(path, limit).decode(encoding)


def content_of(file: BinaryIO, path: Path, limit: int) -> bytes:
    """The content of a file that is open already; `path` is for the error."""
    about = os.fstat(file.fileno())
    if stat.S_ISREG(about.st_mode) and about.st_size > limit:
        raise InvalidInput(f"reading {path}: it has {about.st_size} bytes, at most {limit} are read")
    content = file.read(limit + 1)
    if len(content) > limit:
        raise InvalidInput(f"reading {path}: it has more than {limit} bytes, the most that are read")
    return content
