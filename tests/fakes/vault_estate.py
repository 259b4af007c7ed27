"""A server's signing parts over a Vault: life cycle, authority, journal, issuer, all on one clock."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from vault_pki import FakePki

from control_plane.authority.embedded import EmbeddedAuthority
from control_plane.authority.keys import MemoryKeyManager
from control_plane.authority.lifecycle import AuthorityLifecycle
from control_plane.authority.make import Maker
from control_plane.authority.memory_store import MemoryAuthorityStore
from control_plane.authority.schedule import Lifetimes, Origin
from control_plane.authority.state import AuthorityState, bundle_of
from control_plane.authority.vault import Switch, VaultAuthority
from control_plane.authority.vault_make import VaultMaker
from control_plane.authority.vault_ports import VaultPki
from control_plane.core.bundle import Bundle
from control_plane.core.lifetime import standby_ttl_seconds
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.core.svid import X509Svid, validate_x509
from control_plane.identity.issuance import IssuanceSettings, Issuer, X509Issue
from control_plane.identity.journal import Journal
from control_plane.identity.journal_reader import read_journals
from control_plane.identity.ledger import Record
from control_plane.runtime.clock import Clock, FakeClock

DOMAIN = TrustDomain("example.org")
ID = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
DAY = 86400
HOUR = 3600
OTHERS = tuple(SpiffeId.of(DOMAIN, "ns", "shop", "sa", f"service-{number}") for number in range(40))


def new_csr(key: Any = None, *, uris: tuple[str, ...] = ()) -> bytes:
    """A CSR of a fresh key, naming what a workload might wish for."""
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    made = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return made.public_bytes(Encoding.DER)


CSR = new_csr()


@dataclass
class Estate:
    clock: Any
    pki: VaultPki
    keys: Any
    store: MemoryAuthorityStore
    lifecycle: AuthorityLifecycle
    authority: Any  # a VaultAuthority where Vault signs leaves
    issuer: Issuer
    journal: Journal
    directory: Path
    switches: list[Switch] = field(default_factory=list)
    states: list[AuthorityState] = field(default_factory=list)
    confirmed: Callable[[int], bool] = lambda sequence: True
    maker: Any = None
    authority_of: Callable[[Origin], Any] = EmbeddedAuthority

    def forget(self) -> None:
        """Has the life cycle ask Vault anew who would sign, instead of believing a minute-old answer."""
        self.maker._seen = None

    def use(self, origin: Origin) -> None:
        """What signs is that of other settings from now on, as after a restart."""
        self.authority = self.authority_of(origin)
        self.authority.reload(self.state)
        self.issuer = Issuer(
            self.authority, self.journal, IssuanceSettings(DOMAIN), self.clock, random_bytes=os.urandom
        )

    @property
    def state(self) -> AuthorityState:
        return self.states[-1]

    @property
    def bundle(self) -> Bundle:
        return bundle_of(self.state)

    async def issue(self, *ids: SpiffeId, **changes: Any) -> list[Any]:
        items = [
            X509Issue(**({"spiffe_id": one, "csr": CSR, "entry_id": "e-1"} | changes)) for one in ids or (ID,)
        ]
        return await self.issuer.issue_x509(items)

    async def leaf(self, **changes: Any) -> X509Svid:
        (svid,) = await self.issue(ID, **changes)
        if isinstance(svid, Exception):
            raise svid
        assert isinstance(svid, X509Svid)
        return svid

    def records(self) -> list[Record]:
        return [entry.record for entry in read_journals(self.directory)]


@contextlib.asynccontextmanager
async def estate(directory: Path, clock: Clock, pki: VaultPki, **options: Any) -> AsyncIterator[Estate]:
    """Everything is made, and the first authorities are active."""
    origin = options.pop("origin", Origin.VAULT_LEAF)
    ttl = standby_ttl_seconds(DAY) if origin is Origin.VAULT_LEAF else 7 * DAY
    lifetimes = Lifetimes(issuing_ttl_seconds=ttl, origin=origin)
    keys, store = MemoryKeyManager(os.urandom), MemoryAuthorityStore(DOMAIN)
    local = Maker(keys, DOMAIN, lifetimes, random_bytes=os.urandom)
    maker: Any = local
    if origin is not Origin.EMBEDDED:
        maker = VaultMaker(pki, keys, local, DOMAIN, lifetimes, clock, random_bytes=os.urandom, **options)
    journal = Journal(directory, 0, clock)
    made: Estate

    async def rehearse(signer: Any) -> None:
        await made.issuer.rehearse(signer)

    async def record(switch: Switch) -> None:
        made.switches.append(switch)

    async def confirmed(sequence: int) -> bool:
        return made.confirmed(sequence)

    async def changed(state: AuthorityState) -> None:
        made.states.append(state)
        made.authority.reload(state)

    def authority_of(origin: Origin) -> Any:
        if origin is Origin.VAULT_LEAF:
            return VaultAuthority(keys, pki, clock, permits=8, rehearse=rehearse, record=record)
        return EmbeddedAuthority(keys)

    authority = authority_of(origin)
    lifecycle = AuthorityLifecycle(store, keys, maker, lifetimes, clock, confirmed=confirmed, changed=changed)
    issuer = Issuer(authority, journal, IssuanceSettings(DOMAIN), clock, random_bytes=os.urandom)
    made = Estate(clock, pki, keys, store, lifecycle, authority, issuer, journal, directory)
    made.authority_of = authority_of
    made.maker = maker
    await journal.start()
    try:
        await lifecycle.tick()
        yield made
    finally:
        await journal.close()


def run(
    directory: Path,
    test: Callable[[Estate, FakePki], Awaitable[None]],
    setup: Callable[[FakePki], None] | None = None,
    **options: Any,
) -> None:
    """Runs a test over a Vault of its own; `setup` has its word before anything is asked of it."""

    async def main() -> None:
        clock = FakeClock()
        pki = FakePki(clock)
        if setup is not None:
            setup(pki)
        async with estate(directory, clock, pki, **options) as made:
            await test(made, pki)

    asyncio.run(main())


def verify(made: Estate, svid: X509Svid) -> None:
    """The leaf verifies by the bundle, and says of itself what its chain says."""
    verified = validate_x509(svid.chain, made.bundle, made.clock.unix())
    assert (verified.spiffe_id, verified.serial) == (svid.spiffe_id, svid.serial)
    assert (verified.not_before, verified.not_after) == (svid.not_before, svid.not_after)
    assert svid.authority_id in {one.subject_key_id for one in made.bundle.x509_authorities}
