"""The agent's memory across restarts: three encrypted files, so that it serves while the server is away.

`agent.cache` holds the agent's own key and SVID, what it attested with, and the bundles: small, and written
before a new certificate is first used, since from then on the server refuses the old one.
`agent-workloads.cache` holds entries and SVIDs with their keys: larger, written soon after changes; losing
the last seconds of it costs signatures, not identity. `agent-policy.cache` holds the signed policy in force,
the keys that it is verified with, and who is quarantined.

All are AES-256-GCM under the key of `cache_key` (which says what that protects against), with the file's
name and format as associated data, so that none can be passed off as another. They are replaced
atomically: a crash leaves the old file or the new one, and perhaps a `.new` file that the next write
overwrites. A file that can't be read is set aside under another name, never deleted: somebody may want it.

Blocking: callers use a worker thread for `save`.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.cache_key import CacheKey
from control_plane.core.errors import Corrupt, FailedPrecondition, InvalidInput
from control_plane.runtime.files import content_of

MAGIC: Final = b"gatehouse-cache-1\n"
NONCE_BYTES: Final = 12
MAX_CACHE_BYTES: Final = 512 << 20

AGENT_FILE: Final = "agent.cache"
WORKLOADS_FILE: Final = "agent-workloads.cache"
POLICY_FILE: Final = "agent-policy.cache"


@dataclass(frozen=True, slots=True)
class SetAside:
    """A cache file that couldn't be used: why, and where it lies now."""

    path: Path
    reason: str


class CacheFile:
    """One encrypted file. `random_bytes` gives the nonces: 96 random bits each, for far fewer than 2**32
    writes."""

    def __init__(self, path: Path, key: CacheKey, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self.path = path
        self._cipher = AESGCM(key.key.reveal())
        self._random_bytes = random_bytes

    def save(self, content: bytes) -> None:
        """Replaces the content; on return it is on the disk. Raises FailedPrecondition when it can't be
        written (disk full, read-only): the old content is still there then."""
        nonce = self._random_bytes(NONCE_BYTES)
        sealed = MAGIC + nonce + self._cipher.encrypt(nonce, content, self._associated())
        new = self.path.with_name(self.path.name + ".new")
        try:
            descriptor = os.open(
                new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
            with os.fdopen(descriptor, "wb") as file:
                file.write(sealed)
                file.flush()
                os.fsync(descriptor)
            # Here a crash leaves the old file in force; after the rename the new one; never half of one.
            new.replace(self.path)
            _sync_directory(self.path.parent)
        except OSError as error:
            raise FailedPrecondition(
                f"writing the cache {self.path}: {error.strerror or error}",
                hint="workloads are still served from memory; free the disk or correct the permissions",
            ) from error

    def load(self) -> bytes | None:
        """The content, or None if there is no file. Raises Corrupt if it can't be read or isn't ours."""
        try:
            # Not blocking: the start would wait at a pipe for somebody who writes.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise Corrupt(f"reading the cache {self.path}: not a regular file")
            with os.fdopen(descriptor, "rb") as file:
                sealed = content_of(file, self.path, MAX_CACHE_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Corrupt(f"reading the cache {self.path}: {error.strerror or error}") from error
        except InvalidInput as error:
            raise Corrupt(f"the cache can't be used: {error.message}") from error
        if not sealed.startswith(MAGIC):
            raise Corrupt(f"reading the cache {self.path}: it doesn't begin as a cache of this version does")
        nonce = sealed[len(MAGIC) : len(MAGIC) + NONCE_BYTES]
        try:
            return self._cipher.decrypt(nonce, sealed[len(MAGIC) + NONCE_BYTES :], self._associated())
        except (InvalidTag, ValueError) as error:
            raise Corrupt(
                f"reading the cache {self.path}: it was changed, or encrypted with another key",
                hint="a key that the agent makes itself lives in memory and is gone after a reboot",
            ) from error

    def set_aside(self, reason: str, stamp: int) -> SetAside:
        """Moves an unusable file out of the way, to `NAME.unreadable-STAMP`. Raises FailedPrecondition."""
        target = self.path.with_name(f"{self.path.name}.unreadable-{stamp}")
        try:
            self.path.replace(target)
            _sync_directory(self.path.parent)
        except OSError as error:
            raise FailedPrecondition(
                f"setting the unreadable cache {self.path} aside: {error.strerror or error}",
                hint="move it away by hand",
            ) from error
        return SetAside(target, reason)

    def delete(self) -> None:
        """Removes the file; for an agent that was banned. A missing file is no error."""
        self.path.unlink(missing_ok=True)

    def _associated(self) -> bytes:
        return MAGIC + self.path.name.encode()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
