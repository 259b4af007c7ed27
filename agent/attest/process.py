"""One process, held so firmly that another one can't slip into its number: the door to /proc and pidfds.

A process ID alone proves nothing: the process may end, and the kernel may give its number to another
between two reads. So the anchor is taken first, then /proc is read, then the anchor is asked whether the
process was alive all the while (the order matters). The anchor is a pidfd where the kernel gives one
(SO_PEERPIDFD from Linux 6.5, pidfd_open before that), else a handle on /proc/PID plus the start time.

What this can't see: a process that connects and then executes another program keeps its number, its pidfd
and its start time, and a child that it forked before keeps the socket. SO_PEERCRED has that limit on every
system; the periodic second look of `sessions` narrows it and doesn't close it.
"""

import contextlib
import errno
import os
import re
import select
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from control_plane.core.errors import NotFound, Unavailable, shown

MAX_STATUS_BYTES: Final = 1 << 20  # /proc/PID/status grows with the number of groups, up to 65,536
_DELETED: Final = " (deleted)"
_ID: Final = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Credentials:
    """The effective user and group of a process, and its supplementary groups."""

    uid: int
    gid: int
    groups: tuple[int, ...]

    @classmethod
    def parse(cls, status: str) -> "Credentials":
        """From the text of /proc/PID/status (proc(5)). Raises ValueError for another text."""
        fields: dict[str, list[str]] = {}
        # Only where a line feed is: the name, which the process chose, may hold what else ends lines.
        for line in status.split("\n"):
            name, _, value = line.partition(":")
            if name in ("Uid", "Gid", "Groups"):
                fields[name] = value.split()
        try:
            # Uid and Gid hold real, effective, saved and file-system values, in that order.
            uid, gid = (_number(fields[name][1]) for name in ("Uid", "Gid"))
            return cls(uid, gid, tuple(sorted({_number(group) for group in fields["Groups"]})))
        except LookupError as error:
            raise ValueError("Uid, Gid and Groups aren't all there") from error


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells that a file is still the same one, unchanged: the key of the digest cache."""

    device: int
    inode: int
    modified_ns: int
    changed_ns: int
    size: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileIdentity":
        """From fstat."""
        return cls(status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


@dataclass(frozen=True, slots=True)
class Executable:
    """The program that a process runs. `path` is as seen in the process's own file system; `deleted` means
    that the file has gone from there, so that the path names something else or nothing."""

    path: str
    deleted: bool
    file: FileIdentity


class ProcessEnded(NotFound):
    """The process is no more; nothing read about it may be used."""


class AnchoredProcess:
    """A process and the proof that it is still the same one. Blocking calls, all of them short.

    Use `reading()` for every look at it. `close()` gives the descriptors back.
    """

    __slots__ = ("_directory", "_owns_pidfd", "_pidfd", "_start_time", "pid")

    def __init__(self, pid: int, pidfd: int | None, *, owns_pidfd: bool = True) -> None:
        """With `owns_pidfd` the descriptor is closed here; else somebody else keeps it open longer than this
        object is used. Raises ProcessEnded if there is no such process, Unavailable without /proc."""
        self.pid = pid
        self._pidfd = pidfd
        self._owns_pidfd = owns_pidfd
        self._directory: int | None = None
        self._start_time = ""
        try:
            if pidfd is None:
                self._directory = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                self._start_time = _start_time(self._directory)
        except (FileNotFoundError, ProcessLookupError) as error:
            self.close()
            raise ProcessEnded(f"attesting process {pid}: it has ended") from error
        except OSError as error:
            self.close()
            raise Unavailable(f"attesting process {pid}: /proc can't be read: {error.strerror}") from error

    @classmethod
    def open(cls, pid: int) -> "AnchoredProcess":
        """Anchors the process that has this number now. Raises ProcessEnded if there is none."""
        try:
            pidfd: int | None = os.pidfd_open(pid)
        except ProcessLookupError as error:
            raise ProcessEnded(f"attesting process {pid}: there is no such process") from error
        except OSError:
            pidfd = None  # a kernel before 5.3, or a filter that forbids the call
        return cls(pid, pidfd)

    @property
    def pidfd(self) -> int | None:
        """Becomes readable when the process ends; None where the kernel gave none."""
        return self._pidfd

    def alive(self) -> bool:
        """Whether the anchored process, and no other, still runs."""
        if self._pidfd is not None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            return not poll.poll(0)
        if self._directory is None:
            return False
        try:
            return _start_time(self._directory) == self._start_time
        except OSError:
            return False

    @contextlib.contextmanager
    def reading(self) -> Iterator[int]:
        """A handle on /proc/PID for the block. Raises ProcessEnded, at the latest on leaving the block, if
        the process ended: then nothing that was read counts."""
        if self._directory is not None:
            directory, own = self._directory, False
        else:
            try:
                directory = os.open(f"/proc/{self.pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise ProcessEnded(f"attesting process {self.pid}: it has ended") from error
            own = True
        try:
            yield directory
        except (FileNotFoundError, ProcessLookupError) as error:
            if self.alive():
                raise
            raise ProcessEnded(f"attesting process {self.pid}: it ended meanwhile") from error
        finally:
            if own:
                os.close(directory)
        if not self.alive():
            raise ProcessEnded(f"attesting process {self.pid}: it ended meanwhile")

    def close(self) -> None:
        """Gives the descriptors back; a second call does nothing."""
        if self._pidfd is not None and self._owns_pidfd:
            os.close(self._pidfd)
        if self._directory is not None:
            os.close(self._directory)
        self._pidfd = self._directory = None


def read_credentials(directory: int) -> Credentials:
    """Effective uid and gid and the groups, from /proc/PID/status. Raises OSError, ValueError."""
    return Credentials.parse(_read(directory, "status"))


@contextlib.contextmanager
def open_executable(directory: int) -> Iterator[tuple[int, Executable]]:
    """The running program, opened through /proc/PID/exe: what runs, whatever its path names by now. Raises
    OSError: other users' processes need CAP_SYS_PTRACE, kernel threads have none."""
    descriptor = os.open("exe", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
    try:
        path = os.readlink("exe", dir_fd=directory)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("the executable is not a regular file")
        # The kernel appends " (deleted)"; a file may really be named so, then it still has a link.
        deleted = path.endswith(_DELETED) and status.st_nlink == 0
        name = path.removesuffix(_DELETED) if deleted else path
        yield descriptor, Executable(name, deleted, FileIdentity.of(status))
    finally:
        os.close(descriptor)


def parse_start_time(stat_text: str) -> str:
    """Field 22 of /proc/PID/stat (proc(5)), in ticks. Raises ValueError for another text."""
    # The name before it is in parentheses and may hold anything.
    fields = stat_text.rpartition(")")[2].split()
    if len(fields) < 20:
        raise ValueError(f"{len(fields)} fields after the name")
    return fields[19]


def _start_time(directory: int) -> str:
    try:
        return parse_start_time(_read(directory, "stat"))
    except ValueError as error:
        raise OSError(errno.EIO, f"its stat can't be read: {error}") from error


def _number(text: str) -> int:
    """An ID of a user or group: 32 bits, without sign. Raises ValueError."""
    if not _ID.fullmatch(text):
        raise ValueError(f"{shown(text)} is no ID")
    return int(text)


def _read(directory: int, name: str) -> str:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(MAX_STATUS_BYTES).decode("utf-8", "surrogateescape")
