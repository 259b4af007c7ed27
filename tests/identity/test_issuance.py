"""Issuing: what leaves is recorded, what can't be recorded doesn't leave, wherever it stops."""

import asyncio
import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from control_plane.authority import embedded
from control_plane.authority.embedded import EmbeddedAuthority
from control_plane.authority.keys import MemoryKeyManager
from control_plane.authority.lifecycle import AuthorityLifecycle
from control_plane.authority.make import Maker
from control_plane.authority.memory_store import MemoryAuthorityStore
from control_plane.authority.ports import Order
from control_plane.authority.schedule import Lifetimes
from control_plane.authority.state import bundle_of
from control_plane.core.bundle import Bundle
from control_plane.core.errors import (
    Bug,
    FailedPrecondition,
    GatehouseError,
    InvalidInput,
    ResourceExhausted,
    Unavailable,
)
from control_plane.core.jwt_svid import parse_and_verify
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.core.svid import JwtSvid, X509Svid, validate_x509
from control_plane.identity import issuance
from control_plane.identity.issuance import IssuanceSettings, Issuer, JwtIssue, X509Issue
from control_plane.identity.journal import Journal
from control_plane.identity.journal_reader import read_journals
from control_plane.identity.ledger import JwtRecord, Record, X509Intent, X509Record
from control_plane.runtime.clock import FakeClock

DOMAIN = TrustDomain("example.org")
ID = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
AGENT = SpiffeId.parse("spiffe://example.org/spire/agent/join_token/abc")
P256 = ec.generate_private_key(ec.SECP256R1())


def csr(key: Any = P256, *, uri: str = "", dns: Sequence[str] = ()) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)] if uri else []
    names += [x509.DNSName(name) for name in dns]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


GOOD_CSR = csr()


def item(number: int = 0, **changes: Any) -> X509Issue:
    fields: dict[str, Any] = {
        "spiffe_id": SpiffeId.of(DOMAIN, "workload", str(number)),
        "csr": GOOD_CSR,
        "entry_id": f"entry-{number}",
        "requested_by": AGENT,
    }
    return X509Issue(**{**fields, **changes})


@dataclass
class World:
    issuer: Issuer
    journal: Any
    authority: Any
    bundle: Bundle
    clock: FakeClock
    directory: Path

    def records(self) -> list[Record]:
        return [entry.record for entry in read_journals(self.directory)]

    def recorded(self) -> set[bytes]:
        return {record.certificate for record in self.records() if isinstance(record, X509Record)}


@asynccontextmanager
async def world(directory: Path, **settings: Any) -> AsyncIterator[World]:
    clock = FakeClock()
    keys = MemoryKeyManager(os.urandom)
    store = MemoryAuthorityStore(DOMAIN)
    lifetimes = Lifetimes()
    authority = EmbeddedAuthority(keys)
    maker = Maker(keys, DOMAIN, lifetimes, random_bytes=os.urandom)

    async def confirmed(sequence: int) -> bool:
        return True

    await AuthorityLifecycle(store, keys, maker, lifetimes, clock, confirmed=confirmed).tick()
    _, state = await store.load()
    authority.reload(state)
    journal = Journal(directory, 0, clock)
    await journal.start()
    issuer = Issuer(authority, journal, IssuanceSettings(DOMAIN, **settings), clock, random_bytes=os.urandom)
    try:
        yield World(issuer, journal, authority, bundle_of(state), clock, directory)
    finally:
        await journal.close()


def run(directory: Path, test: Callable[[World], Awaitable[None]], **settings: Any) -> None:
    async def main() -> None:
        async with world(directory, **settings) as made:
            await test(made)

    asyncio.run(main())


