"""Keys in Vault's transit engine: made there, used there, never seen here.

Each signature is an exchange over the network, so such signers belong in threads, and what they sign stops
while Vault is away: the key of a standby CA must never be here. A key of ours never changes: the version
that it was made with is the one that signs, also when somebody rotates the key in Vault; replacing a key is
making another. Keys are told from other people's in the same mount by the form of their names.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from control_plane.authority.keys import new_key_id, purpose_of
from control_plane.authority.ports import KeyPurpose, KeyType
from control_plane.clients.vault.answers import Answer, text_of
from control_plane.clients.vault.door import VaultDoor
from control_plane.core.certificate import UNREADABLE
from control_plane.core.errors import (
    Bug,
    Corrupt,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    PeerMisbehaved,
    Unimplemented,
    shown,
)
from control_plane.core.jwk import PublicKey, load_public_key, spki_of
from control_plane.core.signature import RSA_PSS

# What Vault takes in one request is bounded; only Ed25519 needs the whole text there.
MAX_UNHASHED_BYTES: Final = 256 << 10

_VERSION: Final = 1
_TYPES: Final = {
    KeyType.EC_P256: "ecdsa-p256",
    KeyType.EC_P384: "ecdsa-p384",
    KeyType.RSA_2048: "rsa-2048",
    KeyType.RSA_4096: "rsa-4096",
    KeyType.ED25519: "ed25519",
}
_NAME: Final = re.compile(r"(?:x509|jwt|policy|log|bundle|cache)-[0-9a-f]{32}")


class TransitSigner:
    """One key; implements `authority.ports.Signer`, whose calls block for an exchange here."""

    __slots__ = ("_door", "_key_id", "_mount", "_public_key", "_verifier")

    def __init__(self, door: VaultDoor, mount: str, key_id: str, public_key: bytes) -> None:
        self._door = door
        self._mount = mount
        self._key_id = key_id
        self._public_key = public_key
        self._verifier = load_public_key(public_key)

    def __repr__(self) -> str:
        return f"TransitSigner({self._key_id})"

    @property
    def key_id(self) -> str:
        """The name by which the key manager knows the key; in Vault it has the same."""
        return self._key_id

    @property
    def purpose(self) -> KeyPurpose:
        """What the key is for."""
        return purpose_of(self._key_id)

    @property
    def public_key(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        return self._public_key

    def sign(self, data: bytes) -> bytes:
        """See `ports.Signer`. Raises Unavailable, PermissionDenied, FailedPrecondition, and PeerMisbehaved if
        what came isn't a signature of this key over this data."""
        what = f"signing with the key {self._key_id} in {self._mount}"
        path, body = f"{self._mount}/sign/{self._key_id}", _asked(self._verifier, self.purpose, data)
        answer = self._door.call("post", path, body, what=what)
        signature = _signature(text_of(answer.section("data", what), "signature", what), what)
        if not _verifies(self._verifier, self.purpose, signature, data):
            raise PeerMisbehaved(f"{what}: what Vault gave isn't a signature of that key")
        return signature


class TransitKeyManager:
    """Implements `authority.ports.KeyManager` over one transit mount; the calls block for exchanges."""

    def __init__(self, door: VaultDoor, mount: str, *, random_bytes: Callable[[int], bytes]) -> None:
        self._door = door
        self._mount = mount
        self._random_bytes = random_bytes

    def create(self, purpose: KeyPurpose, key_type: KeyType = KeyType.EC_P256) -> TransitSigner:
        """See `ports.KeyManager`. Writing a key that is there changes nothing in Vault, so the name is looked
        up first: a broken source of randomness would give one key two purposes."""
        key_id = new_key_id(purpose, self._random_bytes)
        what = f"making the key {key_id} in {self._mount}"
        if self._find(key_id) is not None:
            raise Bug(f"{what}: it is there already; the source of randomness repeats itself")
        body = {"type": _TYPES[key_type], "exportable": False, "allow_plaintext_backup": False}
        try:
            self._door.call("post", self._path(key_id), body, what=what)
        except NotFound as error:
            raise self._no_mount(error) from error
        return self.get(key_id)

    def get(self, key_id: str) -> TransitSigner:
        """See `ports.KeyManager`."""
        purpose_of(key_id)
        answer = self._find(key_id)
        if answer is None:
            raise NotFound(f"key {key_id}: not in the mount {self._mount} of Vault")
        return TransitSigner(self._door, self._mount, key_id, _public_key(answer, key_id))

    def key_ids(self, purpose: KeyPurpose | None = None) -> list[str]:
        """See `ports.KeyManager`. Names that aren't ours are left out."""
        what = f"listing the keys in {self._mount}"
        try:
            answer = self._door.call("list", f"{self._mount}/keys", what=what)
        except NotFound:
            return []  # so Vault calls an empty list
        names = answer.section("data", what).get("keys")
        if not isinstance(names, list):
            raise PeerMisbehaved(f"{what}: Vault's answer has no list of keys")
        ours = [name for name in names if isinstance(name, str) and _NAME.fullmatch(name)]
        return sorted(name for name in ours if purpose is None or purpose_of(name) is purpose)

    def delete(self, key_id: str) -> None:
        """See `ports.KeyManager`. Vault wants to be told first that the key may be deleted."""
        purpose_of(key_id)
        if self._find(key_id) is None:
            return
        what = f"deleting the key {key_id} in {self._mount}"
        path = self._path(key_id)
        self._door.call("post", f"{path}/config", {"deletion_allowed": True}, what=what)
        try:
            self._door.call("delete", path, what=what)
        except FailedPrecondition:
            if self._find(key_id) is not None:
                raise

    def sweep(self, now: int) -> None:
        """Nothing is left half made in Vault."""

    def _find(self, key_id: str) -> Answer | None:
        try:
            return self._door.call("get", self._path(key_id), what=f"reading the key {key_id}")
        except NotFound as error:
            if "no handler for route" in error.message:
                raise self._no_mount(error) from error
            return None

    def _path(self, key_id: str) -> str:
        return f"{self._mount}/keys/{key_id}"

    def _no_mount(self, error: NotFound) -> FailedPrecondition:
        return FailedPrecondition(
            error.message, hint=f"mount it: vault secrets enable -path={self._mount} transit"
        )


