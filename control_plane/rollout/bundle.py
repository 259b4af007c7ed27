"""From a version and its assignment to the signed bytes that agents get. Pure.

Signed once, when the assignment is made; issuers only pass the bytes on. The time of the assignment is in
them, and nothing of the machine, so the same assignment always gives the same payload.
"""

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from control_plane.core.errors import ResourceExhausted
from control_plane.core.signature import POLICY_BUNDLE
from control_plane.core.spiffe_id import TrustDomain
from control_plane.proto.gatehouse.node.v1.node_pb2 import PolicyBundle, PolicyFile
from control_plane.rollout.assignment import Assignment, SignedBundle
from control_plane.rollout.version import PolicySource

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
    return SignedBundle(payload, sign(POLICY_BUNDLE + payload), key.key_id)
