"""The life of what signs over a Vault: standby, keys of tokens, roots and intermediates that change there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from vault_estate import DAY, HOUR, ID, OTHERS, Estate, run, verify
from vault_pki import FakePki

from control_plane.authority.schedule import Prepare, RenewIssuing
from control_plane.authority.state import Kind, Status
from control_plane.core.certificate import read_certificate
from control_plane.core.errors import (
    FailedPrecondition,
    GatehouseError,
    PeerMisbehaved,
    Unavailable,
)
from control_plane.core.svid import validate_x509


@pytest.mark.parametrize("seconds", [-300, 300])
def test_a_clock_that_is_off_by_five_minutes_stops_nothing(tmp_path: Path, seconds: int) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        pki.clock_error_seconds = seconds
        for _ in range(2):
            for result in await made.issue(*OTHERS):
                if not isinstance(result, PeerMisbehaved):
                    verify(made, result)
        svid = await made.leaf()
        verify(made, svid)
        if seconds > 0:
            assert "clock is ahead" in made.authority.status.last_error
        else:
            assert svid.chain[0] in pki.leaves

    run(tmp_path, test)


def test_the_standby_is_replaced_every_twenty_hours_and_leaves_no_keys_behind(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        first = made.state.x509[0].issuing
        assert first.not_after - made.clock.unix() == 96 * HOUR
        made.clock.advance(20 * HOUR - 60)
        assert await made.lifecycle.tick() == []
        made.clock.advance(120)
        assert [type(step) for step in await made.lifecycle.tick()] == [RenewIssuing]
        second = made.state.x509[0].issuing
        assert second.not_after - made.clock.unix() == 96 * HOUR and second != first
        made.clock.advance(24 * HOUR)
        pki.sealed = True
        keys = made.keys.key_ids()
        for _ in range(20):
            with pytest.raises(Unavailable, match="sealed"):
                await made.lifecycle.tick()
            made.clock.advance(600)
        assert made.keys.key_ids() == keys
        assert made.state.x509[0].issuing == second

    run(tmp_path, test)


def test_token_keys_rotate_while_vault_is_away(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        pki.sealed = True
        made.clock.advance(6 * DAY)
        with pytest.raises(Unavailable):
            await made.lifecycle.tick()
        assert [slot.status for slot in made.state.jwt] == [Status.ACTIVE, Status.PREPARED]

    run(tmp_path, test)


def test_a_new_root_in_vault_is_published_confirmed_and_then_signs(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        lagging = made.bundle
        old = made.state.x509[0].authority_id
        have_it: list[bool] = []
        made.confirmed = lambda sequence: bool(have_it)
        pki.default = pki.add_root("root-2")
        made.clock.advance(61)
        assert [type(step) for step in await made.lifecycle.tick()] == [Prepare]
        assert len(made.bundle.x509_authorities) == 2
        for _ in range(10):
            svid = await made.leaf()
            assert svid.authority_id == old, "the new default doesn't sign before its bundle is everywhere"
            assert validate_x509(svid.chain, lagging, made.clock.unix()).spiffe_id == ID
            made.clock.advance(300)
            await made.lifecycle.tick()
        have_it.append(True)
        await made.lifecycle.tick()
        svid = await made.leaf()
        assert svid.authority_id != old and svid.chain[0] in pki.leaves
        verify(made, svid)
        pki.sealed = True
        standby = await made.leaf()
        verify(made, standby)
        assert standby.authority_id == svid.authority_id, "the standby has changed with it"
        pki.sealed = False

        pki.default = pki.root  # and back again
        made.clock.advance(61)
        await made.lifecycle.tick()
        assert [slot.status for slot in made.state.x509] == [Status.ACTIVE, Status.PREPARED]
        made.clock.advance(1000)
        await made.lifecycle.tick()
        back = made.state.active_x509
        assert back is not None and back.authority_id == old
        assert len(made.state.x509) == 2 and len(made.bundle.x509_authorities) == 2

    run(tmp_path, test)


@pytest.mark.parametrize("sealed", [False, True])
def test_a_revoked_root_takes_our_intermediate_in_vault_with_it(tmp_path: Path, sealed: bool) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        old = made.state.x509[0]
        pki.default = pki.add_root("root-2")
        made.clock.advance(61)
        await made.lifecycle.tick()
        made.clock.advance(1000)
        await made.lifecycle.tick()
        await made.lifecycle.taint(Kind.X509, old.authority_id)
        pki.sealed = sealed
        await made.lifecycle.revoke(Kind.X509, old.authority_id)
        assert [one.certificate for one in made.bundle.x509_authorities] == [pki.default.der]
        serial = read_certificate(old.issuing.certificate).serial
        assert (pki.revoked, pki.rotations) == (([], 0) if sealed else ([serial], 1))

    run(tmp_path, test)


def test_another_issuer_below_the_same_root_changes_no_bundle(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        bundle = made.bundle
        pki.default = pki.add_intermediate("middle", pki.root)
        made.clock.advance(61)
        assert [type(step) for step in await made.lifecycle.tick()] == [RenewIssuing]
        svid = await made.leaf()
        verify(made, svid)
        assert svid.chain[1:] == (pki.default.der,)
        assert made.bundle.x509_authorities == bundle.x509_authorities

    run(tmp_path, test)


def test_an_issuer_that_is_gone_from_vault_hands_over(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        pki.issuers.clear()
        (refused,) = await made.issue()
        assert isinstance(refused, FailedPrecondition)
        await made.authority.look()
        verify(made, await made.leaf())

    run(tmp_path, test)


def cut_short(pki: FakePki) -> None:
    pki.max_ttl_seconds = 32 * DAY // 10


def short_issuer(pki: FakePki) -> None:
    pki.default = pki.add_root("short", ttl_seconds=2 * DAY)


def no_room(pki: FakePki) -> None:
    pki.default = pki.add_intermediate("bottom", pki.root, path_length=0)


def other_certificate(pki: FakePki) -> None:
    pki.answer = lambda chain: chain[1:]


@pytest.mark.parametrize(
    ("setup", "kind", "needle"),
    [
        (cut_short, FailedPrecondition, "69120 s earlier (the longest TTL of mount or issuer)"),
        (short_issuer, FailedPrecondition, "its issuer ends at"),
        (no_room, PeerMisbehaved, "path length is 0"),
        (other_certificate, PeerMisbehaved, "public key isn't ours"),
        (lambda pki: setattr(pki, "constraint", False), FailedPrecondition, "isn't bound to the URIs"),
        (lambda pki: setattr(pki, "clock_error_seconds", 4000), FailedPrecondition, "clock is ahead"),
        (lambda pki: setattr(pki, "sealed", True), Unavailable, "sealed"),
    ],
)
def test_an_intermediate_that_is_not_what_is_needed_is_not_taken(
    tmp_path: Path, setup: Any, kind: type[GatehouseError], needle: str
) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        raise AssertionError("it was taken")

    with pytest.raises(kind) as caught:
        run(tmp_path, test, setup)
    assert needle in str(caught.value)


def test_a_first_start_without_vault_says_what_the_outage_began_with(tmp_path: Path) -> None:
    def setup(pki: FakePki) -> None:
        failures = iter([Unavailable("connection refused"), Unavailable("nobody asks now")])

        async def issuer() -> Any:
            raise next(failures)

        pki.issuer = issuer  # type: ignore[method-assign]

    async def test(made: Estate, pki: FakePki) -> None:
        raise AssertionError("it started")

    with pytest.raises(Unavailable, match="below Vault's root: connection refused"):
        run(tmp_path, test, setup)


def test_the_constraint_can_be_left_out(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        assert read_certificate(made.state.x509[0].issuing.certificate).name_constraints is None

    run(tmp_path, test, lambda pki: setattr(pki, "constraint", False), constrain_uris=False)


def test_the_operators_prepare_says_that_vault_has_no_other_root(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        with pytest.raises(FailedPrecondition, match="let Vault sign by another root"):
            await made.lifecycle.prepare(Kind.X509)

    run(tmp_path, test)
