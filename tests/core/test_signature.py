"""Signatures of every key that a key manager makes, and nothing else."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.authority.keys import MemoryKeyManager
from control_plane.authority.ports import KeyPurpose, KeyType
from control_plane.core.errors import InvalidInput
from control_plane.core.signature import is_signed_by

SIGNERS = {
    kind: MemoryKeyManager(os.urandom).create(KeyPurpose.POLICY, kind)
    for kind in KeyType
    if kind is not KeyType.RSA_4096  # the same as the smaller one, and slow to make
}


@pytest.mark.parametrize("kind", SIGNERS)
def test_what_a_key_signed_is_signed_by_it_alone(kind: KeyType) -> None:
    signer = SIGNERS[kind]
    signature = signer.sign(b"text")
    assert is_signed_by(signer.public_key, signature, b"text")
    assert not is_signed_by(signer.public_key, signature, b"texT")
    assert not is_signed_by(signer.public_key, signature[:-1], b"text")
    other = MemoryKeyManager(os.urandom).create(KeyPurpose.POLICY, kind)
    assert not is_signed_by(other.public_key, signature, b"text")


@given(st.binary(max_size=100))
def test_arbitrary_signatures_are_none(signature: bytes) -> None:
    for kind in (KeyType.EC_P256, KeyType.ED25519, KeyType.RSA_2048):
        assert not is_signed_by(SIGNERS[kind].public_key, signature, b"text")


@pytest.mark.parametrize("key", [b"", b"text", b"\x30\x03\x02\x01\x01"])
def test_what_is_no_key_is_refused(key: bytes) -> None:
    with pytest.raises(InvalidInput, match="public key"):
        is_signed_by(key, b"", b"text")