def test_a_batch_is_answered_in_order_and_verifies(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        items = [item(number) for number in range(60)]
        svids = await made.issuer.issue_x509(items)
        for wanted, svid in zip(items, svids, strict=True):
            assert isinstance(svid, X509Svid)
            verified = validate_x509(svid.chain, made.bundle, made.clock.unix())
            assert verified.spiffe_id == wanted.spiffe_id == svid.spiffe_id
            assert (verified.serial, verified.not_after) == (svid.serial, svid.not_after)
            assert svid.authority_id == made.bundle.x509_authorities[0].subject_key_id
        assert len({svid.serial for svid in svids if isinstance(svid, X509Svid)}) == 60

    run(tmp_path, test)


def test_each_certificate_has_an_intent_and_a_record(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        (svid,) = await made.issuer.issue_x509([item(7, dns_names=("a.example.org",))])
        assert isinstance(svid, X509Svid)
        intent, record = made.records()
        assert isinstance(intent, X509Intent) and isinstance(record, X509Record)
        signed = x509.load_der_x509_certificate(svid.chain[0]).tbs_certificate_bytes
        assert intent.digest == hashlib.sha256(signed).digest()
        assert intent.serial == record.serial == svid.serial
        assert record.certificate == svid.chain[0]
        assert (record.entry_id, record.requested_by) == ("entry-7", str(AGENT))
        assert (record.authority_id, record.not_after) == (svid.authority_id, svid.not_after)

    run(tmp_path, test)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
)
def test_other_kinds_of_keys(tmp_path: Path, key: Any) -> None:
    async def test(made: World) -> None:
        (svid,) = await made.issuer.issue_x509([item(csr=csr(key))])
        assert isinstance(svid, X509Svid)
        assert validate_x509(svid.chain, made.bundle, made.clock.unix()).serial == svid.serial

    run(tmp_path, test)


def test_one_bad_item_spoils_only_itself(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        bad = [
            item(csr=GOOD_CSR[:-1] + bytes((GOOD_CSR[-1] ^ 1,))),
            item(csr=b""),
            item(spiffe_id=SpiffeId.parse("spiffe://other.org/a")),
            item(spiffe_id=DOMAIN.id),
            item(ttl_seconds=10),
            item(ttl_seconds=25 * 3600),
            item(dns_names=("not a name",)),
        ]
        batch = [entry for one in bad for entry in (one, item(1))]
        results = await made.issuer.issue_x509(batch)
        assert all(isinstance(result, GatehouseError) for result in results[::2])
        assert all(isinstance(result, X509Svid) for result in results[1::2])
        assert len(made.recorded()) == len(bad)

    run(tmp_path, test)


def test_a_ttl_that_does_not_fit_is_refused_with_numbers(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        (long,) = await made.issuer.issue_x509([item(ttl_seconds=86401)])
        assert isinstance(long, FailedPrecondition)
        assert "86401" in long.message and "86400" in long.message

    run(tmp_path, test)


def test_a_leaf_is_never_cut_short_by_its_issuer(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        made.clock.advance(6.5 * 86400)
        (late,) = await made.issuer.issue_x509([item()])
        assert isinstance(late, FailedPrecondition) and "its issuer ends" in late.message
        (short,) = await made.issuer.issue_x509([item(ttl_seconds=3600)])
        assert isinstance(short, X509Svid)

    run(tmp_path, test)


def test_minting_takes_the_names_from_the_request(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        svid = await made.issuer.mint_x509(csr(uri=str(ID), dns=["a.example.org"]), ttl_seconds=600)
        leaf = x509.load_der_x509_certificate(svid.chain[0])
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["a.example.org"]
        assert svid.spiffe_id == ID
        with pytest.raises(InvalidInput):
            await made.issuer.mint_x509(csr())
        with pytest.raises(InvalidInput):
            await made.issuer.mint_x509(csr(uri="spiffe://other.org/a"))

    run(tmp_path, test)


def test_a_key_of_our_own_is_issued_for_the_name_that_we_give(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        svid = await made.issuer.issue_own(
            ID, csr(uri="spiffe://example.org/another"), dns_names=("localhost",)
        )
        assert validate_x509(svid.chain, made.bundle, made.clock.unix()).spiffe_id == ID
        assert svid.chain[0] in made.recorded()

    run(tmp_path, test)


def test_tokens_are_recorded_by_their_digest(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        wanted = [
            JwtIssue(spiffe_id=ID, audience=("a", "b"), include_jti=True, requested_by=AGENT),
            JwtIssue(spiffe_id=ID, audience=()),
            JwtIssue(spiffe_id=ID, audience=("a",), ttl_seconds=30 * 86400),
            JwtIssue(spiffe_id=SpiffeId.parse("spiffe://other.org/a"), audience=("a",)),
        ]
        good, *bad = await made.issuer.issue_jwt(wanted)
        assert isinstance(good, JwtSvid)
        assert all(isinstance(one, GatehouseError) for one in bad)
        claims = parse_and_verify(good.token, "b", {DOMAIN: made.bundle}, made.clock.unix())
        (record,) = made.records()
        assert isinstance(record, JwtRecord)
        assert record.digest == hashlib.sha256(good.token.encode()).digest()
        assert record.token_id == claims.claims["jti"] and record.audience == ("a", "b")
        assert good.token not in repr(record)

    run(tmp_path, test)


def test_without_an_authority_nothing_is_issued(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        empty = EmbeddedAuthority(MemoryKeyManager(os.urandom))
        issuer = Issuer(empty, made.journal, IssuanceSettings(DOMAIN), made.clock, random_bytes=os.urandom)
        for call in (
            issuer.issue_x509([item()]),
            issuer.issue_jwt([JwtIssue(spiffe_id=ID, audience=("a",))]),
        ):
            with pytest.raises(Unavailable):
                await call
        assert made.records() == []

    run(tmp_path, test)


def test_oversized_batches_are_refused(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        with pytest.raises(InvalidInput, match="1000 allowed"):
            await made.issuer.issue_x509([item()] * 1001)
        assert await made.issuer.issue_x509([]) == []

    run(tmp_path, test)


class Cut(BaseException):
    """The process ends here: nothing in it catches this."""


class Watched:
    """A journal and a signer of which one step fails, before or after it took effect; steps are logged."""

    def __init__(self, journal: Any, fail_at: str, error: BaseException) -> None:
        self.journal, self.fail_at, self.error = journal, fail_at, error
        self.steps: list[str] = []

    async def append(self, records: Sequence[Record]) -> list[int]:
        name = records[0].kind if records else "nothing"
        self.steps.append(name)
        self.check(f"before {name}")
        numbers: list[int] = await self.journal.append(records)
        self.check(f"after {name}")
        return numbers

    def check(self, point: str) -> None:
        if point == self.fail_at:
            raise self.error


class WatchedAuthority:
    def __init__(self, authority: Any, watched: Watched) -> None:
        self._authority, self._watched = authority, watched

    def active(self) -> Any:
        active, watched = self._authority.active(), self._watched

        class Signer:
            authority_id = active.x509.authority_id
            issuer = active.x509.issuer
            chain = active.x509.chain
            mark, ends_with_issuer, not_after_jitter = "", False, 0.04
            order = staticmethod(active.x509.order)
            check = staticmethod(active.x509.check)

            async def sign(self, orders: Sequence[Order]) -> list[bytes]:
                watched.steps.append("sign")
                watched.check("before sign")
                certificates: list[bytes] = await active.x509.sign(orders)
                watched.check("after sign")
                return certificates

        return type("Active", (), {"x509": Signer(), "jwt": active.jwt})()


POINTS = [f"{when} {what}" for what in ("x509-intent", "sign", "x509") for when in ("before", "after")]


@pytest.mark.parametrize("error", [Cut(), ResourceExhausted("disk full"), Unavailable("gone")])
@pytest.mark.parametrize("point", POINTS)
def test_whatever_fails_wherever_nothing_leaves_unrecorded(
    tmp_path: Path, point: str, error: BaseException
) -> None:
    async def test(made: World) -> None:
        watched = Watched(made.journal, point, error)
        authority: Any = WatchedAuthority(made.authority, watched)
        journal: Any = watched
        issuer = Issuer(authority, journal, IssuanceSettings(DOMAIN), made.clock, random_bytes=os.urandom)
        with pytest.raises(type(error)):
            await issuer.issue_x509([item(number) for number in range(5)])
        order = ["x509-intent", "sign", "x509"]
        assert watched.steps == order[: len(watched.steps)]
        intents = {r.serial for r in made.records() if isinstance(r, X509Intent)}
        if "sign" in watched.steps:
            assert len(intents) == 5, "whatever may have been signed is known"
        recorded = {r.serial for r in made.records() if isinstance(r, X509Record)}
        assert recorded <= intents

    run(tmp_path, test)


def test_a_certificate_that_is_not_what_was_asked_for_is_withheld(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        other = (await made.issuer.issue_x509([item(99)]))[0]
        assert isinstance(other, X509Svid)
        before = len(made.recorded())

        class Swapping(WatchedAuthority):
            def active(self) -> Any:
                active = super().active()
                real = active.x509.sign

                async def sign(orders: Sequence[Order]) -> list[bytes]:
                    certificates: list[bytes] = await real(orders)
                    return [other.chain[0], *certificates[1:]]

                active.x509.sign = sign
                return active

        authority: Any = Swapping(made.authority, Watched(made.journal, "", Cut()))
        issuer = Issuer(
            authority, made.journal, IssuanceSettings(DOMAIN), made.clock, random_bytes=os.urandom
        )
        wrong, right = await issuer.issue_x509([item(1), item(2)])
        assert isinstance(wrong, Bug) and isinstance(right, X509Svid)
        assert len(made.recorded()) == before + 1

    run(tmp_path, test)


def test_a_wrong_signature_is_noticed_in_the_sample(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(embedded, "SIGNATURE_SAMPLE", 1)

    async def test(made: World) -> None:
        class Broken(WatchedAuthority):
            def active(self) -> Any:
                active = super().active()
                real = active.x509.sign

                async def sign(orders: Sequence[Order]) -> list[bytes]:
                    certificates: list[bytes] = await real(orders)
                    return [one[:-1] + bytes((one[-1] ^ 1,)) for one in certificates]

                active.x509.sign = sign
                return active

        authority: Any = Broken(made.authority, Watched(made.journal, "", Cut()))
        issuer = Issuer(
            authority, made.journal, IssuanceSettings(DOMAIN), made.clock, random_bytes=os.urandom
        )
        (outcome,) = await issuer.issue_x509([item()])
        assert isinstance(outcome, Bug) and made.recorded() == set()

    run(tmp_path, test)


def test_others_get_their_turn_during_a_large_batch(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        await made.issuer.issue_x509([item(number) for number in range(300)])
        task.cancel()
        assert turns >= 300 / issuance.CHECKS_PER_TURN

    run(tmp_path, test)


ISSUING = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import importlib.util
specification = importlib.util.spec_from_file_location("issuing", sys.argv[2])
module = importlib.util.module_from_spec(specification)
sys.modules["issuing"] = module
specification.loader.exec_module(module)

async def main():
    async with module.world(Path(sys.argv[1])) as made:
        number = 0
        while True:
            svids = await made.issuer.issue_x509([module.item(number + i) for i in range(4)])
            number += 4
            # A certificate has left when its last byte has.
            for svid in svids:
                sys.stdout.write(svid.chain[0].hex() + chr(10))
            sys.stdout.flush()

asyncio.run(main())
"""


def test_kill_9_no_certificate_that_left_is_missing_in_the_ledger(tmp_path: Path) -> None:
    chance = random.Random(11)
    left: set[bytes] = set()
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", ISSUING, str(tmp_path), __file__],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        try:
            seen = [process.stdout.readline() for _ in range(chance.randrange(1, 40))]
        finally:
            process.send_signal(signal.SIGKILL)
            # Not `communicate`: it begins behind what the lines above have read ahead, within a line.
            rest = process.stdout.readlines()
            process.wait(30)
        lines = seen + rest
        left |= {bytes.fromhex(line) for line in lines if line.endswith("\n")}
        recorded = {e.record.certificate for e in read_journals(tmp_path) if isinstance(e.record, X509Record)}
        assert left and left <= recorded
