"""What every `ports.Authority` does alike: ours, ours below an intermediate of Vault's, and Vault itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vault_estate import CSR, DOMAIN, ID, Estate, estate
from vault_pki import FakePki

from control_plane.authority.keys import MemoryKeyManager
from control_plane.authority.lifecycle import AuthorityLifecycle
from control_plane.authority.make import Maker
from control_plane.authority.schedule import Lifetimes, Origin
from control_plane.authority.state import AuthorityState, Kind, Status
from control_plane.authority.vault_make import VaultMaker
from control_plane.core.certificate import read_certificate
from control_plane.core.csr import check_csr
from control_plane.core.errors import GatehouseError, InvalidInput, NotFound, Unavailable
from control_plane.core.jwt_svid import JwtRequest, parse_and_verify
from control_plane.core.lifetime import Window, standby_ttl_seconds
from control_plane.core.profile import SigningRequest
from control_plane.core.spiffe_id import SpiffeId
from control_plane.core.svid import validate_x509, verify_x509
from control_plane.runtime.clock import FakeClock

DAY = 86400
ORIGINS = pytest.mark.parametrize("origin", list(Origin))


def run(directory: Path, origin: Origin, test: Callable[[Estate, Any], Awaitable[None]]) -> None:
    async def main() -> None:
        clock = FakeClock()
        pki = FakePki(clock)
        async with estate(directory, clock, pki, origin=origin) as made:
            await test(made, pki)

    asyncio.run(main())


def request(made: Estate, spiffe_id: SpiffeId = ID) -> SigningRequest:
    now = made.clock.unix()
    window = Window(now - 60, now + 3600)
    return SigningRequest(spiffe_id, check_csr(CSR).spki, (1 << 128) + 7, window, ("cart.example.org",))


@ORIGINS
def test_orders_are_signed_in_order_and_checked(tmp_path: Path, origin: Origin) -> None:
    async def test(made: Estate, pki: Any) -> None:
        signer = made.authority.active().x509
        ids = [SpiffeId.of(DOMAIN, "workload", str(number)) for number in range(70)]
        orders = [signer.order(request(made, one), CSR) for one in ids]
        assert len({order.intent for order in orders}) == len(orders)
        for one, order, signed in zip(ids, orders, await signer.sign(orders), strict=True):
            assert isinstance(signed, bytes)
            certified = signer.check(signed, order)
            assert certified.spiffe_id == one and certified.spki == order.request.spki
            leaf = read_certificate(signed)
            assert (leaf.serial, leaf.not_after) == (certified.serial, certified.window.not_after)
            assert leaf.names.uris == (str(one),) and leaf.names.dns == ("cart.example.org",)
            assert leaf.authority_key_id == signer.issuer.subject_key_id
            path = validate_x509((signed, *signer.chain), made.bundle, made.clock.unix())
            assert path.authority.subject_key_id == signer.authority_id
        assert await signer.sign([]) == []

    run(tmp_path, origin, test)


@ORIGINS
def test_a_certificate_of_one_order_is_none_of_another(tmp_path: Path, origin: Origin) -> None:
    async def test(made: Estate, pki: Any) -> None:
        signer = made.authority.active().x509
        first, second = (
            signer.order(request(made, SpiffeId.of(DOMAIN, "workload", name)), CSR) for name in "ab"
        )
        signed, _ = await signer.sign([first, second])
        assert isinstance(signed, bytes)
        for wrong in (signed[:-1], signed + b"\x00", b"", signed[:-1] + bytes((signed[-1] ^ 1,))):
            with pytest.raises(GatehouseError):
                # The last byte is the signature's, which is verified for a sample of our own ones.
                signer.check(wrong, second)
        with pytest.raises(GatehouseError):
            signer.check(signed, second)

    run(tmp_path, origin, test)


@ORIGINS
def test_what_can_not_be_certified_is_not_ordered_or_not_signed(tmp_path: Path, origin: Origin) -> None:
    async def test(made: Estate, pki: Any) -> None:
        signer = made.authority.active().x509
        pki.allowed = lambda order: order.spiffe_id.has_path
        with pytest.raises(InvalidInput):
            order = signer.order(request(made, DOMAIN.id), CSR)
            (outcome,) = await signer.sign([order])
            raise outcome if isinstance(outcome, InvalidInput) else InvalidInput(str(outcome))

    run(tmp_path, origin, test)


@ORIGINS
def test_tokens_and_self_tests_need_nobody(tmp_path: Path, origin: Origin) -> None:
    async def test(made: Estate, pki: Any) -> None:
        pki.sealed = True
        now = made.clock.unix()
        (token,) = await made.authority.sign_jwt([JwtRequest(ID, ("db",), now, now + 300)])
        assert parse_and_verify(token.token, "db", {DOMAIN: made.bundle}, now).spiffe_id == ID
        (svid,) = await made.authority.sign_x509([request(made)])
        assert verify_x509(svid.chain, made.bundle, now) == ID

    run(tmp_path, origin, test)


@ORIGINS
def test_a_state_that_can_not_sign_changes_nothing(tmp_path: Path, origin: Origin) -> None:
    async def test(made: Estate, pki: Any) -> None:
        slot = made.state.x509[0]
        lost = replace(slot, authority_id="f" * 40, issuing=replace(slot.issuing, key_id="x509-" + "0" * 32))
        before = made.authority.status
        with pytest.raises(NotFound):
            made.authority.reload(replace(made.state, x509=(lost,)))
        assert made.authority.status == before
        assert verify_x509((await made.leaf()).chain, made.bundle, made.clock.unix()) == ID

    run(tmp_path, origin, test)


@ORIGINS
def test_nobody_signs_without_an_active_authority(tmp_path: Path, origin: Origin) -> None:
    async def test(made: Estate, pki: Any) -> None:
        made.authority.reload(AuthorityState(DOMAIN))
        assert made.authority.status.signer == "nobody"
        with pytest.raises(Unavailable, match="no authority is active"):
            made.authority.active()
        with pytest.raises(Unavailable):
            await made.leaf()

    run(tmp_path, origin, test)


@ORIGINS
def test_a_snapshot_signs_on_beside_its_successor(tmp_path: Path, origin: Origin) -> None:
    async def test(made: Estate, pki: Any) -> None:
        before = made.authority.active().x509
        if origin is Origin.EMBEDDED:
            slot = await made.lifecycle.prepare(Kind.X509)
            await made.lifecycle.activate(Kind.X509, slot.authority_id)
        else:
            pki.default = pki.add_root("root-2")
            for seconds in (61, 1000):
                made.clock.advance(seconds)
                await made.lifecycle.tick()
        assert made.authority.active().x509.authority_id != before.authority_id
        order = before.order(request(made), CSR)
        (signed,) = await before.sign([order])
        assert isinstance(signed, bytes) and before.check(signed, order).spiffe_id == ID
        assert verify_x509((signed, *before.chain), made.bundle, made.clock.unix()) == ID

    run(tmp_path, origin, test)


@pytest.mark.parametrize("after", list(Origin))
@ORIGINS
def test_the_settings_may_change_at_a_restart(tmp_path: Path, origin: Origin, after: Origin) -> None:
    """Whoever signed before, whoever shall sign: at each moment every agent's bundle verifies every leaf."""

    async def test(made: Estate, pki: Any) -> None:
        old = await made.leaf()
        held, agents_have_it = made.bundle, False
        lifecycle = _restarted(made, pki, after, lambda: agents_have_it)
        for minute in range(0, 60, 5):
            await lifecycle.tick()
            svid = await made.leaf()
            assert verify_x509(svid.chain, held, made.clock.unix()) == ID, "by a bundle that lags"
            made.clock.advance(300)
            if minute == 40:
                held, agents_have_it = made.bundle, True
        await lifecycle.tick()
        svid = await made.leaf()
        now = made.clock.unix()
        for one in (old, svid):
            assert verify_x509(one.chain, made.bundle, now) == ID
        ours = {Origin.EMBEDDED: True}
        moved = ours.get(origin, False) != ours.get(after, False)
        assert (svid.authority_id != old.authority_id) is moved
        active = made.state.active_x509
        assert active is not None and (active.issuing.upstream is None) is ours.get(after, False)
        assert [slot.status for slot in made.state.x509] == [Status.OLD] * moved + [Status.ACTIVE]

    run(tmp_path, origin, test)


def _restarted(made: Estate, pki: Any, origin: Origin, confirmed: Callable[[], bool]) -> AuthorityLifecycle:
    """The management process with other settings, over the same store and keys."""
    ttl = standby_ttl_seconds(DAY) if origin is Origin.VAULT_LEAF else 7 * DAY
    lifetimes = Lifetimes(issuing_ttl_seconds=ttl, origin=origin)
    maker: Any = Maker(made.keys, DOMAIN, lifetimes, random_bytes=os.urandom)
    if origin is not Origin.EMBEDDED:
        maker = VaultMaker(pki, made.keys, maker, DOMAIN, lifetimes, made.clock, random_bytes=os.urandom)
    made.use(origin)

    async def confirmed_by_all(sequence: int) -> bool:
        return confirmed()

    async def changed(state: AuthorityState) -> None:
        made.states.append(state)
        made.authority.reload(state)

    assert isinstance(made.keys, MemoryKeyManager)
    return AuthorityLifecycle(
        made.store, made.keys, maker, lifetimes, made.clock, confirmed=confirmed_by_all, changed=changed
    )
