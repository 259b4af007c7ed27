"""What a Vault can do to us over HTTP, from the socket up to who gets which certificate.

The authority and the issuer are real, and so is the door; Vault is the strict fake where it has to lie, and
the real server where it only has to fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from real_vault import REAL_KINDS, Api, ApiError, RealVault, Server
from small_disk import fill
from vault_estate import DOMAIN, ID, Estate, estate
from vault_server import FakeVault

from control_plane.authority.state import Kind
from control_plane.clients.vault.roles import role_fields
from control_plane.core.errors import GatehouseError
from control_plane.core.secret import Secret
from control_plane.core.svid import X509Svid, validate_x509
from control_plane.identity.ledger import X509Record
from control_plane.runtime.clock import SystemClock

DAY = 86400


@contextlib.asynccontextmanager
async def world(directory: Path, server: Server, **settings: Any) -> AsyncIterator[tuple[Estate, str]]:
    mount = server.make_pki()
    server.api.write(f"{mount}/roles/gatehouse", **role_fields(DOMAIN, ttl_seconds=DAY))
    pki = server.pki(**({"pki_mount": mount, "timeout_seconds": 1.0} | settings))
    async with estate(directory, SystemClock(), pki) as made:
        yield made, mount


def on_fake(directory: Path, test: Callable[[Estate, Server, str], Awaitable[None]], **settings: Any) -> None:
    async def main() -> None:
        with FakeVault() as fake:
            server = Server("fake", Api(fake.url), fake)
            try:
                async with world(directory, server, **settings) as (made, mount):
                    await test(made, server, mount)
            finally:
                server.close()

    asyncio.run(main())


async def good(made: Estate) -> tuple[X509Svid, str]:
    """One leaf that verifies, and the mark of its record."""
    svid = await made.leaf()
    assert validate_x509(svid.chain, made.bundle, made.clock.unix()).spiffe_id == ID
    (mark,) = [
        one.mark for one in made.records() if isinstance(one, X509Record) and one.serial == svid.serial
    ]
    return svid, mark


def delay(fake: FakeVault) -> None:
    fake.faults.delay_seconds = 30


def drip(fake: FakeVault) -> None:
    fake.faults.drip_seconds = 0.3


def html(fake: FakeVault) -> None:
    fake.faults.html = True


def large(fake: FakeVault) -> None:
    fake.faults.large = True


def cut(fake: FakeVault) -> None:
    fake.faults.cut = True


def redirect(fake: FakeVault) -> None:
    fake.faults.redirect_to = "http://127.0.0.1:9/"


def quota(fake: FakeVault) -> None:
    fake.faults.status = 429


def broken(fake: FakeVault) -> None:
    fake.faults.status = 500


def sealed(fake: FakeVault) -> None:
    fake.state.sealed = True


def revoked(fake: FakeVault) -> None:
    fake.state.tokens.clear()


@pytest.mark.parametrize(
    "fault",
    [delay, drip, html, large, cut, redirect, quota, broken, sealed, revoked],
    ids=lambda f: f.__name__,
)
def test_whatever_vault_does_the_leaf_comes_and_is_marked(
    tmp_path: Path, fault: Callable[[FakeVault], None]
) -> None:
    async def test(made: Estate, server: Server, mount: str) -> None:
        assert (await good(made))[1] == ""
        fault(server.fake)
        began = time.monotonic()
        with contextlib.suppress(GatehouseError):  # an answer that is no answer may be raised once
            await made.leaf()
        _, mark = await good(made)
        assert mark == "standby" and time.monotonic() - began < 15
        assert made.authority.status.last_error

    on_fake(tmp_path, test)


def test_a_changed_answer_never_becomes_an_svid(tmp_path: Path) -> None:
    """Another certificate of the same Vault, a shuffled chain, garbage in the place of a certificate."""

    async def test(made: Estate, server: Server, mount: str) -> None:
        other = (await made.leaf()).chain[0]
        pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"

        def swap(replacement: Any) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
            def change(path: str, answer: dict[str, Any]) -> dict[str, Any]:
                if "/sign/" in path:
                    answer["data"] = replacement(answer["data"])
                return answer

            return change

        kept: list[str] = []
        for replacement in (
            lambda data: data | {"certificate": data["issuing_ca"]},
            lambda data: data | {"certificate": pem},
            lambda data: data | {"certificate": ["a list"]},
            lambda data: {},
            lambda data: kept.append(data["certificate"]) or data | {"certificate": kept[0]},
        ):
            server.fake.faults.change = swap(replacement)
            for _ in range(2):
                (outcome,) = await made.issue()
                if isinstance(outcome, X509Svid):
                    validate_x509(outcome.chain, made.bundle, made.clock.unix())
                    assert outcome.chain[0] != other
            server.fake.faults.change = None
            while made.authority.status.signer != "vault":
                await made.authority.look()

    on_fake(tmp_path, test)


@pytest.mark.peers
@pytest.mark.parametrize("kind", REAL_KINDS)
def test_a_real_vault_killed_frozen_restarted_and_without_our_token(
    kind: str, tmp_path: Path, peer: Callable[[str], Path]
) -> None:
    async def test(real: RealVault) -> None:
        server = Server(kind, real.api)
        token = real.api.make_token(real.api.policy('path "pki-*" { capabilities = ["read", "update"] }'))
        async with world(tmp_path, server, token=Secret(token)) as (made, _):
            assert (await good(made))[1] == ""

            async def comes_back() -> None:
                async with asyncio.timeout(60):
                    while made.authority.status.signer != "vault":
                        await made.authority.look()
                        await asyncio.sleep(0.05)
                assert (await good(made))[1] == ""

            real.pause()
            try:
                assert (await good(made))[1] == "standby"
            finally:
                real.resume()
            await comes_back()
            real.seal()
            began = time.monotonic()
            assert (await good(made))[1] == "standby"
            assert time.monotonic() - began < 5
            real.unseal()
            await comes_back()
            real.api.write("auth/token/revoke", token=token)
            assert (await good(made))[1] == "standby"
            assert "token" in made.authority.status.last_error
            for _ in range(5):
                await made.authority.look()
            assert made.authority.status.signer == "standby", "healthy, and yet not ours"
        server.close()

    with RealVault(peer(kind), dev=False) as real:
        asyncio.run(test(real))


@pytest.mark.peers
@pytest.mark.parametrize("kind", REAL_KINDS)
def test_a_vault_whose_storage_is_full_is_left_and_returned_to(
    kind: str, tmp_path: Path, small_disk: Path, peer: Callable[[str], Path]
) -> None:
    async def test(real: RealVault) -> None:
        server = Server(kind, real.api)
        token = Secret(real.api.token)
        async with world(tmp_path, server, token=token, timeout_seconds=5.0) as (made, mount):
            assert (await good(made))[1] == ""
            kept = server.api.mount("kv")
            ballast = fill(small_disk)
            # A leaf writes nothing there, so Vault may sign on until something else wants to be written.
            told = ""
            while not told:
                try:
                    await asyncio.to_thread(real.api.write, f"{kept}/more", data="x" * 100_000)
                except ApiError as error:
                    told = str(error)
            assert "no space left" in told
            assert (await good(made))[1] == "standby", "the call that failed is answered"
            assert "no server of that Vault leads" in made.authority.status.last_error
            for _ in range(4):
                await made.authority.look()
            assert made.authority.status.signer == "standby", "it answers, and yet it can't sign"

            ballast.unlink()
            async with asyncio.timeout(90):
                while made.authority.status.signer != "vault":
                    await made.authority.look()
                    await asyncio.sleep(0.05)
            assert (await good(made))[1] == ""
            assert server.api.read(f"{mount}/roles/gatehouse")["no_store"] is True, "nothing was lost"
        server.close()

    with RealVault(peer(kind), dev=False, storage=small_disk / "vault") as real:
        asyncio.run(test(real))


async def _rotation(made: Estate, server: Server, mount: str) -> tuple[str, str]:
    """Another root becomes the mount's default; the authorities before and after."""
    lagging, (old, _) = made.bundle, await good(made)
    second = server.make_root(mount)
    server.api.write(f"{mount}/config/issuers", default=second)
    prepared = await made.lifecycle.prepare(Kind.X509)
    assert len(made.bundle.x509_authorities) == 2
    for _ in range(3):
        svid, mark = await good(made)
        assert (svid.authority_id, mark) == (old.authority_id, ""), "the new default doesn't sign yet"
        validate_x509(svid.chain, lagging, made.clock.unix())
    await made.lifecycle.activate(Kind.X509, prepared.authority_id)
    svid, mark = await good(made)
    assert (svid.authority_id, mark) == (prepared.authority_id, "")
    validate_x509(old.chain, made.bundle, made.clock.unix())
    return old.authority_id, svid.authority_id


