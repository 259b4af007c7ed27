"""Vault signs, and when it doesn't the standby does: hand-over and hand-back."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest
from vault_estate import CSR, DAY, DOMAIN, HOUR, ID, OTHERS, Estate, new_csr, run, verify
from vault_pki import FakePki

from control_plane.authority.schedule import Origin
from control_plane.authority.vault import GOOD_LOOKS
from control_plane.core.certificate import read_certificate
from control_plane.core.errors import (
    GatehouseError,
    PeerMisbehaved,
    PermissionDenied,
    Unavailable,
)
from control_plane.core.jwt_svid import parse_and_verify
from control_plane.identity.issuance import JwtIssue
from control_plane.identity.ledger import X509Intent, X509Record


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
            assert svid.chain[0] in pki.leaves
            assert len(svid.chain) == 1 + depth
        (token,) = await made.issuer.issue_jwt([JwtIssue(spiffe_id=ID, audience=("db",))])
        parse_and_verify(token.token, "db", {DOMAIN: made.bundle}, made.clock.unix())
        assert made.bundle.x509_authorities[0].certificate == pki.root.der
        pki.sealed = True
        (standby,) = await made.issue()
        verify(made, standby)
        assert len(standby.chain) == 2 + depth and standby.chain[0] not in pki.leaves

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
            assert svid.chain[0] not in pki.leaves
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
        by_vault = [svid for svid in svids if svid.chain[0] in pki.leaves]
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
        assert svid.chain[0] in pki.leaves

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
