"""What transit adds to the contract of key managers (tests/authority/test_keys.py has that one)."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from typing import Any

import pytest
from real_vault import Server

from control_plane.authority.ports import KeyPurpose, KeyType
from control_plane.clients.vault.transit import MAX_UNHASHED_BYTES, TransitKeyManager
from control_plane.core.errors import (
    Bug,
    Corrupt,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    PeerMisbehaved,
    PermissionDenied,
    Unavailable,
    Unimplemented,
)


def manager(server: Server, mount: str = "") -> TransitKeyManager:
    mount = mount or server.api.mount("transit")
    return TransitKeyManager(server.door(), mount, random_bytes=os.urandom)


def test_a_key_that_is_rotated_in_vault_stays_what_it_was(server: Server) -> None:
    mount = server.api.mount("transit")
    keys = manager(server, mount)
    for key_type in (KeyType.EC_P256, KeyType.ED25519):
        signer = keys.create(KeyPurpose.JWT, key_type)
        server.api.write(f"{mount}/keys/{signer.key_id}/rotate")
        assert keys.get(signer.key_id).public_key == signer.public_key
        assert signer.sign(b"data")


def test_a_key_whose_first_version_is_gone_says_so(server: Server) -> None:
    mount = server.api.mount("transit")
    keys = manager(server, mount)
    signer = keys.create(KeyPurpose.JWT)
    server.api.write(f"{mount}/keys/{signer.key_id}/rotate")
    server.api.write(
        f"{mount}/keys/{signer.key_id}/config", min_decryption_version=2, min_encryption_version=2
    )
    server.api.write(f"{mount}/keys/{signer.key_id}/trim", min_available_version=2)
    with pytest.raises(Corrupt, match="version 1 any more"):
        keys.get(signer.key_id)
    with pytest.raises((FailedPrecondition, Unavailable)):
        signer.sign(b"data")


def test_keys_of_others_in_the_mount_are_left_alone(server: Server) -> None:
    mount = server.api.mount("transit")
    keys = manager(server, mount)
    assert keys.key_ids() == []
    server.api.write(f"{mount}/keys/orders", type="aes256-gcm96")
    signer = keys.create(KeyPurpose.LOG)
    assert keys.key_ids() == [signer.key_id]


def test_a_mount_that_is_missing_is_named(server: Server) -> None:
    keys = manager(server, "nowhere")
    with pytest.raises(FailedPrecondition, match="vault secrets enable -path=nowhere transit"):
        keys.create(KeyPurpose.JWT)
    with pytest.raises(FailedPrecondition, match="nowhere"):
        keys.get("jwt-" + "0" * 32)


def test_a_key_that_cannot_sign_is_told(server: Server) -> None:
    mount, name = server.api.mount("transit"), "policy-" + "1" * 32
    server.api.write(f"{mount}/keys/{name}", type="aes256-gcm96")
    with pytest.raises(Unimplemented, match="aes256-gcm96"):
        manager(server, mount).get(name)


def test_randomness_that_repeats_is_noticed(server: Server) -> None:
    keys = TransitKeyManager(server.door(), server.api.mount("transit"), random_bytes=bytes)
    keys.create(KeyPurpose.X509)
    with pytest.raises(Bug, match="randomness"):
        keys.create(KeyPurpose.X509)


def test_long_texts_are_hashed_here_and_bounded_where_they_cannot_be(server: Server) -> None:
    keys = manager(server)
    long = b"x" * (MAX_UNHASHED_BYTES + 1)
    assert keys.create(KeyPurpose.BUNDLE).sign(long * 8)
    with pytest.raises(InvalidInput, match="Ed25519"):
        keys.create(KeyPurpose.LOG, KeyType.ED25519).sign(long)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("vault:v1:", "vault:v2:"),
        lambda text: "vault:v1:" + base64.b64encode(b"no signature").decode(),
        lambda text: "vault:v1:!",
        lambda text: 7,
    ],
)
def test_what_is_no_signature_of_the_key_is_not_handed_on(fake: Server, spoil: Callable[[str], Any]) -> None:
    signer = manager(fake).create(KeyPurpose.X509)

    def change(path: str, answer: dict[str, Any]) -> dict[str, Any]:
        if "/sign/" in path:
            answer["data"]["signature"] = spoil(answer["data"]["signature"])
        return answer

    fake.fake.faults.change = change
    with pytest.raises(PeerMisbehaved):
        signer.sign(b"data")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data | {"keys": {}},
        lambda data: data | {"keys": {"1": {"public_key": "x"}}},
        lambda data: data | {"keys": {"1": {"public_key": 1}}},
        lambda data: data | {"type": "ed25519"},
    ],
)
def test_a_key_that_cannot_be_read_is_told(fake: Server, spoil: Callable[[Any], Any]) -> None:
    keys = manager(fake)
    signer = keys.create(KeyPurpose.X509)
    fake.fake.faults.change = lambda path, answer: {"data": spoil(answer["data"])}
    with pytest.raises(Corrupt, match=signer.key_id):
        keys.get(signer.key_id)


def test_a_sealed_vault_does_not_look_like_a_missing_key(fake: Server) -> None:
    keys = manager(fake)
    signer = keys.create(KeyPurpose.X509)
    fake.fake.state.sealed = True
    with pytest.raises(Unavailable):
        keys.get(signer.key_id)
    with pytest.raises(Unavailable):
        signer.sign(b"data")


def test_a_token_without_rights_is_told(server: Server) -> None:
    from control_plane.core.secret import Secret

    mount = server.api.mount("transit")
    door = server.door(token=Secret(server.api.make_token("default", ttl="60s")))
    with pytest.raises(PermissionDenied):
        TransitKeyManager(door, mount, random_bytes=os.urandom).create(KeyPurpose.JWT)


def test_a_deleted_key_is_gone_for_others_too(server: Server) -> None:
    mount = server.api.mount("transit")
    signer = manager(server, mount).create(KeyPurpose.JWT)
    manager(server, mount).delete(signer.key_id)
    with pytest.raises(NotFound):
        manager(server, mount).get(signer.key_id)
