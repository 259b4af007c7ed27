"""Authorities that live: made, rotated, commanded, and never a certificate that a peer would refuse."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from control_plane.authority import lifecycle
from control_plane.authority.disk_keys import DiskKeyManager
from control_plane.authority.embedded import EmbeddedAuthority
from control_plane.authority.keys import MemoryKeyManager
from control_plane.authority.lifecycle import ORPHAN_SECONDS, AuthorityLifecycle
from control_plane.authority.make import Maker
from control_plane.authority.memory_store import MemoryAuthorityStore
from control_plane.authority.ports import KeyPurpose, KeyType
from control_plane.authority.schedule import Activate, Lifetimes, Prepare, RenewIssuing
from control_plane.authority.state import AuthorityState, Kind, Status, bundle_of
from control_plane.core.bundle import Bundle
from control_plane.core.certificate import read_certificate
from control_plane.core.errors import (
    Bug,
    FailedPrecondition,
    GatehouseError,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from control_plane.core.jwk import spki_of
from control_plane.core.jwt_svid import JwtRequest, parse_and_verify
from control_plane.core.lifetime import leaf_window
from control_plane.core.profile import SigningRequest
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.core.svid import X509Svid, verify_x509
from control_plane.core.tbs import new_serial
from control_plane.runtime.clock import FakeClock

DOMAIN = TrustDomain("example.org")
ID = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
SPKI = spki_of(ec.generate_private_key(ec.SECP256R1()).public_key())
DAY = 86400


@dataclass
class World:
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    keys: Any = field(default_factory=lambda: MemoryKeyManager(os.urandom))
    clock: FakeClock = field(default_factory=FakeClock)
    store: Any = field(default_factory=lambda: MemoryAuthorityStore(DOMAIN))
    confirmed: Callable[[int], bool] = lambda sequence: True
    maker_options: dict[str, Any] = field(default_factory=dict)
    states: list[AuthorityState] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.authority = EmbeddedAuthority(self.keys)
        maker = Maker(self.keys, DOMAIN, self.lifetimes, random_bytes=os.urandom, **self.maker_options)

        async def confirmed(sequence: int) -> bool:
            return self.confirmed(sequence)

        async def changed(state: AuthorityState) -> None:
            self.states.append(state)
            self.authority.reload(state)

        self.lifecycle = AuthorityLifecycle(
            self.store, self.keys, maker, self.lifetimes, self.clock, confirmed=confirmed, changed=changed
        )

    @property
    def state(self) -> AuthorityState:
        return self.states[-1]

    @property
    def bundle(self) -> Bundle:
        return bundle_of(self.state)

    async def leaf(self) -> X509Svid:
        serial = new_serial(os.urandom)
        end = self.authority.active().x509.issuer.not_after
        ttl = self.lifetimes.leaf_ttl_seconds
        window = leaf_window(ID, serial, self.clock.unix(), ttl, issuer_not_after=end)
        (svid,) = await self.authority.sign_x509([SigningRequest(ID, SPKI, serial, window)])
        return svid

    async def token(self) -> str:
        now = self.clock.unix()
        (token,) = await self.authority.sign_jwt([JwtRequest(ID, ("db",), now, now + 300)])
        return token.token


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    asyncio.run(main())


def test_the_first_look_makes_everything() -> None:
    async def test() -> None:
        world = World()
        done = await world.lifecycle.tick()
        assert [type(step) for step in done] == [Prepare, Activate, Prepare, Activate]
        svid = await world.leaf()
        assert verify_x509(svid.chain, world.bundle, world.clock.unix()) == ID
        claims = parse_and_verify(await world.token(), "db", {DOMAIN: world.bundle}, world.clock.unix())
        assert claims.spiffe_id == ID
        assert svid.authority_id == world.bundle.x509_authorities[0].subject_key_id
        assert await world.lifecycle.tick() == []
        assert len(world.keys.key_ids()) == 3

    run(test)


def test_the_log_says_each_step_in_words_and_not_as_code(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[dict[str, Any]] = []
    log = SimpleNamespace(info=lambda event, **fields: lines.append(fields))
    monkeypatch.setattr(lifecycle, "_log", log)

    async def test() -> None:
        world = World()
        await world.lifecycle.tick()
        first, second = lines[:2]
        assert (first["step"], first["kind"], first["reason"]) == ("Prepare", "x509", "there is none")
        assert second["authority_id"] == world.bundle.x509_authorities[0].subject_key_id
        assert "<" not in str(first) + str(second)

    run(test)


def test_another_process_signs_by_the_same_state_and_keys(tmp_path: Path) -> None:
    async def test() -> None:
        world = World(keys=DiskKeyManager(tmp_path, None, random_bytes=os.urandom))
        await world.lifecycle.tick()
        other = EmbeddedAuthority(DiskKeyManager(tmp_path, None, random_bytes=os.urandom), world.state)
        assert other.active().x509.authority_id == world.authority.active().x509.authority_id

    run(test)


@pytest.mark.parametrize("key_type", [KeyType.EC_P384, KeyType.RSA_2048])
def test_other_kinds_of_authority_keys(key_type: KeyType) -> None:
    async def test() -> None:
        world = World(maker_options={"x509_key_type": key_type, "jwt_key_type": key_type})
        await world.lifecycle.tick()
        assert verify_x509((await world.leaf()).chain, world.bundle, world.clock.unix()) == ID
        parse_and_verify(await world.token(), "db", {DOMAIN: world.bundle}, world.clock.unix())

    run(test)


def test_an_ed25519_key_cannot_sign_tokens() -> None:
    async def test() -> None:
        world = World(maker_options={"jwt_key_type": KeyType.ED25519})
        with pytest.raises(GatehouseError):
            await world.lifecycle.tick()

    run(test)


def test_the_uri_constraint_can_be_left_out() -> None:
    async def test() -> None:
        for constrained in (True, False):
            world = World(maker_options={"constrain_uris": constrained})
            await world.lifecycle.tick()
            issuer = world.authority.active().x509.issuer
            assert (issuer.name_constraints is not None) is constrained

    run(test)


def test_years_of_rotation_without_a_refused_svid() -> None:
    """Peers hold a bundle that is as old as the confirmation allows; every leaf must verify by it at once and
    until its end, and by whatever bundle is current then."""

    async def test() -> None:
        lifetimes = Lifetimes(
            root_ttl_seconds=28 * DAY,
            issuing_ttl_seconds=6 * DAY,
            leaf_ttl_seconds=DAY,
            jwt_key_ttl_seconds=2 * DAY,
        )
        world = World(lifetimes=lifetimes)
        held: list[Bundle] = []

        def confirmed(sequence: int) -> bool:
            return bool(held) and held[0].sequence >= sequence

        world.confirmed = confirmed
        await world.lifecycle.tick()
        held.append(world.bundle)
        outstanding: list[X509Svid] = []
        roots, issuers = set(), set()
        for hour in range(0, 100 * 24, 3):
            now = world.clock.unix()
            svid = await world.leaf()
            roots.add(svid.authority_id)
            issuers.add(svid.chain[1])
            assert verify_x509(svid.chain, held[0], now) == ID, "a peer with the confirmed bundle"
            assert svid.not_after - now >= 0.96 * DAY
            parse_and_verify(await world.token(), "db", {DOMAIN: held[0]}, now)
            outstanding = [one for one in outstanding if one.not_after >= now] + [svid]
            for one in outstanding:
                assert verify_x509(one.chain, world.bundle, now) == ID, "still valid, still trusted"
            if hour % 12 == 0:
                held[0] = world.bundle  # agents fetch late
            world.clock.advance(3 * 3600)
            await world.lifecycle.tick()
        assert len(roots) >= 4 and len(issuers) >= 25
        assert len(world.state.x509) <= 3 and len(world.state.jwt) <= 4
        assert len(world.keys.key_ids()) <= 2 * len(world.state.x509) + len(world.state.jwt) + 1

    run(test)


def test_a_management_process_that_was_away_catches_up() -> None:
    async def test() -> None:
        world = World()
        await world.lifecycle.tick()
        for away in (3 * DAY, 30 * DAY, 400 * DAY, 1000 * DAY):
            world.clock.advance(away)
            await world.lifecycle.tick()
            svid = await world.leaf()
            assert verify_x509(svid.chain, world.bundle, world.clock.unix()) == ID

    run(test)


def test_a_clock_that_was_wrong_at_the_first_start() -> None:
    async def test() -> None:
        world = World()
        await world.lifecycle.tick()
        world.clock.jump(-600)
        await world.lifecycle.tick()
        assert verify_x509((await world.leaf()).chain, world.bundle, world.clock.unix()) == ID
        world.clock.jump(1200)
        assert verify_x509((await world.leaf()).chain, world.bundle, world.clock.unix()) == ID

    run(test)


def test_the_operators_commands_in_order() -> None:
    async def test() -> None:
        world = World()
        await world.lifecycle.tick()
        before = await world.leaf()
        prepared = await world.lifecycle.prepare(Kind.X509)
        assert prepared.status is Status.PREPARED and len(world.bundle.x509_authorities) == 2
        assert (await world.leaf()).authority_id == before.authority_id
        await world.lifecycle.activate(Kind.X509, prepared.authority_id)
        after = await world.leaf()
        assert after.authority_id == prepared.authority_id
        with pytest.raises(FailedPrecondition):
            await world.lifecycle.revoke(Kind.X509, before.authority_id)
        tainted = await world.lifecycle.taint(Kind.X509, before.authority_id)
        assert tainted.tainted and verify_x509(before.chain, world.bundle, world.clock.unix()) == ID
        revoked = await world.lifecycle.revoke(Kind.X509, before.authority_id)
        assert revoked.revoked
        with pytest.raises(Unauthenticated):
            verify_x509(before.chain, world.bundle, world.clock.unix())
        assert verify_x509(after.chain, world.bundle, world.clock.unix()) == ID
        with pytest.raises(NotFound):
            await world.lifecycle.taint(Kind.JWT, "nobody")

    run(test)


def test_a_faster_colleague_wins_and_nothing_breaks() -> None:
    async def test() -> None:
        world = World()
        await world.lifecycle.tick()
        real = world.store.save
        raced = False

        async def save(version: int, state: AuthorityState) -> int:
            nonlocal raced
            if not raced:
                raced = True
                _, current = await world.store.load()
                await real(version, current)
            result: int = await real(version, state)
            return result

        world.store.save = save
        with pytest.raises(FailedPrecondition, match="somebody else"):
            await world.lifecycle.prepare(Kind.JWT)
        prepared = await world.lifecycle.prepare(Kind.JWT)
        assert prepared.status is Status.PREPARED

    run(test)


def test_a_crash_before_the_state_is_saved_leaves_only_keys_and_they_are_swept() -> None:
    async def test() -> None:
        world = World()
        await world.lifecycle.tick()
        before = world.keys.key_ids()
        real = world.store.save

        async def crash(version: int, state: AuthorityState) -> int:
            raise Unavailable("the database is away")

        world.store.save = crash
        with pytest.raises(Unavailable):
            await world.lifecycle.prepare(Kind.X509)
        world.store.save = real
        assert (await world.store.load())[1] == world.state
        assert len(world.keys.key_ids()) == len(before) + 2
        await world.lifecycle.tick()
        world.clock.advance(ORPHAN_SECONDS - 1)
        await world.lifecycle.tick()
        assert len(world.keys.key_ids()) == len(before) + 2, "another process may still be using them"
        world.clock.advance(2)
        await world.lifecycle.tick()
        assert world.keys.key_ids() == before

    run(test)


def test_keys_for_other_purposes_are_none_of_our_business() -> None:
    async def test() -> None:
        world = World()
        other = [world.keys.create(purpose).key_id for purpose in (KeyPurpose.LOG, KeyPurpose.CACHE)]
        for _ in range(3):
            await world.lifecycle.tick()
            world.clock.advance(ORPHAN_SECONDS)
        assert set(other) <= set(world.keys.key_ids())

    run(test)


def test_replacing_the_issuing_ca_changes_no_bundle() -> None:
    async def test() -> None:
        world = World()
        await world.lifecycle.tick()
        bundle, issuer = world.bundle, world.authority.active().x509.issuer.der
        old = await world.leaf()
        world.clock.advance(3.5 * DAY)
        done = await world.lifecycle.tick()
        assert RenewIssuing in [type(step) for step in done]
        assert world.bundle.x509_authorities == bundle.x509_authorities
        assert world.authority.active().x509.issuer.der != issuer
        assert old.authority_id == (await world.leaf()).authority_id

    run(test)


def test_a_snapshot_signs_on_after_a_newer_one_exists() -> None:
    async def test() -> None:
        world = World()
        await world.lifecycle.tick()
        snapshot = world.authority.active().x509
        prepared = await world.lifecycle.prepare(Kind.X509)
        await world.lifecycle.activate(Kind.X509, prepared.authority_id)
        serial = new_serial(os.urandom)
        window = leaf_window(ID, serial, world.clock.unix(), 3600, issuer_not_after=snapshot.issuer.not_after)
        order = snapshot.order(SigningRequest(ID, SPKI, serial, window), b"")
        (certificate,) = await snapshot.sign([order])
        assert isinstance(certificate, bytes) and snapshot.check(certificate, order) == order.request
        assert verify_x509([certificate, *snapshot.chain], world.bundle, world.clock.unix()) == ID

    run(test)


def test_an_authority_that_fails_its_self_test_is_not_taken() -> None:
    async def test() -> None:
        world = World()
        await world.lifecycle.tick()
        good = world.authority.active()
        slot = world.state.x509[0]
        stranger = world.keys.create(KeyPurpose.X509)
        wrong_key = replace(slot, issuing=replace(slot.issuing, key_id=stranger.key_id))
        away = replace(slot, issuing=replace(slot.issuing, key_id="x509-" + "0" * 32))
        rootless = replace(
            slot, revoked=True, issuing=replace(slot.issuing, certificate=await other_issuing())
        )
        for bad, kind in ((wrong_key, Bug), (away, NotFound), (rootless, Bug)):
            state = replace(world.state, x509=(replace(bad, authority_id="f" * 40),))
            with pytest.raises(kind):
                world.authority.reload(state)
            assert world.authority.active() is good

    async def other_issuing() -> bytes:
        keys = MemoryKeyManager(os.urandom)
        maker = Maker(keys, DOMAIN, Lifetimes(), random_bytes=os.urandom)
        return (await maker.x509(1_800_000_000)).issuing.certificate

    run(test)


def test_nothing_signs_before_something_is_active() -> None:
    authority = EmbeddedAuthority(MemoryKeyManager(os.urandom), AuthorityState(DOMAIN))
    with pytest.raises(Unavailable, match="no authority is active"):
        authority.active()


def test_the_service_survives_a_store_that_is_away_and_stops_when_told() -> None:
    async def test() -> None:
        world = World()
        await world.lifecycle.tick()

        async def away() -> Any:
            raise Unavailable("the database is away")

        world.store.load = away
        stop = asyncio.Event()
        task = asyncio.ensure_future(world.lifecycle.run(stop))
        await asyncio.sleep(0.05)
        assert not task.done()
        stop.set()
        await asyncio.wait_for(task, 5)

    run(test)


def test_certificates_of_authorities_have_the_promised_lives() -> None:
    async def test() -> None:
        world = World()
        await world.lifecycle.tick()
        slot = world.state.x509[0]
        root, issuing = read_certificate(slot.root), read_certificate(slot.issuing.certificate)
        now = world.clock.unix()
        assert root.not_after == slot.not_after == now + 365 * DAY
        assert issuing.not_after == slot.issuing.not_after == now + 7 * DAY
        assert root.not_before == issuing.not_before == now - 3600

    run(test)
