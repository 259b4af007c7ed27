"""SHA-256 of executables, each file once: hashing 20 MB costs 15 ms, a connection is worth 50 µs.

The cache key is everything that changes when a file's content changes (device, inode, both times, size). A
file that changes while it is hashed gives no digest. Blocking: called in a worker thread, where hashlib
lets other threads run.
"""

import hashlib
import os
import threading
from collections import OrderedDict
from typing import Final

from agent.attest.process import FileIdentity

DEFAULT_SIZE_LIMIT_BYTES: Final = 512 << 20
MAX_CACHED: Final = 4096
_CHUNK: Final = 1 << 20


class ExecutableTooLarge(Exception):
    """The file is above the size limit; its digest isn't computed."""


class ExecutableChanged(Exception):
    """The file was written to while it was read."""


class DigestCache:
    """Digests by file identity; may be used from several threads."""

    def __init__(self, size_limit_bytes: int = DEFAULT_SIZE_LIMIT_BYTES) -> None:
        self.size_limit_bytes = size_limit_bytes
        self._digests: OrderedDict[FileIdentity, str] = OrderedDict()
        self._lock = threading.Lock()

    def sha256(self, descriptor: int, file: FileIdentity) -> str:
        """Hex digest of the open file. Raises ExecutableTooLarge, ExecutableChanged, OSError."""
        with self._lock:
            if file in self._digests:
                self._digests.move_to_end(file)
                return self._digests[file]
        if file.size > self.size_limit_bytes:
            raise ExecutableTooLarge(f"{file.size} bytes, {self.size_limit_bytes} allowed")
        digest = hashlib.sha256()
        offset = 0
        while chunk := os.pread(descriptor, _CHUNK, offset):
            digest.update(chunk)
            offset += len(chunk)
            if offset > file.size:
                break
        if offset != file.size or FileIdentity.of(os.fstat(descriptor)) != file:
            raise ExecutableChanged("the file changed while it was read")
        with self._lock:
            self._digests[file] = digest.hexdigest()
            while len(self._digests) > MAX_CACHED:
                self._digests.popitem(last=False)
            return self._digests[file]
