"""What a Vault answers: what isn't the leaf that was ordered is withheld, and a refusal has its owner."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from vault_estate import CSR, DAY, HOUR, ID, OTHERS, Estate, run, verify
from vault_pki import FakePki, usage

from control_plane.core.csr import check_csr
from control_plane.core.errors import (
    FailedPrecondition,
    GatehouseError,
    PeerMisbehaved,
)
from control_plane.core.lifetime import Window
from control_plane.core.profile import SigningRequest
from control_plane.identity.ledger import X509Record, X509Withheld


def wrong_key(order: Any, facts: dict[str, Any]) -> None:
    facts["key"] = ec.generate_private_key(ec.SECP256R1()).public_key()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"uris": ["spiffe://example.org/ns/shop/sa/*"]}, "URI names"),
    ({"uris": [str(ID), "spiffe://example.org/admin"]}, f"URI names '{ID}', 'spiffe://example.org/admin', "),
    ({"uris": [f"{ID},spiffe://example.org/admin"]}, "URI names"),
    ({"uris": []}, "URI names none, "),
    ({"uris": ["spiffe://EXAMPLE.org/ns/shop/sa/cart"]}, "URI names"),
    ({"dns": ["evil.example"]}, "DNS names 'evil.example' and others none"),
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
        assert svid.chain[0] in pki.leaves and svid.chain[1:] == ()

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
