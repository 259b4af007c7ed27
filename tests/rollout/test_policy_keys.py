"""Keys for policies that are far away when the process starts, and keys of other kinds."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from control_plane.authority.keys import MemoryKeyManager
from control_plane.authority.ports import KeyManager, KeyPurpose, KeyType, Signer
from control_plane.core.errors import Corrupt, Unavailable
from control_plane.core.jwk import load_public_key
from control_plane.core.signature import is_signed_by
from control_plane.core.spiffe_id import TrustDomain
from control_plane.rollout import keys as keys_module
from control_plane.rollout.keys import PolicyKeys
from control_plane.rollout.version import PolicyVersion, SignedVersion
from control_plane.runtime.clock import SystemClock
from control_plane.sql.rollout_store import SqlRolloutStore
from control_plane.sql.store import SqlStore

TD = TrustDomain("example.org")
VERSION = PolicyVersion(
    number=1, digest="ab" * 32, content_digest="cd" * 32, author="ada", reason="first", created_at=1
)


class FarManager(MemoryKeyManager):
    """Keys in a Vault that may be away."""

    away = ""

    def key_ids(self, purpose: KeyPurpose | None = None) -> list[str]:
        if self.away:
            raise Unavailable(self.away)
        return super().key_ids(purpose)


def run(path: Path, test: Callable[[SqlStore], Awaitable[None]]) -> None:
    async def with_store() -> None:
        store = SqlStore(path, TD, os.urandom)
        try:
            await test(store)
        finally:
            await store.close()

    asyncio.run(with_store())


@pytest.fixture
def registry(tmp_path: Path, empty_registry: Path) -> Path:
    return Path(shutil.copy(empty_registry, tmp_path / "registry.db"))


def keys_over(store: SqlStore, manager: KeyManager, key_type: KeyType = KeyType.EC_P256) -> PolicyKeys:
    rollouts = SqlRolloutStore(store.thread)
    return PolicyKeys(manager, rollouts, TD, SystemClock(), key_type=key_type)


def test_keys_that_are_away_at_the_start_are_found_later(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "RETRY_SECONDS", 0.01)
    manager = FarManager(os.urandom)

    async def test(store: SqlStore) -> None:
        before = keys_over(store, manager)
        await before.open()
        signed = before.sign_version(VERSION)

        manager.away = "Vault is sealed"
        keys = keys_over(store, manager)
        await keys.open()
        for refused in (
            lambda: keys.current,
            lambda: keys.sign_version(VERSION),
            lambda: keys.check_version(signed),
        ):
            with pytest.raises(Unavailable, match=r"since the start.*Vault is sealed"):
                refused()
        stop = asyncio.Event()
        running = asyncio.ensure_future(keys.run(stop))
        await asyncio.sleep(0.05)
        assert not running.done()
        manager.away = ""
        await asyncio.wait_for(running, 20)
        assert keys.missing == ""
        assert keys.current[0] == before.current[0]
        keys.check_version(signed)
        with pytest.raises(Corrupt):
            keys.check_version(SignedVersion(VERSION, b"another", signed.key_id))

    run(registry, test)


def test_looking_for_keys_ends_with_the_process(registry: Path) -> None:
    manager = FarManager(os.urandom)
    manager.away = "Vault is away"

    async def test(store: SqlStore) -> None:
        keys, stop = keys_over(store, manager), asyncio.Event()
        await keys.open()
        running = asyncio.ensure_future(keys.run(stop))
        await asyncio.sleep(0)
        stop.set()
        await asyncio.wait_for(running, 20)
        assert keys.missing

    run(registry, test)


def test_the_next_key_is_of_the_kind_that_is_set(registry: Path) -> None:
    manager = MemoryKeyManager(os.urandom)

    async def kinds() -> list[str]:
        made: list[Signer] = [manager.get(name) for name in manager.key_ids(KeyPurpose.POLICY)]
        return sorted(type(load_public_key(one.public_key)).__name__ for one in made)

    async def test(store: SqlStore) -> None:
        await keys_over(store, manager).open()
        keys = keys_over(store, manager, KeyType.RSA_2048)
        await keys.open()
        assert len(await kinds()) == 1, "the key that is there goes on"
        await keys.rotate()
        assert await kinds() == ["ECPublicKey", "RSAPublicKey"]
        signed = keys.sign_version(VERSION)
        keys.check_version(signed)
        assert is_signed_by(keys.current[0].public_key, signed.signature, VERSION.signed_text())

    run(registry, test)
