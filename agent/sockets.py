"""Sockets of the agent in the file system: their folders, and not taking one away from a running agent.

Binding under another name and renaming is the transport's; here is what has to be true before.
"""

import errno
import fcntl
import os
import socket
import stat
from pathlib import Path
from typing import Final

from control_plane.core.errors import FailedPrecondition

ANSWER_SECONDS: Final = 2.0


def prepare_socket(path: Path) -> None:
    """Makes the folder, and checks that the name is free or its owner gone.

    Raises FailedPrecondition if somebody answers there, or if something that isn't a socket has the name.
    """
    _prepare_folder(path.parent)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FailedPrecondition(f"socket {path}: something else has this name", hint="choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(ANSWER_SECONDS)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return  # left behind by an agent that ended; it is replaced by renaming over it
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise FailedPrecondition(
                    f"socket {path}: can't be asked: {error.strerror or error}"
                ) from error
    raise FailedPrecondition(
        f"socket {path}: a process answers there already", hint="is another agent running?"
    )


def lock_data_dir(data_dir: Path) -> int:
    """Holds the data directory for this process; the descriptor keeps the lock. Raises FailedPrecondition if
    another agent has it: two agents with one identity would knock each other out at the server."""
    _prepare_folder(data_dir)
    descriptor = os.open(
        data_dir / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise FailedPrecondition(
            f"data directory {data_dir}: another agent uses it", hint="stop it, or choose another directory"
        ) from error
    return descriptor


def _prepare_folder(folder: Path) -> None:
    try:
        # Others must be able to pass through to the Workload API; what is secret has modes of its own.
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        about = folder.stat()
    except OSError as error:
        raise FailedPrecondition(f"folder {folder}: can't be used: {error.strerror or error}") from error
    if about.st_uid not in (os.geteuid(), 0):
        raise FailedPrecondition(
            f"folder {folder}: belongs to user {about.st_uid}, who could put another socket in our place",
            hint=f"chown {os.geteuid()} {folder}",
        )
    if about.st_mode & 0o002 and not about.st_mode & stat.S_ISVTX:
        raise FailedPrecondition(
            f"folder {folder}: others may write to it, so they could put a socket of their own in our place",
            hint=f"chmod o-w {folder}",
        )
