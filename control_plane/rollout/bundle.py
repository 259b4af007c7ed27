"""From a version and its assignment to the signed bytes that agents get. Pure.

Signed once, when the assignment is made; issuers only pass the bytes on. The time of the assignment is in
them, and nothing of the machine, so the same assignment always gives the same payload.
"""

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from control_plane.core.errors import ResourceExhausted
from control_plane.core.jwk import load_public_key
from control_plane.core.spiffe_id import TrustDomain
from control_plane.core.tbs import signature_hash
from control_plane.proto.gatehouse.node.v1.node_pb2 import PolicyBundle, PolicyFile
from control_plane.rollout.assignment import Assignment, SignedBundle
from control_plane.rollout.version import PolicySource

SIGNED_PREFIX: Final = b"gatehouse policy bundle v1\n"
MAX_PAYLOAD_BYTES: Final = 3 << 20
"""An agent gets it in one message of at most 4 MiB, beside entries and trust bundles."""


@dataclass(frozen=True, slots=True)
class PolicyKey:
    """The public half of a key that signs policies. `name` is how the key manager knows it."""

    name: str
    public_key: bytes = field(repr=False)  # SubjectPublicKeyInfo, DER
    created_at: int

    @property
    def key_id(self) -> str:
        """How agents know it: SHA-256 of the public key, hex."""
        return hashlib.sha256(self.public_key).hexdigest()


def payload_of(source: PolicySource, assignment: Assignment, trust_domain: TrustDomain) -> bytes:
    """The packed `PolicyBundle` without tests. Raises ResourceExhausted where it grows too large to push."""
    enforced = source.without_tests()
    bundle = PolicyBundle(
        trust_domain=trust_domain.name,
        sequence=assignment.sequence,
        version=assignment.version,
        digest=assignment.digest,
        issued_at=assignment.at,
        files=[PolicyFile(path=path, content=text.encode()) for path, text in enforced.files.items()],
        inventory=enforced.inventory.encode(),
    )
    payload = zlib.compress(bundle.SerializeToString(deterministic=True), 6)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ResourceExhausted(
            f"packing policy version {assignment.version}: {len(payload)} bytes, "
            f"at most {MAX_PAYLOAD_BYTES} can be pushed to an agent",
            hint="move data that no rule reads out of the policy, or shorten the inventory",
        )
    return payload


def signed(payload: bytes, key: PolicyKey, sign: Callable[[bytes], bytes]) -> SignedBundle:
    """The payload with its signature by `key`, whose private half `sign` uses."""
    return SignedBundle(payload, sign(SIGNED_PREFIX + payload), key.key_id)


def is_signed_by(public_key: bytes, signature: bytes, text: bytes) -> bool:
    """Whether a key (SPKI DER) made this signature, as `authority.ports.Signer.sign` makes them. Raises
    InvalidInput for what isn't a key of a known kind."""
    key = load_public_key(public_key)
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, text, ec.ECDSA(signature_hash(key) or hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, text, padding.PKCS1v15(), hashes.SHA256())
        else:
            key.verify(signature, text)
    except InvalidSignature:
        return False
    return True