def _public_key(answer: Answer, key_id: str) -> bytes:
    """SubjectPublicKeyInfo of the version that signs. Raises Corrupt or Unimplemented."""
    data = answer.section("data", f"reading the key {key_id}")
    kind, versions = data.get("type"), data.get("keys")
    if kind not in _TYPES.values():
        raise Unimplemented(f"key {key_id} in Vault: is of type {shown(kind)}, which isn't one for signing")
    version = versions.get(str(_VERSION)) if isinstance(versions, dict) else None
    text = version.get("public_key") if isinstance(version, dict) else None
    if not isinstance(text, str):
        raise Corrupt(
            f"key {key_id} in Vault: has no version {_VERSION} any more, which is the one that we use"
        )
    try:
        if kind == "ed25519":
            raw = base64.b64decode(text, validate=True)
            return spki_of(ed25519.Ed25519PublicKey.from_public_bytes(raw))
        key = load_pem_public_key(text.encode("ascii"))
    except UNREADABLE as error:
        raise Corrupt(f"key {key_id} in Vault: its public key can't be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise Corrupt(f"key {key_id} in Vault: its public key isn't of the type {kind}")
    try:
        return spki_of(key)
    except InvalidInput as error:
        raise Corrupt(f"key {key_id} in Vault: {error.message}") from error


def _asked(key: PublicKey, purpose: KeyPurpose, data: bytes) -> Mapping[str, object]:
    """The request for a signature. Hashes are made here, so that long texts don't travel."""
    body: dict[str, object] = {"key_version": _VERSION}
    if isinstance(key, ed25519.Ed25519PublicKey):
        if len(data) > MAX_UNHASHED_BYTES:
            raise InvalidInput(
                f"signing {len(data)} bytes with Ed25519 in Vault: at most {MAX_UNHASHED_BYTES} travel there"
            )
        return body | {"input": base64.b64encode(data).decode()}
    digest = hashlib.sha384 if _is_p384(key) else hashlib.sha256
    body |= {
        "input": base64.b64encode(digest(data).digest()).decode(),
        "prehashed": True,
        "hash_algorithm": "sha2-384" if _is_p384(key) else "sha2-256",
    }
    if isinstance(key, rsa.RSAPublicKey):
        # Vault's own choice is the longest salt that fits, which fewer verifiers take.
        pss = {"signature_algorithm": "pss", "salt_length": "hash"}
        return body | ({"signature_algorithm": "pkcs1v15"} if purpose.is_for_strangers else pss)
    return body | {"marshaling_algorithm": "asn1"}


def _signature(text: str, what: str) -> bytes:
    """The bytes of `vault:v1:BASE64`. Raises PeerMisbehaved for another form or version."""
    prefix = f"vault:v{_VERSION}:"
    if not text.startswith(prefix):
        raise PeerMisbehaved(f"{what}: the signature begins with {shown(text[:12])}, expected {prefix}")
    try:
        return base64.b64decode(text.removeprefix(prefix), validate=True)
    except ValueError as error:  # binascii.Error is one; what isn't ASCII is another
        raise PeerMisbehaved(f"{what}: the signature isn't base64") from error


def _verifies(key: PublicKey, purpose: KeyPurpose, signature: bytes, data: bytes) -> bool:
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(hashes.SHA384() if _is_p384(key) else hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            scheme = padding.PKCS1v15() if purpose.is_for_strangers else RSA_PSS
            key.verify(signature, data, scheme, hashes.SHA256())
        else:
            key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def _is_p384(key: PublicKey) -> bool:
    return isinstance(key, ec.EllipticCurvePublicKey) and key.key_size == 384
