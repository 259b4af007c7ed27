"""Private keys in a directory, one file a key: mode 0600, never half written, never overwritten.

A file holds PKCS #8, as PEM, or, under a passphrase, encrypted by AES-256-GCM with a key that scrypt derives:

    b"gatehouse key 1\\n" · salt (16) · nonce (12) · ciphertext and tag

The key's name is authenticated with it, so files can't be exchanged for one another. The passphrase protects
a stolen disk or backup; it doesn't protect against who can read this process's memory.

A new key is written to a file of another name, flushed, and renamed; a crash leaves either nothing, or a
whole key, or a `.new` file that the next start of the key manager sweeps when it is an hour old.
"""

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.exceptions import InternalError, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from control_plane.authority.keys import LocalSigner, PrivateKey, generate, new_key_id, purpose_of
from control_plane.authority.ports import KeyPurpose, KeyType
from control_plane.core.errors import (
    Corrupt,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from control_plane.core.secret import Secret
from control_plane.runtime.files import content_of

MAX_KEY_FILE_BYTES: Final = 64 << 10
SCRYPT_COST: Final = 1 << 15  # 32 MiB and about a tenth of a second, once a process
SWEEP_AFTER_SECONDS: Final = 3600

_MAGIC: Final = b"gatehouse key 1\n"
_SUFFIX: Final = ".key"
_NEW_SUFFIX: Final = ".new"


class DiskKeyManager:
    """Keys in `directory`, which is made with mode 0700. Several processes may use it at once."""

    def __init__(
        self, directory: Path, passphrase: Secret[str] | None, *, random_bytes: Callable[[int], bytes]
    ) -> None:
        self._directory = directory
        self._passphrase = passphrase
        self._random_bytes = random_bytes
        self._signers: dict[str, LocalSigner] = {}
        self._wrapping_keys: dict[bytes, AESGCM] = {}
        self._lock = threading.Lock()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _storage_error(f"key directory {directory}: can't be made", error) from error

    def create(self, purpose: KeyPurpose, key_type: KeyType = KeyType.EC_P256) -> LocalSigner:
        """See `ports.KeyManager`."""
        signer = LocalSigner(new_key_id(purpose, self._random_bytes), generate(key_type))
        content = signer.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        if self._passphrase is not None:
            content = self._encrypted(signer.key_id, content)
        _write_new(self._path(signer.key_id), content)
        with self._lock:
            self._signers[signer.key_id] = signer
        return signer

    def get(self, key_id: str) -> LocalSigner:
        """See `ports.KeyManager`."""
        purpose_of(key_id)
        with self._lock:
            signer = self._signers.get(key_id)
        if signer is None:
            path = self._path(key_id)
            signer = LocalSigner(key_id, self._parsed(path, key_id, _read(path)))
            with self._lock:
                self._signers[key_id] = signer
        return signer

    def key_ids(self, purpose: KeyPurpose | None = None) -> list[str]:
        """See `ports.KeyManager`."""
        names = []
        for path in self._files(_SUFFIX):
            try:
                found = purpose_of(path.name.removesuffix(_SUFFIX))
            except InvalidInput:
                continue  # not one of ours: somebody's note, an editor's copy
            if purpose in (None, found):
                names.append(path.name.removesuffix(_SUFFIX))
        return sorted(names)

    def delete(self, key_id: str) -> None:
        """See `ports.KeyManager`."""
        purpose_of(key_id)
        with self._lock:
            self._signers.pop(key_id, None)
        path = self._path(key_id)
        try:
            path.unlink(missing_ok=True)
            _flush_directory(self._directory)
        except OSError as error:
            raise _storage_error(f"key file {path}: can't be deleted", error) from error

    def sweep(self, now: int) -> None:
        """Removes what a crash left half written, once it is old enough not to be in the making."""
        for path in self._files(_NEW_SUFFIX):
            try:
                if path.stat().st_mtime < now - SWEEP_AFTER_SECONDS:
                    path.unlink(missing_ok=True)
            except FileNotFoundError:
                continue  # another process swept it

    def _path(self, key_id: str) -> Path:
        return self._directory / f"{key_id}{_SUFFIX}"

    def _files(self, suffix: str) -> list[Path]:
        try:
            return [path for path in self._directory.iterdir() if path.name.endswith(suffix)]
        except OSError as error:
            raise _storage_error(f"key directory {self._directory}: can't be listed", error) from error

    def _encrypted(self, key_id: str, content: bytes) -> bytes:
        with self._lock:
            salt = next(iter(self._wrapping_keys), None) or self._random_bytes(16)
        nonce = self._random_bytes(12)
        ciphertext = self._wrapping_key(salt).encrypt(nonce, content, key_id.encode("ascii"))
        return _MAGIC + salt + nonce + ciphertext

    def _parsed(self, path: Path, key_id: str, content: bytes) -> PrivateKey:
        if content.startswith(_MAGIC):
            content = self._decrypted(path, key_id, content.removeprefix(_MAGIC))
        elif self._passphrase is not None:
            raise FailedPrecondition(
                f"key file {path}: isn't encrypted, but a passphrase is set",
                hint="start without the passphrase, or rotate the authorities under it",
            )
        return parse_key(content, f"key file {path}")

    def _decrypted(self, path: Path, key_id: str, sealed: bytes) -> bytes:
        if self._passphrase is None:
            raise FailedPrecondition(
                f"key file {path}: is encrypted, but no passphrase is set",
                hint="give authority.key_passphrase, as GATEHOUSE_AUTHORITY_KEY_PASSPHRASE",
            )
        salt, nonce, ciphertext = sealed[:16], sealed[16:28], sealed[28:]
        try:
            return self._wrapping_key(salt).decrypt(nonce, ciphertext, key_id.encode("ascii"))
        except (InvalidTag, ValueError) as error:
            raise FailedPrecondition(
                f"key file {path}: can't be decrypted",
                hint="the passphrase is wrong, or the file was changed",
            ) from error

    def _wrapping_key(self, salt: bytes) -> AESGCM:
        if self._passphrase is None:
            raise FailedPrecondition("key files: no passphrase is set")
        with self._lock:
            if salt not in self._wrapping_keys:
                scrypt = Scrypt(salt=salt, length=32, n=SCRYPT_COST, r=8, p=1)
                derived = scrypt.derive(self._passphrase.reveal().encode("utf-8"))
                self._wrapping_keys[salt] = AESGCM(derived)
            return self._wrapping_keys[salt]


def parse_key(pem: bytes, what: str) -> PrivateKey:
    """A key of a kind that signs here. Raises Corrupt, which names `what`."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        # The last is OpenSSL's for a key of the wrong length that is well-formed else.
        raise Corrupt(f"{what}: isn't a PKCS #8 private key", hint=_RESTORE) from error
    if not isinstance(key, _PRIVATE_KEYS):
        raise Corrupt(f"{what}: holds a key of type {type(key).__name__}", hint=_RESTORE)
    return key


_PRIVATE_KEYS = (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey)
_RESTORE = "restore it from a backup"


def _write_new(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(_NEW_SUFFIX)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # The name is 128 random bits, so nothing is replaced here.
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _flush_directory(path.parent)
    except OSError as error:
        raise _storage_error(f"key file {path}: can't be written", error) from error


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode) or mode & 0o077:
                raise FailedPrecondition(
                    f"key file {path}: has mode {stat.filemode(mode)}, others could read it",
                    hint=f"chmod 600 {path}, and ask who read it meanwhile",
                )
            content = content_of(file, path, MAX_KEY_FILE_BYTES)
    except FileNotFoundError as error:
        raise NotFound(f"key file {path}: doesn't exist", hint=_RESTORE) from error
    except OSError as error:
        raise _storage_error(f"key file {path}: can't be read", error) from error
    except InvalidInput as error:
        raise Corrupt(f"key file: {error.message}", hint=_RESTORE) from error
    return content


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _storage_error(message: str, error: OSError) -> ResourceExhausted | Unavailable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted(f"{message}: {error.strerror}", hint="free space on that file system")
    return Unavailable(f"{message}: {error.strerror}")
