"""Where the key of the agent's cache file comes from, and what that is worth.

In this order:
1. `--cache-key-file`: a file that the operator provides (from a TPM-sealed volume, a secret mount, …);
2. `$CREDENTIALS_DIRECTORY/gatehouse-cache-key`: systemd's LoadCredentialEncrypted, which can bind it to the
   TPM and to this unit;
3. else a key that the agent makes itself, in a file of mode 0600 in memory: below `$XDG_RUNTIME_DIR`,
   /run/gatehouse or /dev/shm, whichever exists first and can be written.

What the encryption protects against: whoever gets the data directory without the machine's memory and
without the key file: a stolen disk or snapshot, a backup, a volume that is mounted elsewhere, a directory
copied or packed by mistake. It also detects change: the cache is authenticated.

What it does not protect against: root on the running machine, or anyone who can act as the agent's user
(both can read the key file, and the agent's memory besides). In case 3 the key is gone after a reboot, by
design: then the cache can't be read, and the agent attests anew, which a join token allows only once. Use
case 1 or 2 where an agent must come back from a reboot with the server away. An old cache put back
(roll-back) isn't noticed by the encryption; the server notices an old agent certificate by its serial.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control_plane.core.errors import FailedPrecondition, Unavailable
from control_plane.core.secret import Secret

CREDENTIAL_NAME: Final = "gatehouse-cache-key"
KEY_BYTES: Final = 32
MAX_KEY_FILE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class CacheKey:
    """A key of 256 bits, and where it came from, for the log."""

    key: Secret[bytes]
    source: str
    survives_reboot: bool


def locate_key(data_dir: Path, key_file: Path | None, environment: Mapping[str, str]) -> CacheKey:
    """Finds or makes the key. Raises FailedPrecondition for a provided key that is unfit, Unavailable if none
    could be found or made. Touches no file but the one of case 3."""
    if key_file is not None:
        return CacheKey(_provided(key_file, data_dir), str(key_file), survives_reboot=True)
    credentials = environment.get("CREDENTIALS_DIRECTORY", "")
    if credentials and (path := Path(credentials) / CREDENTIAL_NAME).exists():
        return CacheKey(
            _provided(path, data_dir), f"systemd credential {CREDENTIAL_NAME}", survives_reboot=True
        )
    return _volatile(data_dir, environment)


def _provided(path: Path, data_dir: Path) -> Secret[bytes]:
    if path.resolve().is_relative_to(data_dir.resolve()):
        raise FailedPrecondition(
            f"cache key {path}: lies in the data directory {data_dir}, beside what it is to protect",
            hint="keep the key on another volume",
        )
    content = _read(path)
    if len(content) < KEY_BYTES:
        raise FailedPrecondition(
            f"cache key {path}: {len(content)} bytes, at least {KEY_BYTES} are needed",
            hint=f"make one: head -c {KEY_BYTES} /dev/urandom > {path} && chmod 600 {path}",
        )
    # Any content of enough length is a key; the hash brings it to 256 bits.
    return Secret(hashlib.sha256(b"gatehouse agent cache key\0" + content).digest())


def _volatile(data_dir: Path, environment: Mapping[str, str]) -> CacheKey:
    # Several agents may share a machine; each finds its own key by its data directory.
    name = "agent-" + hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16] + ".key"
    refused = []
    for base in _volatile_directories(environment):
        directory = base / "gatehouse" if base.name != "gatehouse" else base
        path = directory / name
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            _check_private(directory)
            if not path.exists():
                _create(path)
            return CacheKey(Secret(_read(path)), str(path), survives_reboot=False)
        except (OSError, FailedPrecondition) as error:
            refused.append(f"{directory}: {error}")
    raise Unavailable(
        "cache key: no directory in memory can hold it (" + "; ".join(refused or ["none exists"]) + ")",
        hint="give one with --cache-key-file",
    )


def _volatile_directories(environment: Mapping[str, str]) -> list[Path]:
    candidates = [Path(environment.get("XDG_RUNTIME_DIR") or "/nonexistent")]
    if os.geteuid() == 0 or Path("/run/gatehouse").is_dir():
        candidates.append(Path("/run/gatehouse"))
    shared = Path("/dev/shm")  # noqa: S108 - world-writable, hence a directory of our own, checked
    if shared.is_dir():
        candidates.append(shared / f"gatehouse-{os.geteuid()}")
    return [path for path in candidates if path.is_dir() or path.parent.is_dir()]


def _create(path: Path) -> None:
    # Written under another name first: a crash in between leaves no short key behind.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        os.write(descriptor, os.urandom(KEY_BYTES))
    finally:
        os.close(descriptor)
    temporary.rename(path)


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise FailedPrecondition(f"cache key {path}: can't be opened: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FailedPrecondition(f"cache key {path}: is not a regular file")
        if status.st_uid not in (os.geteuid(), 0) or status.st_mode & 0o077:
            raise FailedPrecondition(
                f"cache key {path}: mode {stat.S_IMODE(status.st_mode):o}, owner {status.st_uid}; "
                "it must belong to the agent's user or root, and nobody else may read it",
                hint=f"chmod 600 {path}",
            )
        return file.read(MAX_KEY_FILE_BYTES)


def _check_private(directory: Path) -> None:
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise FailedPrecondition(f"{directory} belongs to somebody else or can be written by others")
