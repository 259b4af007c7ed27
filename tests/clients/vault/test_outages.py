"""A real Vault on disk that is sealed, killed, stopped and started again under our calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_vault import REAL_KINDS, RealVault, Server, csr

from control_plane.authority.vault_ports import LeafOrder, VaultHealth
from control_plane.clients.vault.pki import PkiMount
from control_plane.clients.vault.roles import role_fields
from control_plane.core.errors import Unavailable
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import SpiffeId, TrustDomain

pytestmark = pytest.mark.peers
DOMAIN = TrustDomain.parse("td.example")
PATIENCE_SECONDS = 40


@pytest.fixture(params=REAL_KINDS)
def vault(request: pytest.FixtureRequest, peer: Callable[[str], Path]) -> Iterator[RealVault]:
    with RealVault(peer(request.param), dev=False) as real:
        yield real


async def leaf(pki: PkiMount) -> bytes:
    order = LeafOrder(csr(), SpiffeId.parse("spiffe://td.example/x"), (), 3600)
    return (await pki.sign_leaf(order))[0]


async def again(pki: PkiMount) -> bytes:
    """The first leaf that can be had again."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await leaf(pki)
        except Unavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


async def test_every_outage_is_unavailable_soon_and_over_by_itself(vault: RealVault) -> None:
    server = Server("real", vault.api)
    mount = server.make_pki()
    server.api.write(f"{mount}/roles/gatehouse", **role_fields(DOMAIN, ttl_seconds=3600))
    policy = server.api.policy(f'path "{mount}/*" {{ capabilities = ["update"] }}')
    token = server.api.make_token(policy, "default", ttl="1h", period="1h")
    pki = server.pki(pki_mount=mount, token=Secret(token), timeout_seconds=3.0)
    first = await leaf(pki)

    vault.seal()
    with pytest.raises(Unavailable, match="sealed"):
        await leaf(pki)
    assert await pki.health() is VaultHealth.SEALED
    await asyncio.to_thread(vault.unseal)
    await again(pki)
    assert await pki.health() is VaultHealth.ACTIVE

    vault.stop(kill=True)
    started = time.monotonic()
    with pytest.raises(Unavailable):
        await leaf(pki)
    assert time.monotonic() - started < 10 and await pki.health() is VaultHealth.UNREACHABLE
    await asyncio.to_thread(vault.start)  # the token, the role and the issuer are on its disk
    await again(pki)

    vault.pause()  # connections are taken, and nothing answers
    try:
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await leaf(pki)
        assert time.monotonic() - started < 20
    finally:
        vault.resume()
    assert await again(pki) != first
    server.close()
