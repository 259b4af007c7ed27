"""Reads a signed policy: signature first, then everything else, nothing of what isn't signed.

The keys come with the server's authenticated pushes, as the trust bundle does. What is accepted is a whole
`PolicyBundle` for this trust domain; whether it is newer than what is in force is for `policies` to say.
Pure: no files, no clock.
"""

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from control_plane.core.errors import InvalidInput, PeerMisbehaved, ResourceExhausted, Unauthenticated
from control_plane.core.signature import POLICY_BUNDLE, is_signed_by
from control_plane.core.spiffe_id import TrustDomain
from control_plane.proto.gatehouse.node.v1 import node_pb2 as wire

MAX_PAYLOAD_BYTES: Final = 4 << 20
MAX_BUNDLE_BYTES: Final = 64 << 20
MAX_FILES: Final = 10_000
MAX_KEYS: Final = 16


@dataclass(frozen=True, slots=True)
class PolicyBundle:
    """A policy version as assigned to this agent: `files` by relative name, `inventory` as a file."""

    sequence: int
    version: int
    digest: str
    issued_at: int
    files: Mapping[str, str]
    inventory: str


def read_keys(keys: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """Public keys (SPKI DER) by ID, each ID checked to be its key's. Raises PeerMisbehaved."""
    if len(keys) > MAX_KEYS:
        raise PeerMisbehaved(f"reading policy keys: {len(keys)} came, at most {MAX_KEYS} are expected")
    for key_id, public_key in keys.items():
        if key_id != hashlib.sha256(public_key).hexdigest():
            raise PeerMisbehaved(f"reading policy keys: the ID {key_id!r} is not that of its key")
    return dict(keys)


def read_policy(
    signed: wire.SignedPolicy, keys: Mapping[str, bytes], trust_domain: TrustDomain
) -> PolicyBundle:
    """The policy, if one of our keys has signed it for our trust domain.

    Raises Unauthenticated for a signature that doesn't hold, ResourceExhausted beyond the limits,
    PeerMisbehaved for content that can't be read although it was signed.
    """
    if len(signed.payload) > MAX_PAYLOAD_BYTES:
        raise ResourceExhausted(
            f"reading the policy: a payload of {len(signed.payload)} bytes, {MAX_PAYLOAD_BYTES} are allowed"
        )
    public_key = keys.get(signed.key_id)
    if public_key is None:
        raise Unauthenticated(
            f"reading the policy: it is signed with key {signed.key_id[:64]!r}, "
            f"which is none of the {len(keys)} policy keys that the server named",
            hint="if policy keys were rotated just now, the next push brings them",
        )
    try:
        holds = is_signed_by(public_key, signed.signature, POLICY_BUNDLE + signed.payload)
    except InvalidInput as error:
        raise Unauthenticated(f"reading the policy: the key that it names can't be used: {error}") from error
    if not holds:
        raise Unauthenticated(
            "reading the policy: its signature doesn't hold for the key that it names",
            hint="it was changed on the way or on the disk; the policy in force stays",
        )
    bundle = _unpacked(signed.payload)
    if bundle.trust_domain != trust_domain.name:
        raise PeerMisbehaved(
            f"reading the policy: it is for trust domain {bundle.trust_domain!r}, ours is {trust_domain}"
        )
    if len(bundle.files) > MAX_FILES:
        raise ResourceExhausted(f"reading the policy: {len(bundle.files)} files, {MAX_FILES} are allowed")
    try:
        files = {file.path: file.content.decode() for file in bundle.files}
        inventory = bundle.inventory.decode()
    except UnicodeDecodeError as error:
        raise PeerMisbehaved(f"reading the policy: a file of it is not UTF-8 ({error.reason})") from error
    if len(files) != len(bundle.files):
        raise PeerMisbehaved("reading the policy: a file name stands there twice")
    return PolicyBundle(bundle.sequence, bundle.version, bundle.digest, bundle.issued_at, files, inventory)


def _unpacked(payload: bytes) -> wire.PolicyBundle:
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress(payload, MAX_BUNDLE_BYTES)
        if unpacking.unconsumed_tail or not unpacking.eof or unpacking.unused_data:
            raise ResourceExhausted(
                f"reading the policy: unpacked it is cut short, or larger than {MAX_BUNDLE_BYTES} bytes"
            )
        return wire.PolicyBundle.FromString(content)
    except (zlib.error, DecodeError) as error:
        raise PeerMisbehaved(
            f"reading the policy: its payload is no packed PolicyBundle ({error})"
        ) from error
