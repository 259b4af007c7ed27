"""Key managers: one contract for both, and what a disk adds to it."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from real_vault import REAL_KINDS, Api, Server
from vault_server import FakeVault

from control_plane.authority import disk_keys
from control_plane.authority.disk_keys import DiskKeyManager
from control_plane.authority.keys import MemoryKeyManager, purpose_of
from control_plane.authority.ports import KeyManager, KeyPurpose, KeyType
from control_plane.authority.split_keys import SplitKeyManager
from control_plane.clients.vault.transit import TransitKeyManager
from control_plane.core.errors import (
    Bug,
    Corrupt,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from control_plane.core.jwk import load_public_key
from control_plane.core.secret import Secret
from control_plane.core.signature import is_signed_by

PASSPHRASE = Secret("correct horse")
MISSING = "x509-" + "0" * 32


MANAGERS = [
    *("memory", "disk", "disk under a passphrase", "split", "fake"),
    *(pytest.param(kind, marks=pytest.mark.peers) for kind in REAL_KINDS),
]


@pytest.fixture(params=MANAGERS)
def manager(request: Any, tmp_path: Path, monkeypatch: Any) -> Iterator[KeyManager]:
    monkeypatch.setattr(disk_keys, "SCRYPT_COST", 16)
    if request.param == "memory":
        yield MemoryKeyManager(os.urandom)
    elif request.param == "split":
        there = MemoryKeyManager(os.urandom)
        yield SplitKeyManager(MemoryKeyManager(os.urandom), there, frozenset({KeyPurpose.POLICY}))
    elif request.param.startswith("disk"):
        passphrase = PASSPHRASE if "passphrase" in request.param else None
        yield DiskKeyManager(tmp_path / "keys", passphrase, random_bytes=os.urandom)
    elif request.param == "fake":
        with FakeVault() as fake:
            yield from transit(Server("fake", Api(fake.url)))
    else:
        api = request.getfixturevalue("real_vault")(request.param).api
        yield from transit(Server(request.param, api))


def transit(server: Server) -> Iterator[KeyManager]:
    """Keys in the transit engine of a Vault."""
    yield TransitKeyManager(server.door(), server.api.mount("transit"), random_bytes=os.urandom)
    server.close()


def verify(spki: bytes, signature: bytes, data: bytes, purpose: KeyPurpose = KeyPurpose.X509) -> None:
    key = load_public_key(spki)
    if isinstance(key, ec.EllipticCurvePublicKey):
        algorithm = {256: hashes.SHA256(), 384: hashes.SHA384()}[key.key_size]
        key.verify(signature, data, ec.ECDSA(algorithm))
    elif isinstance(key, rsa.RSAPublicKey):
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), salt_length=32)
        scheme = padding.PKCS1v15() if purpose in (KeyPurpose.X509, KeyPurpose.JWT) else pss
        key.verify(signature, data, scheme, hashes.SHA256())
    else:
        assert isinstance(key, ed25519.Ed25519PublicKey)
        key.verify(signature, data)


@pytest.mark.parametrize("key_type", [KeyType.EC_P256, KeyType.EC_P384, KeyType.RSA_2048, KeyType.ED25519])
def test_each_kind_of_key_signs(manager: KeyManager, key_type: KeyType) -> None:
    signer = manager.create(KeyPurpose.X509, key_type)
    verify(signer.public_key, signer.sign(b"data"), b"data")
    again = manager.get(signer.key_id)
    assert again.public_key == signer.public_key
    verify(signer.public_key, again.sign(b"more"), b"more")


@pytest.mark.parametrize("purpose", [KeyPurpose.JWT, KeyPurpose.POLICY, KeyPurpose.LOG, KeyPurpose.BUNDLE])
def test_rsa_signs_by_pss_what_is_neither_certificate_nor_token(
    manager: KeyManager, purpose: KeyPurpose
) -> None:
    signer = manager.create(purpose, KeyType.RSA_2048)
    signature = signer.sign(b"data")
    verify(signer.public_key, signature, b"data", purpose)
    assert is_signed_by(signer.public_key, signature, b"data") is (purpose is not KeyPurpose.JWT)


def test_keys_are_listed_by_purpose(manager: KeyManager) -> None:
    made = [manager.create(purpose) for purpose in KeyPurpose for _ in range(2)]
    assert manager.key_ids() == sorted(signer.key_id for signer in made)
    for purpose in KeyPurpose:
        listed = manager.key_ids(purpose)
        assert len(listed) == 2
        assert all(manager.get(key_id).purpose is purpose for key_id in listed)


def test_deleting_is_final_and_idempotent(manager: KeyManager) -> None:
    signer = manager.create(KeyPurpose.JWT)
    manager.delete(signer.key_id)
    manager.delete(signer.key_id)
    assert manager.key_ids() == []
    with pytest.raises(NotFound):
        manager.get(signer.key_id)
    manager.delete(MISSING)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x509",
        "../x509-" + "0" * 32,
        "x509-" + "0" * 31,
        "x509-" + "g" * 32,
        "other-" + "0" * 32,
        MISSING + "\n",
    ],
)
def test_names_that_are_none_are_refused(manager: KeyManager, name: str) -> None:
    with pytest.raises(InvalidInput):
        manager.get(name)
    with pytest.raises(InvalidInput):
        manager.delete(name)


def test_unknown_names_are_not_found(manager: KeyManager) -> None:
    with pytest.raises(NotFound):
        manager.get(MISSING)


def test_signers_work_from_several_threads(manager: KeyManager) -> None:
    signer = manager.create(KeyPurpose.X509)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                verify(signer.public_key, signer.sign(b"x"), b"x")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_nothing_shows_a_key(manager: KeyManager) -> None:
    signer = manager.create(KeyPurpose.X509)
    assert "PRIVATE" not in repr(signer) and signer.key_id in repr(signer)
    assert purpose_of(signer.key_id) is signer.purpose


def test_a_broken_source_of_randomness_is_noticed() -> None:
    manager = MemoryKeyManager(bytes)
    manager.create(KeyPurpose.X509)
    with pytest.raises(Bug, match="randomness"):
        manager.create(KeyPurpose.X509)


def disk(directory: Path, passphrase: Secret[str] | None = None) -> DiskKeyManager:
    return DiskKeyManager(directory, passphrase, random_bytes=os.urandom)


def test_another_process_finds_the_key(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(disk_keys, "SCRYPT_COST", 16)
    for passphrase in (None, PASSPHRASE):
        directory = tmp_path / str(passphrase is None)
        signer = disk(directory, passphrase).create(KeyPurpose.X509)
        assert disk(directory, passphrase).get(signer.key_id).public_key == signer.public_key


def test_files_and_directory_are_private(tmp_path: Path) -> None:
    signer = disk(tmp_path / "keys").create(KeyPurpose.X509)
    (path,) = (tmp_path / "keys").iterdir()
    assert path.name == f"{signer.key_id}.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_key_that_others_could_read_is_not_used(tmp_path: Path) -> None:
    signer = disk(tmp_path).create(KeyPurpose.X509)
    (tmp_path / f"{signer.key_id}.key").chmod(0o640)
    with pytest.raises(FailedPrecondition, match="chmod 600"):
        disk(tmp_path).get(signer.key_id)


def test_a_link_in_place_of_a_key_is_not_followed(tmp_path: Path) -> None:
    signer = disk(tmp_path).create(KeyPurpose.X509)
    path = tmp_path / f"{signer.key_id}.key"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable):
        disk(tmp_path).get(signer.key_id)


def test_a_passphrase_keeps_the_key_out_of_the_file(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(disk_keys, "SCRYPT_COST", 16)
    signer = disk(tmp_path, PASSPHRASE).create(KeyPurpose.X509)
    content = (tmp_path / f"{signer.key_id}.key").read_bytes()
    assert b"PRIVATE" not in content and content.startswith(b"gatehouse key 1\n")
    for wrong in (Secret("wrong"), Secret("")):
        with pytest.raises(FailedPrecondition, match="passphrase is wrong"):
            disk(tmp_path, wrong).get(signer.key_id)
    with pytest.raises(FailedPrecondition, match="no passphrase"):
        disk(tmp_path).get(signer.key_id)


def test_encrypted_keys_cannot_be_exchanged(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(disk_keys, "SCRYPT_COST", 16)
    manager = disk(tmp_path, PASSPHRASE)
    one, two = manager.create(KeyPurpose.X509), manager.create(KeyPurpose.LOG)
    (tmp_path / f"{one.key_id}.key").rename(tmp_path / f"{two.key_id}.key")
    with pytest.raises(FailedPrecondition):
        disk(tmp_path, PASSPHRASE).get(two.key_id)


def test_a_plain_key_is_not_taken_where_a_passphrase_is_set(tmp_path: Path) -> None:
    signer = disk(tmp_path).create(KeyPurpose.X509)
    with pytest.raises(FailedPrecondition, match="isn't encrypted"):
        disk(tmp_path, PASSPHRASE).get(signer.key_id)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100, b"gatehouse key 1\n", b"x" * 70_000])
def test_spoiled_files_are_named(tmp_path: Path, content: bytes) -> None:
    signer = disk(tmp_path).create(KeyPurpose.X509)
    path = tmp_path / f"{signer.key_id}.key"
    path.write_bytes(content)
    with pytest.raises((Corrupt, FailedPrecondition)) as caught:
        disk(tmp_path).get(signer.key_id)
    assert str(path) in caught.value.message


def test_foreign_files_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    manager = disk(tmp_path)
    signer = manager.create(KeyPurpose.X509)
    for name in ("README", "notes.key", ".x509.swp", f"{MISSING}.key.bak"):
        (tmp_path / name).write_text("hello")
    assert manager.key_ids() == [signer.key_id]
    manager.sweep(2**40)
    assert (tmp_path / "notes.key").exists()


FAILURES: list[tuple[str, int, type[Exception]]] = [
    ("fsync", errno.ENOSPC, ResourceExhausted),
    ("fsync", errno.EIO, Unavailable),
    ("open", errno.EACCES, Unavailable),
    ("open", errno.ENOSPC, ResourceExhausted),
]


@pytest.mark.parametrize(("call", "number", "kind"), FAILURES)
def test_a_key_that_cannot_be_stored_leaves_nothing(
    tmp_path: Path, monkeypatch: Any, call: str, number: int, kind: type[Exception]
) -> None:
    manager = disk(tmp_path)

    def fail(*arguments: Any, **options: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(disk_keys.os, call, fail)
    with pytest.raises(kind):
        manager.create(KeyPurpose.X509)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [] and manager.key_ids() == []


def test_what_a_crash_left_is_swept_when_it_is_old(tmp_path: Path) -> None:
    manager = disk(tmp_path)
    half = tmp_path / f"{MISSING}.new"
    half.write_text("half a key")
    manager.sweep(int(half.stat().st_mtime) + 60)
    assert half.exists() and manager.key_ids() == []
    manager.sweep(int(half.stat().st_mtime) + 4000)
    assert not half.exists()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="file"):
        disk(tmp_path / "file" / "keys")


def test_keys_are_made_in_the_place_of_their_purpose_and_found_in_both() -> None:
    here, there = MemoryKeyManager(os.urandom), MemoryKeyManager(os.urandom)
    split = SplitKeyManager(here, there, frozenset({KeyPurpose.POLICY}))
    before = here.create(KeyPurpose.POLICY)
    made, local = split.create(KeyPurpose.POLICY), split.create(KeyPurpose.JWT)
    assert there.key_ids() == [made.key_id] and set(here.key_ids()) == {before.key_id, local.key_id}
    # A purpose that is kept here is never looked for there: that place may be away.
    there.create(KeyPurpose.JWT)
    assert split.key_ids(KeyPurpose.JWT) == [local.key_id]
    assert split.get(before.key_id).public_key == before.public_key
    split.delete(before.key_id)
    assert split.key_ids(KeyPurpose.POLICY) == [made.key_id]
