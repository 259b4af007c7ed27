"""The data directory as the property of one server: with safe permissions, locked, left by the one before.

Two locks. `server.lock` is the supervisor's: a second server on the directory is refused at once. The other,
`processes.lock`, is inherited by every process that the supervisor starts, so that the kernel keeps it until
the last of them has gone, however the supervisor ended. A start after kill -9 waits for it: what is left of
the former server is finishing its answers and the journals that belong to them.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from control_plane.core.errors import FailedPrecondition, Unavailable
from control_plane.runtime.log import get_logger

FORMER_SECONDS: Final = 30.0
"""Longer than what is left of a server may live; see `wiring.__main__`."""
LOOK_SECONDS: Final = 0.02

_log = get_logger("supervisor")


@contextlib.asynccontextmanager
async def own(directory: Path, former_seconds: float = FORMER_SECONDS) -> AsyncIterator[int]:
    """Makes the directory and holds it; gives the descriptor that the server's processes are to inherit.

    Raises FailedPrecondition if another server runs on it, if it belongs to somebody else, or if processes of
    a former server don't end; Unavailable if it can't be made.
    """
    _make(directory)
    with contextlib.ExitStack() as held:
        supervisor = _open(directory / "server.lock", held)
        if not _take(supervisor):
            raise FailedPrecondition(
                f"data directory {directory}: another server is running on it",
                hint="stop that one, or choose another --data-dir",
            )
        processes = _open(directory / "processes.lock", held)
        await _wait_for_former(processes, directory, former_seconds)
        yield processes


async def _wait_for_former(descriptor: int, directory: Path, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    deadline, told = loop.time() + seconds, False
    while not _take(descriptor):
        if loop.time() >= deadline:
            raise FailedPrecondition(
                f"data directory {directory}: processes of a former server still run after {seconds:g} s",
                hint=f"find them (fuser {directory / 'processes.lock'}) and end them",
            )
        if not told:
            told = True
            _log.info("waiting_for_former_processes", data_dir=str(directory), at_most_seconds=seconds)
        await asyncio.sleep(LOOK_SECONDS)  # the kernel tells nobody when a lock becomes free, but who blocks


def _make(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = path.stat()
    except FileExistsError as error:
        raise FailedPrecondition(
            f"data directory {path}: is not a folder", hint="choose another --data-dir"
        ) from error
    except OSError as error:
        raise Unavailable(f"data directory {path}: {error.strerror}") from error
    if about.st_uid != os.geteuid():
        raise FailedPrecondition(
            f"data directory {path}: belongs to user {about.st_uid}, the server runs as {os.geteuid()}"
        )
    if about.st_mode & 0o077:
        path.chmod(0o700)


def _open(path: Path, held: contextlib.ExitStack) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"locking the data directory by {path}: {error.strerror}") from error
    held.callback(os.close, descriptor)
    return descriptor


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
