"""The end of an issuer's journal, where groups are written: each is durable, or as if it had never been.

Blocking, and for one thread at a time; who gathers the groups and waits for them is `journal`. A group that
can't be written whole (disk full) is cut off again and refused; no sequence number is lost, and writing works
again when there is space. When even that fails, everything is refused until the journal is opened anew, which
sorts the file out (`journal_file`).

Groups are written over zeros that were flushed before: a flush then has the data to write and nothing about
the file, which costs the file system half as much and the disk one write instead of several.

One process a journal: a lock file sees to it.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from control_plane.core.errors import (
    FailedPrecondition,
    GatehouseError,
    ResourceExhausted,
    Unavailable,
)
from control_plane.identity.journal_file import (
    Damage,
    marker,
    read_segment,
    segment_path,
    segments,
)

SEGMENT_BYTES: Final = 64 << 20
ROOM_BYTES: Final = 1 << 18  # of zeros at a time: some 300 certificates
_ZEROS: Final = bytes(1 << 16)


class JournalWriter:
    """Writes groups of frames. `open` before use, `close` after."""

    def __init__(
        self, directory: Path, issuer_index: int, unix: Callable[[], int], *, segment_bytes: int
    ) -> None:
        self._directory = directory
        self._issuer = issuer_index
        self._unix = unix
        self._segment_bytes = segment_bytes
        self._lock_descriptor = -1
        self._descriptor = -1
        self._offset = 0  # everything before it is durable
        self._room_end = 0  # from the offset to here the file holds zeros
        self._broken: GatehouseError | None = None
        self.next_sequence = 1  # of the first record of the next group
        self.damage: list[Damage] = []
        self.dropped_bytes = 0  # of the torn tail that `open` found

    def open(self) -> None:
        """Locks, sorts out what a crash left, opens for writing.

        Raises FailedPrecondition if another process has this journal, Unavailable or ResourceExhausted if
        the disk doesn't let us. Damage in the last segment is told in `damage`; that file is left as it is,
        and a new segment begins.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock_path = self._directory / f"issuer-{self._issuer}.lock"
            self._lock_descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(self._lock_descriptor)
                self._lock_descriptor = -1
                raise FailedPrecondition(
                    f"ledger journal {lock_path}: another process writes it",
                    hint="two servers can't share a data directory",
                ) from error
            self._recover()
        except OSError as error:
            raise _storage_error(f"ledger journal {self._directory}: can't be opened", error) from error

    def write(self, frames: bytes, next_sequence: int) -> GatehouseError | None:
        """Makes a group durable with one flush; `next_sequence` comes after its last record.

        Gives why it couldn't be, ResourceExhausted or Unavailable: then none of it is in the journal.
        """
        if self._broken is not None:
            return self._broken
        try:
            if self._offset >= self._segment_bytes:
                self._open_segment(self.next_sequence)
            data = marker(self._offset, self.next_sequence, self._unix()) + frames
            if self._offset + len(data) > self._room_end:
                self._make_room(self._offset + len(data) + ROOM_BYTES)
            _write_at(self._descriptor, data, self._offset)
            os.fdatasync(self._descriptor)
        except OSError as error:
            return self._failed(error)
        # A crash before this line leaves whole records that nobody was told about; that is allowed.
        self._offset += len(data)
        self._room_end = max(self._room_end, self._offset)  # it lies behind where there was no space for room
        self.next_sequence = next_sequence
        return None

    def give_up(self, error: GatehouseError) -> GatehouseError:
        """Refuses everything from now on, with this error."""
        self._broken = error
        return error

    def trim(self) -> None:
        """Takes away the room that is left, as the last thing that is done to the file."""
        if self._broken is None:
            with contextlib.suppress(OSError):  # the next start takes the zeros away as well
                self._cut(self._offset)

    def close(self) -> None:
        """Releases file and lock. Idempotent."""
        for descriptor in (self._descriptor, self._lock_descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._lock_descriptor = -1

    def _recover(self) -> None:
        existing = segments(self._directory, self._issuer)
        if not existing:
            self._open_segment(1)
            return
        last = existing[-1]
        contents = read_segment(last)
        self.next_sequence = contents.next_sequence
        self.damage = contents.damage
        self.dropped_bytes = contents.total_bytes - contents.valid_bytes
        if contents.damage and contents.next_sequence != last.first_sequence:
            self._open_segment(contents.next_sequence)
            return
        self._descriptor = os.open(last.path, os.O_WRONLY | os.O_CLOEXEC)
        self._cut(contents.valid_bytes)
        self._offset = self._room_end = contents.valid_bytes

    def _open_segment(self, first_sequence: int) -> None:
        path = segment_path(self._directory, self._issuer, first_sequence)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)  # the name has to survive a power cut as well as the content
        finally:
            os.close(directory)
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                self._cut(self._offset)
            os.close(self._descriptor)
        self._descriptor, self._offset, self._room_end = descriptor, 0, 0

    def _make_room(self, end: int) -> None:
        """Fills the file with zeros to `end`. A crash leaves zeros at its end, which readers know for what
        they are. Where the disk hasn't the space, records are written without."""
        try:
            for start in range(self._room_end, end, len(_ZEROS)):
                _write_at(self._descriptor, _ZEROS[: end - start], start)
            os.fdatasync(self._descriptor)
        except OSError:
            self._cut(self._offset)
        else:
            self._room_end = end

    def _failed(self, error: OSError) -> GatehouseError:
        """Takes back what part of a group may have been written, or refuses to go on if that fails too."""
        try:
            self._cut(self._offset)
        except OSError as second:
            return self.give_up(
                Unavailable(
                    f"ledger journal {self._directory}: a write failed ({error.strerror}) and couldn't be "
                    f"taken back ({second.strerror})",
                    hint="nothing is issued until this process is started again; look at the disk",
                )
            )
        return _storage_error(f"ledger journal {self._directory}: can't be written", error)

    def _cut(self, length: int) -> None:
        os.ftruncate(self._descriptor, length)
        os.fsync(self._descriptor)
        self._room_end = length


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _storage_error(message: str, error: OSError) -> GatehouseError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted(
            f"{message}: {error.strerror}",
            hint="free space; nothing is issued that can't be recorded, and issuing goes on by itself",
        )
    return Unavailable(f"{message}: {error.strerror}")
