"""Private keys in this process: making, signing, and the key manager that keeps them in memory only."""

import hashlib
import re
import threading
from collections.abc import Callable
from typing import Final, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from control_plane.authority.ports import KeyPurpose, KeyType
from control_plane.core.errors import Bug, InvalidInput, NotFound, shown
from control_plane.core.jwk import spki_of
from control_plane.core.signature import RSA_PSS
from control_plane.core.tbs import signature_hash

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

_DIGESTS: Final = {"sha256": hashlib.sha256, "sha384": hashlib.sha384, "sha512": hashlib.sha512}
_KEY_ID: Final = re.compile(r"(x509|jwt|policy|log|bundle|cache)-[0-9a-f]{32}")


class LocalSigner:
    """Signs with a key held here."""

    __slots__ = ("_key_id", "_private_key", "_public_key", "_purpose", "_sign")

    def __init__(self, key_id: str, private_key: PrivateKey) -> None:
        self._key_id = key_id
        self._purpose = purpose_of(key_id)
        self._private_key = private_key
        self._public_key = spki_of(private_key.public_key())
        self._sign = _signing(private_key, self._purpose)

    def __repr__(self) -> str:
        return f"LocalSigner({self._key_id})"

    @property
    def key_id(self) -> str:
        """The name by which the key manager knows the key."""
        return self._key_id

    @property
    def purpose(self) -> KeyPurpose:
        """What the key is for."""
        return self._purpose

    @property
    def public_key(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        return self._public_key

    @property
    def private_key(self) -> PrivateKey:
        """The key itself, for storing it and for TLS; nobody else has a reason to ask."""
        return self._private_key

    def sign(self, data: bytes) -> bytes:
        """See `ports.Signer`."""
        return self._sign(data)


class MemoryKeyManager:
    """Keys that end with the process: for tests, and for servers that prefer a new root to a key on disk."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._signers: dict[str, LocalSigner] = {}
        self._lock = threading.Lock()

    def create(self, purpose: KeyPurpose, key_type: KeyType = KeyType.EC_P256) -> LocalSigner:
        """See `ports.KeyManager`."""
        signer = LocalSigner(new_key_id(purpose, self._random_bytes), generate(key_type))
        with self._lock:
            if signer.key_id in self._signers:
                raise Bug(f"key {signer.key_id}: drawn twice, so the source of randomness is broken")
            self._signers[signer.key_id] = signer
        return signer

    def get(self, key_id: str) -> LocalSigner:
        """See `ports.KeyManager`."""
        purpose_of(key_id)
        with self._lock:
            signer = self._signers.get(key_id)
        if signer is None:
            raise NotFound(f"key {key_id}: isn't in memory")
        return signer

    def key_ids(self, purpose: KeyPurpose | None = None) -> list[str]:
        """See `ports.KeyManager`."""
        with self._lock:
            return sorted(k for k, s in self._signers.items() if purpose in (None, s.purpose))

    def delete(self, key_id: str) -> None:
        """See `ports.KeyManager`."""
        purpose_of(key_id)
        with self._lock:
            self._signers.pop(key_id, None)

    def sweep(self, now: int) -> None:
        """Nothing here outlives a crash."""


def _signing(key: PrivateKey, purpose: KeyPurpose) -> Callable[[bytes], bytes]:
    """What signs with the key: found out once, for it is asked with each certificate."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        kind = signature_hash(key.public_key()) or hashes.SHA256()
        digest, ecdsa = _DIGESTS[kind.name], ec.ECDSA(Prehashed(kind))
        return lambda data: key.sign(digest(data).digest(), ecdsa)  # 1 µs less than hashing by the library
    if isinstance(key, rsa.RSAPrivateKey):
        scheme = padding.PKCS1v15() if purpose.is_for_strangers else RSA_PSS
        return lambda data: key.sign(data, scheme, hashes.SHA256())
    return key.sign


def new_key_id(purpose: KeyPurpose, random_bytes: Callable[[int], bytes]) -> str:
    """A fresh name, which tells the purpose."""
    return f"{purpose}-{random_bytes(16).hex()}"


def purpose_of(key_id: str) -> KeyPurpose:
    """The purpose that a name tells. Raises InvalidInput for what isn't a name: it may become a path."""
    match = _KEY_ID.fullmatch(key_id)
    if match is None:
        raise InvalidInput(f"key {shown(key_id)}: not a key's name")
    return KeyPurpose(match[1])


def generate(key_type: KeyType) -> PrivateKey:
    """Makes a key. RSA takes up to a second."""
    if key_type is KeyType.EC_P256:
        return ec.generate_private_key(ec.SECP256R1())
    if key_type is KeyType.EC_P384:
        return ec.generate_private_key(ec.SECP384R1())
    if key_type is KeyType.ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    bits = 4096 if key_type is KeyType.RSA_4096 else 2048
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)
