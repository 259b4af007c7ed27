"""The agent's half of the node API against an unmodified spire-server: every call once, and paging."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agent.bootstrap import read_trust_bundle, unsafe_bundle
from agent.cache_content import AgentCredential
from agent.keys import FreshKey
from agent.node_attestors import JoinToken
from agent.server_api import GrpcDial
from control_plane.core.errors import DenialReason, InvalidInput, NotFound, PermissionDenied, Unimplemented
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import TrustDomain
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.types.entry_pb2 import Entry as EntryMessage
from control_plane.proto.spire.api.types.selector_pb2 import Selector
from control_plane.proto.spire.api.types.spiffeid_pb2 import SPIFFEID
from control_plane.runtime.clock import SystemClock
from control_plane.runtime.transport import Channel

pytestmark = [pytest.mark.peers, pytest.mark.xdist_group("real-spire-server")]
ENTRIES = 1203


@pytest.fixture(scope="module")
def spire_server(running: ModuleType, peer: Callable[[str], Path]) -> Iterator[Any]:
    with tempfile.TemporaryDirectory(prefix="gh") as folder:
        process = running.SpireServer(Path(folder), peer("spire-server"))
        with running.stopping(process):
            yield process.run()


async def register(server: Any, agent: str, first: int, end: int) -> list[str]:
    """Entries below the agent, by number; their IDs."""
    ids = []
    async with Channel.unix(server.socket) as channel:
        for start in range(first, end, 200):
            messages = [
                EntryMessage(
                    spiffe_id=SPIFFEID(trust_domain=server.trust_domain, path=f"/w{number}"),
                    parent_id=SPIFFEID(trust_domain=server.trust_domain, path=agent),
                    selectors=[Selector(type="unix", value=f"uid:{number}")],
                    dns_names=["w.example.org"] if number == 0 else [],
                    hint=f"hint {number}",
                )
                for number in range(start, min(start + 200, end))
            ]
            answer = await channel.unary(
                "/spire.api.server.entry.v1.Entry/BatchCreateEntry",
                entry_pb2.BatchCreateEntryRequest(entries=messages),
                entry_pb2.BatchCreateEntryResponse,
            )
            assert not any(result.status.code for result in answer.results)
            ids += [result.entry.id for result in answer.results]
        return ids


def test_the_whole_conversation(spire_server: Any, run_async: Any) -> None:
    trust_domain = TrustDomain(spire_server.trust_domain)
    bundle = read_trust_bundle(spire_server.bundle_file(), trust_domain)
    token = spire_server.token()
    clock = SystemClock()
    dial = GrpcDial("127.0.0.1", spire_server.port, trust_domain, clock)

    async def work() -> None:
        assert (await unsafe_bundle("127.0.0.1", spire_server.port, trust_domain, clock)).x509_authorities
        key = FreshKey()
        anonymous = dial(None, lambda: bundle)
        with pytest.raises((InvalidInput, NotFound, PermissionDenied)):
            await anonymous.attest(JoinToken(Secret("no-such-token")), key.csr)
        attested = await anonymous.attest(JoinToken(Secret(token)), key.csr)
        assert not attested.reattestable
        assert (await anonymous.bundle()).trust_domain == trust_domain
        await anonymous.close()
        held = key.hold(key.accept(attested.chain, None, clock.unix()), clock.unix())
        api = dial(AgentCredential(held, False, "join_token", ""), lambda: bundle)
        await api.post_status((await api.bundle()).sequence)
        assert await api.sync_entries({}) == {}
        with pytest.raises(Unimplemented):
            async with api.watch({}) as changes:
                await anext(changes)

        ids = await register(spire_server, held.svid.spiffe_id.path, 0, 3)
        async with asyncio.timeout(15):  # its cache is rebuilt every 5 s
            while len(found := await api.sync_entries({})) < 3:  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.5)
        assert set(found) == set(ids) and found[ids[0]].hint == "hint 0"
        keys = [FreshKey() for _ in range(2)]
        known = found[ids[0]]
        stranger = known.parse(
            id="00000000-0000-0000-0000-000000000000",
            spiffe_id=str(known.spiffe_id),
            parent_id=str(known.parent_id),
            selectors=["unix:uid:1"],
        )
        good, bad = await api.new_x509_svids([(known, keys[0].csr), (stranger, keys[1].csr)])
        assert keys[0].accept(good, known.spiffe_id, clock.unix()).serial  # type: ignore[arg-type]
        assert isinstance(bad, NotFound)
        svid = await api.new_jwt_svid(known, ("a", "b"))
        assert svid.spiffe_id == known.spiffe_id and svid.expires_at > clock.unix()
        assert await api.federated_bundle(TrustDomain("nobody.test")) is None

        ids += await register(spire_server, held.svid.spiffe_id.path, 3, ENTRIES)
        async with asyncio.timeout(30):
            while len(paged := await api.sync_entries(found)) < ENTRIES:  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.5)
        assert set(paged) == set(ids)
        assert paged[ids[0]] is known, "what is known isn't sent again"

        fresh = FreshKey()
        renewed = fresh.hold(fresh.accept(await api.renew(fresh.csr), None, clock.unix()), clock.unix())
        assert await api.sync_entries(paged) == paged, "the old certificate is good until the new one is used"
        again = dial(AgentCredential(renewed, False, "join_token", ""), lambda: bundle)
        assert await again.sync_entries(paged) == paged
        with pytest.raises(PermissionDenied) as refused:
            await api.sync_entries(paged)
        assert refused.value.reason is DenialReason.AGENT_NOT_ACTIVE
        await api.close()
        await again.close()

    run_async(work())
