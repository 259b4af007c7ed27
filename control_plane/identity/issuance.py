"""Issuing SVIDs: check, intend, sign, check again, record, answer. In this order, whatever happens.

For each X.509-SVID: the CSR is checked, the validity is drawn, the intent (hash of what is to be signed)
becomes durable, the authority signs, the finished certificate is held against what was asked for, its record
becomes durable, and only then it is given out. A crash at any point leaves at most an intent without a
certificate, or a record of a certificate that nobody got; never a certificate without a record. Tokens have
a record, no intent: what isn't recorded hasn't left either.

Where the signer is away (Vault) and another has taken over, the rest of a batch is done by that one, within
the same call and with intents of its own. A certificate that isn't what was asked for is withheld, and
recorded as such.

Who may have which identity isn't decided here: callers come with the registry's answer. Issuing reads no
database and needs no other process.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from control_plane.authority.ports import Authority, Order, X509Signer
from control_plane.core.csr import check_csr, proven_key
from control_plane.core.errors import (
    Bug,
    GatehouseError,
    InvalidInput,
    PeerMisbehaved,
    Unavailable,
    shown,
)
from control_plane.core.jwt_svid import JwtRequest
from control_plane.core.spiffe_id import SpiffeId, server_id
from control_plane.core.svid import JwtSvid, X509Svid
from control_plane.identity.issue import IssuanceSettings, JwtIssue, Orders, X509Issue
from control_plane.identity.issue_records import intent_of, jwt_record, record_of, withheld
from control_plane.identity.journal import Journal
from control_plane.identity.ledger import Record
from control_plane.runtime.clock import Clock
from control_plane.runtime.log import get_logger

__all__ = ["IssuanceSettings", "Issuer", "JwtIssue", "X509Issue"]

CHECKS_PER_TURN: Final = 10  # CSR checks of 80 µs each: about a millisecond of the event loop
LOOKS_PER_TURN: Final = 60  # at finished leaves, of 15 µs each
MAX_BATCH: Final = 1000

_log = get_logger("issuance")


@dataclass(frozen=True, slots=True)
class _Batch:
    """What is asked for together: for each item its order, or why there is none; who signs, and when."""

    items: Sequence[X509Issue]
    orders: Sequence[Order | GatehouseError]
    signer: X509Signer
    now: int


class Issuer:
    """Issues for one process, recording into its journal."""

    def __init__(
        self,
        authority: Authority,
        journal: Journal,
        settings: IssuanceSettings,
        clock: Clock,
        *,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._authority = authority
        self._journal = journal
        self._own_id = server_id(settings.trust_domain)
        self._orders = Orders(settings, random_bytes)
        self._clock = clock

    async def issue_x509(self, items: Sequence[X509Issue]) -> list[X509Svid | GatehouseError]:
        """Issues a batch: for each item, in order, the SVID or why there is none.

        Raises what concerns the whole batch: Unavailable (no active authority, journal out of order),
        ResourceExhausted (disk full). Nothing was given out then.
        """
        _check_batch(len(items))
        signer = self._authority.active().x509
        now = self._clock.unix()
        prepared: list[Order | GatehouseError] = []
        for start in range(0, len(items), CHECKS_PER_TURN):
            if start:
                await asyncio.sleep(0)
            turn = items[start : start + CHECKS_PER_TURN]
            # First all keys, then all orders: OpenSSL and the interpreter each need the processor's caches.
            keys = [_key_or_error(item.csr) for item in turn]
            prepared += [
                self._order_or_error(item, key, signer, now) for item, key in zip(turn, keys, strict=True)
            ]
        return await self._issue(_Batch(items, prepared, signer, now))

    async def mint_x509(
        self, csr: bytes, *, ttl_seconds: int = 0, requested_by: SpiffeId | None = None
    ) -> X509Svid:
        """Issues for the ID and DNS names that the CSR itself asks for; only for callers who may name any.

        Raises InvalidInput, or what `issue_x509` raises.
        """
        request = check_csr(csr, require_uri=True)
        if request.uri is None:
            raise Bug("CSR check: gave no URI although one was required")
        item = X509Issue(
            spiffe_id=request.uri,
            csr=csr,
            ttl_seconds=ttl_seconds,
            dns_names=request.dns_names,
            requested_by=requested_by,
        )
        return await self._issue_one(item, request.spki)

    async def issue_own(
        self, spiffe_id: SpiffeId, csr: bytes, *, ttl_seconds: int = 0, dns_names: tuple[str, ...] = ()
    ) -> X509Svid:
        """Issues for a key that this process made itself (its own SVID). Raises as `mint_x509`."""
        item = X509Issue(spiffe_id=spiffe_id, csr=csr, ttl_seconds=ttl_seconds, dns_names=dns_names)
        return await self._issue_one(item, check_csr(csr).spki)

    async def issue_here(self, spiffe_id: SpiffeId, csr: bytes, *, common_name: str) -> X509Svid:
        """The same by a key of this machine (`Authority.here`), for a certificate that opens the way to
        whoever signs else. Raises as `mint_x509`."""
        item = X509Issue(spiffe_id=spiffe_id, csr=csr, common_name=common_name)
        return await self._issue_one(item, check_csr(csr).spki, self._authority.here())

    @property
    def can_issue_here(self) -> bool:
        """Whether `issue_here` and tokens can be had already."""
        try:
            self._authority.here()
        except Unavailable:
            return False
        return True

    async def issue_jwt(self, items: Sequence[JwtIssue]) -> list[JwtSvid | GatehouseError]:
        """Issues a batch of tokens; answers and raises as `issue_x509`."""
        _check_batch(len(items))
        signer = self._authority.active().jwt
        now = self._clock.unix()
        outcomes: list[JwtRequest | GatehouseError] = []
        for item in items:
            try:
                outcomes.append(self._orders.token(item, now, signer.not_after))
            except GatehouseError as error:
                outcomes.append(error)
        tokens = iter(await signer.sign([o for o in outcomes if isinstance(o, JwtRequest)]))
        results: list[JwtSvid | GatehouseError] = []
        records: list[Record] = []
        for item, outcome in zip(items, outcomes, strict=True):
            if isinstance(outcome, GatehouseError):
                results.append(outcome)
                continue
            token = next(tokens)
            results.append(token)
            records.append(jwt_record(item, outcome, token, signer.authority_id, now))
        await self._journal.append(records)
        return results

    async def _issue_one(self, item: X509Issue, spki: bytes, signer: X509Signer | None = None) -> X509Svid:
        signer = signer or self._authority.active().x509
        now = self._clock.unix()
        (outcome,) = await self._issue(
            _Batch([item], [self._orders.leaf(item, spki, signer, now)], signer, now)
        )
        if isinstance(outcome, GatehouseError):
            raise outcome
        return outcome

    def _order_or_error(
        self, item: X509Issue, key: bytes | GatehouseError, signer: X509Signer, now: int
    ) -> Order | GatehouseError:
        if isinstance(key, GatehouseError):
            return key
        try:
            return self._orders.leaf(item, key, signer, now)
        except GatehouseError as error:
            return error

    async def rehearse(self, signer: X509Signer) -> None:
        """Has one leaf for ourselves signed by `signer`, ledgered like any other, and thrown away with its
        key. Raises what an asker would get."""
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, hashes.SHA256())
        item = X509Issue(spiffe_id=self._own_id, csr=csr.public_bytes(Encoding.DER))
        now = self._clock.unix()
        order = self._orders.leaf(item, check_csr(item.csr).spki, signer, now)
        (outcome,) = await self._sign(_Batch([item], [order], signer, now))
        if isinstance(outcome, GatehouseError):
            raise outcome

    async def _issue(self, batch: _Batch) -> list[X509Svid | GatehouseError]:
        """Signs, and has what is left undone for want of the signer done by whoever has taken over."""
        results = await self._sign(batch)
        undone = [number for number, result in enumerate(results) if isinstance(result, Unavailable)]
        if not undone:
            return results
        try:
            successor = self._authority.active().x509
        except Unavailable:
            return results
        if successor is batch.signer:
            return results
        orders: list[Order | GatehouseError] = []
        for number in undone:
            before = batch.orders[number]
            assert isinstance(before, Order)
            key = before.request.spki
            orders.append(self._order_or_error(batch.items[number], key, successor, batch.now))
        items = [batch.items[number] for number in undone]
        again = await self._sign(_Batch(items, orders, successor, batch.now))
        for number, result in zip(undone, again, strict=True):
            results[number] = result
        return results

    async def _sign(self, batch: _Batch) -> list[X509Svid | GatehouseError]:
        signer, now = batch.signer, batch.now
        authority_id, issuing_chain = signer.authority_id, signer.chain
        orders = [one for one in batch.orders if isinstance(one, Order)]
        await self._journal.append([intent_of(order, authority_id, now) for order in orders])
        # A crash here leaves intents: what is about to be signed is known, and nobody has it.
        signed = iter(await signer.sign(orders))
        results: list[X509Svid | GatehouseError] = []
        records: list[Record] = []
        for count, (item, order) in enumerate(zip(batch.items, batch.orders, strict=True), 1):
            if isinstance(order, GatehouseError):
                results.append(order)
                continue
            certificate = next(signed)
            if isinstance(certificate, GatehouseError):
                results.append(certificate)
                continue
            try:
                request = signer.check(certificate, order)
            except (Bug, PeerMisbehaved) as error:
                _log.error("certificate_withheld", spiffe_id=str(item.spiffe_id), error=str(error))
                results.append(error)
                records.append(withheld(item, certificate, signer, error, now))
                continue
            results.append(X509Svid.issued(request, (certificate, *issuing_chain), authority_id))
            records.append(record_of(item, request, certificate, signer, now))
            if count % LOOKS_PER_TURN == 0:
                await asyncio.sleep(0)
        # A crash here leaves signed certificates in this process's memory, which are gone with it.
        await self._journal.append(records)
        return results


def _key_or_error(csr: bytes) -> bytes | GatehouseError:
    try:
        return proven_key(csr)
    except GatehouseError as error:
        return error


def _check_batch(count: int) -> None:
    if count > MAX_BATCH:
        raise InvalidInput(f"batch of {shown(count)} SVIDs: {MAX_BATCH} allowed at once")
