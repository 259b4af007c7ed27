"""A root whose key is in another place than that of the issuing CA below it."""

from __future__ import annotations

import asyncio
import os

from real_vault import Api, Server
from vault_server import FakeVault

from control_plane.authority.keys import MemoryKeyManager
from control_plane.authority.make import Maker
from control_plane.authority.ports import KeyManager, KeyPurpose
from control_plane.authority.schedule import Lifetimes
from control_plane.authority.split_keys import SplitKeyManager
from control_plane.clients.vault.transit import TransitKeyManager
from control_plane.core.certificate import read_certificate
from control_plane.core.spiffe_id import TrustDomain

DOMAIN = TrustDomain.parse("td.example")
NOW = 1_800_000_000


def maker(here: KeyManager, roots: KeyManager | None) -> Maker:
    return Maker(here, DOMAIN, Lifetimes(), random_bytes=os.urandom, roots=roots)


def test_only_the_roots_key_is_there_and_it_signs_each_issuing_ca() -> None:
    with FakeVault() as fake:
        server = Server("fake", Api(fake.url))
        there = TransitKeyManager(server.door(), server.api.mount("transit"), random_bytes=os.urandom)
        here = MemoryKeyManager(os.urandom)
        making = maker(here, SplitKeyManager(here, there, frozenset({KeyPurpose.X509})))
        slot = asyncio.run(making.x509(NOW))
        assert there.key_ids() == [slot.root_key_id] and here.key_ids() == [slot.issuing.key_id]
        again = asyncio.run(making.issuing(slot, NOW))
        assert set(here.key_ids()) == {slot.issuing.key_id, again.key_id}
        for issuing in (slot.issuing, again):
            ca = read_certificate(issuing.certificate)
            ca.parsed.verify_directly_issued_by(read_certificate(slot.root).parsed)
        server.close()


def test_a_root_from_before_is_found_where_it_was_made() -> None:
    here, there = MemoryKeyManager(os.urandom), MemoryKeyManager(os.urandom)
    slot = asyncio.run(maker(here, None).x509(NOW))
    split = SplitKeyManager(here, there, frozenset({KeyPurpose.X509}))
    issuing = asyncio.run(maker(here, split).issuing(slot, NOW))
    assert there.key_ids() == [] and issuing.key_id in here.key_ids()