async def _intermediate(made: Estate, server: Server, mount: str) -> X509Svid:
    """An intermediate below the same root becomes the mount's default; a leaf of its own."""
    issuer_id = server.api.read(f"{mount}/config/issuers")["default"]
    csr = server.api.write(f"{mount}/intermediate/generate/internal", common_name="Middle", key_type="ec")
    signed = server.api.write(
        f"{mount}/issuer/{issuer_id}/sign-intermediate",
        csr=csr["data"]["csr"],
        common_name="Middle",
        ttl="4380h",
        max_path_length=1,
        not_before_duration="300s",
    )
    imported = server.api.write(f"{mount}/intermediate/set-signed", certificate=signed["data"]["certificate"])
    server.api.write(f"{mount}/config/issuers", default=imported["data"]["imported_issuers"][0])
    before = made.bundle
    made.forget()
    await made.lifecycle.tick()
    svid, mark = await good(made)
    assert mark == ""
    assert made.bundle.x509_authorities == before.x509_authorities
    return svid


def test_the_root_in_vault_is_replaced(tmp_path: Path) -> None:
    async def test(made: Estate, server: Server, mount: str) -> None:
        before, after = await _rotation(made, server, mount)
        assert [one.subject_key_id for one in made.bundle.x509_authorities] == [before, after]

    on_fake(tmp_path, test)


@pytest.mark.peers
@pytest.mark.parametrize("kind", REAL_KINDS)
def test_the_same_in_a_real_vault_and_then_an_intermediate(
    kind: str, tmp_path: Path, peer: Callable[[str], Path]
) -> None:
    async def test(real: RealVault) -> None:
        server = Server(kind, real.api)
        async with world(tmp_path, server) as (made, mount):
            before, after = await _rotation(made, server, mount)
            assert before != after
            svid = await _intermediate(made, server, mount)
            assert len(svid.chain) == 2, "by the intermediate, which is served with the leaf"
        server.close()

    with RealVault(peer(kind)) as real:
        asyncio.run(test(real))
