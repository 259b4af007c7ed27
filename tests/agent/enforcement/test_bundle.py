"""Reading a signed policy: nothing that isn't signed, nothing beyond the limits."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from agent.enforcement import bundle as bundles
from agent.enforcement.bundle import read_keys, read_policy
from control_plane.core.errors import GatehouseError, PeerMisbehaved, ResourceExhausted, Unauthenticated
from control_plane.core.spiffe_id import TrustDomain
from control_plane.proto.gatehouse.node.v1 import node_pb2 as wire

HERE = TrustDomain.parse("example.org")


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["p256", "p384", "ed25519", "rsa"],
)
def test_every_type_of_key_signs(author_of: Callable[[Any], Any], key: Any) -> None:
    author = author_of(key)
    signed = author.policy(7, version=3, files={"a.rego": "package a"}, inventory="mesh: {}")
    found = read_policy(signed, read_keys(author.keys), HERE)
    assert (found.sequence, found.version, found.digest) == (7, 3, "sha256:3")
    assert found.files == {"a.rego": "package a"}
    assert found.inventory == "mesh: {}"


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_one_changed_bit_is_refused(author: Any, place: int, change: int) -> None:
    signed = author.policy(files={"a.rego": "package a"})
    changed = bytearray(signed.payload)
    changed[place % len(changed)] ^= change
    signed.payload = bytes(changed)
    with pytest.raises(Unauthenticated, match="signature"):
        read_policy(signed, author.keys, HERE)


def test_the_prefix_is_signed_too(author: Any) -> None:
    payload = author.policy().payload
    bare = wire.SignedPolicy(payload=payload, key_id=author.key_id)
    bare.signature = author.key.sign(payload, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(Unauthenticated):
        read_policy(bare, author.keys, HERE)


def test_a_key_that_the_server_did_not_name(author: Any, stranger: Any) -> None:
    with pytest.raises(Unauthenticated, match="none of the 1 policy keys"):
        read_policy(stranger.policy(), author.keys, HERE)
    stolen = stranger.policy()
    stolen.key_id = author.key_id
    with pytest.raises(Unauthenticated, match="signature"):
        read_policy(stolen, author.keys, HERE)


def test_a_key_under_another_name_is_refused(author: Any) -> None:
    with pytest.raises(PeerMisbehaved, match="is not that of its key"):
        read_keys({"00" * 32: author.spki})
    with pytest.raises(PeerMisbehaved, match="at most 16"):
        read_keys({str(number): author.spki for number in range(17)})


def test_another_trust_domain(author: Any) -> None:
    with pytest.raises(PeerMisbehaved, match=r"for trust domain 'other\.org'"):
        read_policy(author.policy(trust_domain="other.org"), author.keys, HERE)


def test_signed_nonsense_is_named(author: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for payload in (
        b"",
        b"text",
        zlib.compress(b"\xff\xff"),
        zlib.compress(b"")[:-1],
        zlib.compress(b"") + b"x",
    ):
        with pytest.raises((PeerMisbehaved, ResourceExhausted)):
            read_policy(author.sign(payload), author.keys, HERE)
    monkeypatch.setattr(bundles, "MAX_BUNDLE_BYTES", 1000)
    bomb = author.policy(files={"a.rego": " " * 100_000})
    with pytest.raises(ResourceExhausted, match="larger than 1000 bytes"):
        read_policy(bomb, author.keys, HERE)
    monkeypatch.setattr(bundles, "MAX_PAYLOAD_BYTES", 10)
    with pytest.raises(ResourceExhausted, match="10 are allowed"):
        read_policy(bomb, author.keys, HERE)


def test_files_are_text_and_named_once(author: Any) -> None:
    for files in (
        [wire.PolicyFile(path="a", content=b"\xff")],
        [wire.PolicyFile(path="a"), wire.PolicyFile(path="a")],
    ):
        bundle = wire.PolicyBundle(trust_domain="example.org", files=files)
        with pytest.raises(PeerMisbehaved, match=r"UTF-8|twice"):
            read_policy(author.sign(zlib.compress(bundle.SerializeToString())), author.keys, HERE)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_arbitrary_bytes_end_in_an_error_of_ours(author: Any, payload: bytes, signature: bytes) -> None:
    signed = wire.SignedPolicy(payload=payload, signature=signature, key_id=author.key_id)
    with pytest.raises(GatehouseError):
        read_policy(signed, author.keys, HERE)
    with pytest.raises(GatehouseError):
        read_policy(signed, {author.key_id: payload}, HERE)
