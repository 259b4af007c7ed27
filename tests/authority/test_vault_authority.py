"""Vault signs, and when it doesn't the standby does: hand-over, hand-back, and what is never given out."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from vault_estate import CSR, DAY, DOMAIN, ID, Estate, estate, new_csr
from vault_pki import FakePki, usage

from control_plane.authority.schedule import Origin, Prepare, RenewIssuing
from control_plane.authority.state import Kind, Status
from control_plane.authority.vault import GOOD_LOOKS
from control_plane.core.certificate import read_certificate
from control_plane.core.csr import check_csr
from control_plane.core.errors import (
    FailedPrecondition,
    GatehouseError,
    PeerMisbehaved,
    PermissionDenied,
    Unavailable,
)
from control_plane.core.jwt_svid import parse_and_verify
from control_plane.core.lifetime import Window
from control_plane.core.profile import SigningRequest
from control_plane.core.spiffe_id import SpiffeId
from control_plane.core.svid import X509Svid, validate_x509
from control_plane.identity.issuance import JwtIssue
from control_plane.identity.ledger import X509Intent, X509Record, X509Withheld
from control_plane.runtime.clock import FakeClock

HOUR = 3600
OTHERS = tuple(SpiffeId.of(DOMAIN, "ns", "shop", "sa", f"service-{number}") for number in range(40))


def run(
    directory: Path,
    test: Callable[[Estate, FakePki], Awaitable[None]],
    setup: Callable[[FakePki], None] | None = None,
    **options: Any,
) -> None:
    async def main() -> None:
        clock = FakeClock()
        pki = FakePki(clock)
        if setup is not None:
            setup(pki)
        async with estate(directory, clock, pki, **options) as made:
            await test(made, pki)

    asyncio.run(main())


def is_by_vault(made: Estate, pki: FakePki, svid: X509Svid) -> bool:
    return svid.chain[0] in pki.leaves


def verify(made: Estate, svid: X509Svid) -> None:
    verified = validate_x509(svid.chain, made.bundle, made.clock.unix())
    assert (verified.spiffe_id, verified.serial) == (svid.spiffe_id, svid.serial)
    assert (verified.not_before, verified.not_after) == (svid.not_before, svid.not_after)
    assert svid.authority_id in {one.subject_key_id for one in made.bundle.x509_authorities}


@pytest.mark.parametrize("origin", [Origin.VAULT_LEAF, Origin.VAULT_INTERMEDIATE])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_both_modes_serve_chains_that_verify_at_any_depth(tmp_path: Path, origin: Origin, depth: int) -> None:
    def setup(pki: FakePki) -> None:
        for level in range(depth):
            pki.default = pki.add_intermediate(f"level-{level}", pki.default, path_length=None)

    async def test(made: Estate, pki: FakePki) -> None:
        svids = await made.issue(ID, *OTHERS)
        for svid in svids:
            verify(made, svid)
            assert is_by_vault(made, pki, svid)
            assert len(svid.chain) == 1 + depth
        (token,) = await made.issuer.issue_jwt([JwtIssue(spiffe_id=ID, audience=("db",))])
        parse_and_verify(token.token, "db", {DOMAIN: made.bundle}, made.clock.unix())
        assert made.bundle.x509_authorities[0].certificate == pki.root.der
        pki.sealed = True
        (standby,) = await made.issue()
        verify(made, standby)
        assert len(standby.chain) == 2 + depth and not is_by_vault(made, pki, standby)

    if origin is Origin.VAULT_LEAF:
        run(tmp_path, test, setup)
        return

    async def intermediate(made: Estate, pki: FakePki) -> None:
        issuing = read_certificate(made.state.x509[0].issuing.certificate)
        assert issuing.path_length == 0 and issuing.name_constraints is not None
        assert issuing.not_after - made.clock.unix() == 7 * DAY
        pki.sealed = True  # Vault isn't asked for leaves
        for svid in await made.issue(ID, *OTHERS):
            verify(made, svid)
            assert len(svid.chain) == 2 + depth
        assert {one.mark for one in made.records() if isinstance(one, X509Record)} == {""}

    run(tmp_path, intermediate, setup, origin=origin)


def test_the_ledger_has_the_intent_before_and_the_certificate_after(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        svid = await made.leaf(dns_names=("cart.example.org",))
        intent, record = made.records()
        assert isinstance(intent, X509Intent) and isinstance(record, X509Record)
        asked = b"%b\ncart.example.org\n%b" % (str(ID).encode(), CSR)
        assert intent.digest == hashlib.sha256(asked).digest()
        assert intent.serial == 0, "Vault chooses it"
        assert (record.serial, record.not_after, record.mark) == (svid.serial, svid.not_after, "")
        assert record.certificate == svid.chain[0] == pki.leaves[0]
        assert svid.not_after - made.clock.unix() >= 0.96 * DAY - 300

    run(tmp_path, test)


def test_names_of_the_csr_are_ignored(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        svid = await made.leaf(csr=new_csr(uris=("spiffe://example.org/admin", "spiffe://other.org/x")))
        assert read_certificate(svid.chain[0]).names.uris == (str(ID),)

    run(tmp_path, test)


@pytest.mark.parametrize(
    "error",
    [Unavailable("sealed"), PermissionDenied("token revoked"), PeerMisbehaved("HTML")],
)
def test_the_failed_call_itself_is_answered_by_the_standby(tmp_path: Path, error: GatehouseError) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        pki.fault = error
        if isinstance(error, PeerMisbehaved):
            (refused,) = await made.issue()
            assert refused is error, "what Vault answered wrongly is raised, the next call has the standby"
        svids = await made.issue(ID, *OTHERS)
        for svid in svids:
            verify(made, svid)
            assert not is_by_vault(made, pki, svid)
        records = [one for one in made.records() if isinstance(one, X509Record)]
        assert {one.mark for one in records} == {"standby"} and len(records) == len(svids)
        assert all(one.authority_id == made.state.x509[0].authority_id for one in records)
        intents = [one for one in made.records() if isinstance(one, X509Intent)]
        assert {one.serial for one in records} <= {one.serial for one in intents}
        await made.authority.look()
        (switch,) = made.switches
        assert (switch.mark, switch.reason) == ("standby", str(error))
        status = made.authority.status
        assert status.signer == "standby" and status.last_error == str(error)
        calls = pki.calls
        await made.issue(*OTHERS)
        assert pki.calls == calls, "nobody waits for Vault any more"

    run(tmp_path, test)


def test_a_sealed_vault_is_noticed_before_anybody_waits_for_it(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        await made.authority.look()
        assert made.authority.status.signer == "vault"
        pki.sealed = True
        await made.authority.look()
        assert made.authority.status.signer == "standby"
        assert "it is sealed" in made.switches[0].reason

    run(tmp_path, test)


def test_one_unanswered_look_is_no_outage(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        for silent, signer in ((True, "vault"), (False, "vault"), (True, "vault"), (True, "standby")):
            pki.hangs = silent
            await made.authority.look()
            assert made.authority.status.signer == signer

    run(tmp_path, test)


def test_half_a_batch_is_finished_by_the_standby(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        def change(order: Any, facts: Any) -> None:
            if len(pki.leaves) == 20:
                pki.sealed = True

        pki.change = change
        svids = await made.issue(*OTHERS)
        by_vault = [svid for svid in svids if is_by_vault(made, pki, svid)]
        assert 20 <= len(by_vault) < len(svids)
        for svid, wanted in zip(svids, OTHERS, strict=True):
            verify(made, svid)
            assert svid.spiffe_id == wanted
        marks = {one.serial: one.mark for one in made.records() if isinstance(one, X509Record)}
        assert marks == {s.serial: "" if s in by_vault else "standby" for s in svids}

    run(tmp_path, test)


def test_who_waits_for_a_vault_that_hangs_is_freed_by_the_first_who_fails(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        pki.hangs = True
        waiting = asyncio.ensure_future(made.issue(*OTHERS))
        for _ in range(10):
            await asyncio.sleep(0)
        made.authority._failed(Unavailable("too slow"))
        svids = await asyncio.wait_for(waiting, 10)
        assert [svid.spiffe_id for svid in svids] == list(OTHERS)
        for svid in svids:
            verify(made, svid)

    run(tmp_path, test)


def test_calls_to_vault_are_bounded(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        await asyncio.gather(made.issue(*OTHERS), made.issue(*OTHERS))
        assert 2 <= pki.most_at_once <= 8

    run(tmp_path, test)


def test_vault_signs_again_after_good_looks_and_a_rehearsal(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        pki.sealed = True
        await made.leaf()
        for _ in range(5):
            await made.authority.look()
        assert made.authority.status.signer == "standby"
        pki.sealed, pki.fault = False, None
        for _ in range(GOOD_LOOKS - 1):
            await made.authority.look()
        assert made.authority.status.signer == "standby" and not pki.leaves
        await made.authority.look()
        assert made.authority.status.signer == "vault"
        assert [switch.mark for switch in made.switches] == ["standby", ""]
        rehearsed = pki.leaves[0]
        assert rehearsed in {one.certificate for one in made.records() if isinstance(one, X509Record)}
        svid = await made.leaf()
        assert is_by_vault(made, pki, svid)

    run(tmp_path, test)


def test_a_vault_that_is_healthy_and_signs_wrongly_does_not_come_back(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        pki.sealed = True
        await made.leaf()
        pki.sealed = False
        pki.leaf_max_ttl_seconds = HOUR
        for _ in range(4 * GOOD_LOOKS):
            await made.authority.look()
        status = made.authority.status
        assert status.signer == "standby" and "raise max_ttl of the role" in status.last_error
        pki.leaf_max_ttl_seconds = DAY
        for _ in range(GOOD_LOOKS):
            await made.authority.look()
        assert made.authority.status.signer == "vault"

    run(tmp_path, test)


def test_who_goes_away_again_at_once_has_to_be_good_for_longer(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        needed = []
        for _ in range(3):
            pki.sealed = True
            verify(made, await made.leaf())
            pki.sealed = False
            looks = 0
            while made.authority.status.signer == "standby":
                await made.authority.look()
                looks += 1
            needed.append(looks)
        assert needed == [GOOD_LOOKS, 2 * GOOD_LOOKS, 4 * GOOD_LOOKS]

    run(tmp_path, test)


def test_leaves_end_with_the_standby_and_then_nothing_is_issued(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        pki.sealed = True
        end = made.state.x509[0].issuing.not_after
        made.clock.advance(90 * HOUR)
        svid = await made.leaf()
        assert end - 0.04 * DAY <= svid.not_after <= end
        verify(made, svid)
        made.clock.advance(6 * HOUR - 30)
        with pytest.raises(Unavailable, match="standby CA has 30 s left"):
            await made.issue()
        pki.sealed = False
        await made.authority.look()
        verify(made, await made.leaf())

    run(tmp_path, test)


def wrong_key(order: Any, facts: dict[str, Any]) -> None:
    facts["key"] = ec.generate_private_key(ec.SECP256R1()).public_key()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"uris": ["spiffe://example.org/ns/shop/sa/*"]}, "URI names"),
    ({"uris": [str(ID), "spiffe://example.org/admin"]}, "URI names"),
    ({"uris": [f"{ID},spiffe://example.org/admin"]}, "URI names"),
    ({"uris": []}, "URI names"),
    ({"uris": ["spiffe://EXAMPLE.org/ns/shop/sa/cart"]}, "URI names"),
    ({"dns": ["evil.example"]}, "DNS names"),
    ({"common_name": "cart.example.org"}, "common name"),
    ({"ca": True}, "it is a CA"),
    ({"usage": usage(digital_signature=True, key_agreement=True)}, "key usage"),
    ({"usage": usage(digital_signature=True, key_cert_sign=True)}, "key usage"),
    ({"usage": False}, "key usage"),
    ({"critical": False}, "key usage"),
    ({"client": False}, "extended key usage"),
    ({"serial": 2**63 - 1}, "has 63 bits, at least 64"),
    ({"begins_in": 60}, "60 s from now: Vault's clock is ahead"),
    ({"begins_in": -3600}, "3600 s ago"),
    ({"ends_in": HOUR}, "raise max_ttl of the role"),
    ({"ends_in": 2 * DAY}, "after what was asked for"),
]


@pytest.mark.parametrize(("changes", "needle"), WRONG)
def test_a_leaf_that_says_anything_else_is_withheld_recorded_and_raised(
    tmp_path: Path, changes: dict[str, Any], needle: str
) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        pki.change = lambda order, facts: facts.update(changes)
        (refused,) = await made.issue()
        assert isinstance(refused, PeerMisbehaved) and needle in refused.message
        (withheld,) = [one for one in made.records() if isinstance(one, X509Withheld)]
        assert withheld.certificate == pki.leaves[0] and needle in withheld.reason
        assert not [one for one in made.records() if isinstance(one, X509Record)]
        verify(made, await made.leaf())
        assert made.authority.status.signer == "standby", "and issuing goes on without it"

    run(tmp_path, test)


def test_a_leaf_by_another_key_or_for_another_key_is_withheld(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        stranger = pki.add_root("stranger")
        twin = pki.add_root("twin")
        twin.certificate = pki.root.certificate
        for change, needle in (
            (wrong_key, "public key isn't"),
            (lambda order, facts: facts.update(signer=stranger), "signature isn't by"),
            (lambda order, facts: facts.update(signer=twin), "signature isn't by"),
        ):
            pki.change = change
            (refused,) = await made.issue()
            assert isinstance(refused, PeerMisbehaved) and needle in refused.message
            pki.change = None
            for _ in range(64):
                await made.authority.look()
            assert made.authority.status.signer == "vault"

    run(tmp_path, test)


@pytest.mark.parametrize(
    "answer",
    [
        lambda chain: (),
        lambda chain: (b"\x30\x03\x02\x01\x01",),
        lambda chain: (b"",),
        lambda chain: (chain[0] + b"\x00",),
        lambda chain: (chain[0][:-1],),
        lambda chain: (b"\x00" * 100_000,),
        lambda chain: chain[::-1],
    ],
)
def test_answers_that_are_no_leaf_are_refused(tmp_path: Path, answer: Any) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        pki.answer = answer
        (refused,) = await made.issue()
        assert isinstance(refused, PeerMisbehaved)
        verify(made, await made.leaf())

    run(tmp_path, test)


def test_what_is_listed_above_a_leaf_does_not_matter(tmp_path: Path) -> None:
    """Duplicates, the root, strangers, any order: the chain that is served is the one that was checked."""

    async def test(made: Estate, pki: FakePki) -> None:
        stranger = pki.add_root("stranger").der
        pki.answer = lambda chain: (chain[0], stranger, *chain[::-1], *chain)
        svid = await made.leaf()
        verify(made, svid)
        assert is_by_vault(made, pki, svid) and svid.chain[1:] == ()

    run(tmp_path, test)


def test_one_refused_name_is_that_callers_affair(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        pki.allowed = lambda order: "/sa/service-7" not in str(order.spiffe_id)
        results = await made.issue(*OTHERS)
        refused = [one for one in results if isinstance(one, GatehouseError)]
        assert len(refused) == 1 and isinstance(refused[0], FailedPrecondition)
        await made.authority.look()
        assert made.authority.status.signer == "vault"
        rehearsals = len(pki.leaves)
        await made.authority.look()
        assert len(pki.leaves) == rehearsals, "one suspicion, one rehearsal"

    run(tmp_path, test)


def test_a_role_that_refuses_everything_is_an_absence(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        pki.allowed = lambda order: False
        (refused,) = await made.issue()
        assert isinstance(refused, FailedPrecondition)
        await made.authority.look()
        assert made.authority.status.signer == "standby"
        assert "not allowed" in made.switches[0].reason
        verify(made, await made.leaf())

    run(tmp_path, test)


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
            assert is_by_vault(made, pki, svid)

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
        assert svid.authority_id != old and is_by_vault(made, pki, svid)
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


def test_no_spoilt_leaf_passes_and_none_brings_the_check_down(tmp_path: Path) -> None:
    async def test(made: Estate, pki: FakePki) -> None:
        signer = made.authority.active().x509
        svid = await made.leaf()
        now = made.clock.unix()
        request = SigningRequest(ID, check_csr(CSR).spki, 0, Window(now, svid.not_after))
        order, good = signer.order(request, CSR), svid.chain[0]
        assert signer.check(good, order).serial == svid.serial
        chance = random.Random(5)
        for _ in range(400):
            spoilt = bytearray(good)
            for _ in range(chance.choice((1, 1, 2, 8))):
                spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
            cut = bytes(spoilt[: chance.choice((len(spoilt), chance.randrange(len(spoilt))))])
            if cut == good:
                continue
            with pytest.raises(PeerMisbehaved):
                signer.check(cut, order)

    run(tmp_path, test)
