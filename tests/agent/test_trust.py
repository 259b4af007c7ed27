"""An agent that was away for so long that its bundle no longer verifies the server: how it finds back, and
what it must not believe."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agent.cache_content import AgentContent, dump_agent, parse_agent
from agent.node import Standing
from agent.trust import ServerTrust
from control_plane.core.bundle import Bundle, X509Authority
from control_plane.core.errors import Unauthenticated
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import TrustDomain
from control_plane.proto.gatehouse.agent.v1 import admin_pb2
from control_plane.runtime.transport import Channel

TD = TrustDomain("agents.test")
EXPLAIN = "/gatehouse.agent.v1.Admin/Explain"


@pytest.fixture
def authority(node_server: Any) -> Callable[[], X509Authority]:
    """Makes an authority that nobody has seen."""
    return lambda: X509Authority(node_server.Ca(TD, 1_700_000_000).certificate)


def trust(*held: X509Authority, brought: tuple[X509Authority, ...] | None = None) -> ServerTrust:
    read = None if brought is None else lambda: Bundle(TD, brought)
    return ServerTrust(Bundle(TD, held), (), read)


def test_only_authorities_never_seen_before_are_taken_from_the_operators_file(
    authority: Callable[[], X509Authority],
) -> None:
    first, second, third = authority(), authority(), authority()
    known = trust(first, brought=(first, third))
    known.take(Bundle(TD, (first, second)))
    assert known.newly_brought().x509_authorities == (third,)
    known.take(Bundle(TD, (second,)))
    assert known.withdrawn == (first.subject_key_id,)
    assert known.newly_brought().x509_authorities == (third,)
    known.take(Bundle(TD, (second, third)))
    with pytest.raises(Unauthenticated, match="was withdrawn"):
        known.newly_brought()


def test_an_authority_that_the_server_itself_brings_back_counts_again(
    authority: Callable[[], X509Authority],
) -> None:
    first, second = authority(), authority()
    known = trust(first)
    known.take(Bundle(TD, (second,)))
    known.take(Bundle(TD, (first, second)))
    assert known.withdrawn == ()


def test_without_a_file_or_with_an_old_one_the_error_says_what_to_do(
    authority: Callable[[], X509Authority],
) -> None:
    first = authority()
    with pytest.raises(Unauthenticated, match=r"gatehouse bundle show.*--trust-bundle"):
        trust(first).newly_brought()
    with pytest.raises(Unauthenticated, match=r"that this agent knows already.*gatehouse bundle show"):
        trust(first, brought=(first,)).newly_brought()


def test_what_was_withdrawn_survives_a_restart(authority: Callable[[], X509Authority]) -> None:
    bundle = Bundle(TD, (authority(),))
    content = AgentContent(TD, None, bundle, ("ab", "cd"))
    assert parse_agent(dump_agent(content)) == content
    older = dump_agent(content).replace(b'"withdrawn":["ab","cd"],', b"")
    assert parse_agent(older).withdrawn == ()


@contextlib.asynccontextmanager
async def moved_on(server: Any, node_server: Any) -> AsyncIterator[Any]:
    """The server after the overlap: same data, another address, an authority that nobody heard of."""
    later = node_server.FakeServer(TD)
    later.agents, later.entries = server.agents, server.entries
    later.x509pop = getattr(server, "x509pop", None)
    await later.start()
    try:
        yield later
    finally:
        await later.stop()


def test_an_agent_that_can_attest_again_comes_back_by_itself(
    agent_in: Any, entry: Any, run_async: Any, node_certificate: Any, node_server: Any
) -> None:
    certificate, key, pop = node_certificate
    method = {"x509pop_certificate": str(certificate), "x509pop_key": str(key)}

    async def work() -> None:
        server = node_server.FakeServer(TD)
        server.x509pop = pop
        await server.start()
        async with agent_in(entry("e1", "/w"), server=server, **method) as run:
            first = await run.x509_once()
        await server.stop()
        async with moved_on(server, node_server) as later:
            async with agent_in(entry("e2", "/new", created_at=2), server=later, **method) as run:
                await run.until(lambda: "e2" in run.agent.identities.held(), "serves by the new authority")
                second = await run.x509_once()
                assert len(second.svids) == 2 and second.svids[0].bundle != first.svids[0].bundle
                assert later.calls["AttestAgent"] == 1
                bundle = run.agent.node.bundle
                assert bundle.same_content(later.bundle)
            async with agent_in(server=later, **method) as run:
                assert later.calls["AttestAgent"] == 1, "what it found was kept"

    run_async(work())


def test_a_running_agent_reads_the_file_when_the_operator_replaces_it(
    agent_in: Any, entry: Any, run_async: Any, node_certificate: Any, node_server: Any
) -> None:
    certificate, key, pop = node_certificate
    method = {"x509pop_certificate": str(certificate), "x509pop_key": str(key)}

    async def work() -> None:
        server = node_server.FakeServer(TD)
        server.x509pop = pop
        await server.start()
        async with agent_in(entry("e1", "/w"), server=server, **method) as run:
            await run.x509_once()
        await server.stop()
        async with (
            moved_on(server, node_server) as later,
            agent_in(server=later, trust=server.bundle, **method) as run,
        ):
            await run.until(lambda: "knows already" in run.agent.node.error, "the file is of no use")
            assert (await run.x509_once()).svids, "what is valid is served on"
            assert not later.calls
            request = admin_pb2.ExplainRequest(pid=os.getpid())
            async with Channel.unix(run.settings.admin_socket_path) as admin:
                told = await admin.unary(EXPLAIN, request, admin_pb2.ExplainResponse)
            assert "gatehouse bundle show" in told.last_sync_error, "who asks learns what to do"
            run.settings.trust_bundle.write_text(later.bundle.to_pem())
            await run.until(lambda: run.agent.sync.heard, "found back")

    run_async(work())


def test_an_old_file_does_not_bring_a_withdrawn_authority_back(
    agent_in: Any, entry: Any, run_async: Any, node_server: Any, node_certificate: Any
) -> None:
    """Who holds a revoked key answers in the place of the server, and the first bundle still lies there."""
    certificate, key, pop = node_certificate
    method = {"x509pop_certificate": str(certificate), "x509pop_key": str(key)}

    async def work() -> None:
        server, impostor = node_server.FakeServer(TD), node_server.FakeServer(TD)
        server.x509pop = impostor.x509pop = pop
        impostor.ca = server.ca
        first = impostor.bundle = server.bundle
        await server.start()
        await impostor.start()
        async with agent_in(entry("e1", "/w"), server=server, trust=first, **method) as run:
            server.rotate(taint=True)
            await run.until(lambda: len(run.agent.node.bundle.x509_authorities) == 2, "prepared")
            server.set_bundle(x509_authorities=server.bundle.x509_authorities[1:])
            await run.until(lambda: len(run.agent.node.bundle.x509_authorities) == 1, "revoked")
        await server.stop()
        async with agent_in(server=impostor, trust=first, **method) as run:
            await run.until(lambda: "was withdrawn" in run.agent.node.error, "the file is refused")
            await asyncio.sleep(1.5)
            assert not impostor.calls
        await impostor.stop()

    run_async(work())


def test_an_agent_that_cannot_attest_again_says_that_it_needs_a_token(
    agent_in: Any, entry: Any, run_async: Any, node_server: Any
) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w"), keep_server=True) as run:
            server = run.server
            await run.x509_once()
        await server.stop()
        async with moved_on(server, node_server) as later:
            async with agent_in(server=later) as run:
                await run.until(lambda: run.agent.node.standing is Standing.REFUSED, "knows that it is out")
                assert "gatehouse token generate" in run.agent.node.error
                assert run.agent.node.bundle.same_content(later.bundle)
                assert (await run.x509_once()).svids, "what is valid is served on"
            later.tokens.add("token-2")
            async with agent_in(server=later, join_token=Secret("token-2")) as run:
                await run.until(lambda: run.agent.sync.heard, "a new token is all that it takes")
                assert later.calls["AttestAgent"] == 1

    run_async(work())


def test_a_file_that_verifies_nobody_either_changes_nothing(
    agent_in: Any, entry: Any, run_async: Any, node_server: Any, authority: Callable[[], X509Authority]
) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w"), keep_server=True) as run:
            server = run.server
            await run.x509_once()
        await server.stop()
        async with (
            moved_on(server, node_server) as later,
            agent_in(server=later, trust=Bundle(TD, (authority(),))) as run,
        ):
            await run.until(lambda: "isn't trusted" in run.agent.node.error, "refused")
            assert run.agent.node.bundle.same_content(server.bundle)
            assert not later.calls

    run_async(work())


def test_a_stranger_at_the_servers_address_is_forgotten_when_the_server_is_back(
    agent_in: Any, entry: Any, run_async: Any, node_server: Any
) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w"), keep_server=True) as run:
            server, port = run.server, run.server.port
            await server.stop()
            stranger = node_server.FakeServer(TD)
            await stranger.start(port)
            await run.until(lambda: "isn't trusted" in run.agent.node.error, "noticed", 20)
            assert not stranger.calls
            await stranger.stop()
            back = node_server.FakeServer(TD)
            back.ca, back.bundle, back.agents = server.ca, server.bundle, server.agents
            await back.start(port)
            await run.until(lambda: not run.agent.node.error and not run.agent.sync.error, "all is well", 40)
            assert run.agent.node.standing is Standing.ATTESTED
            await back.stop()

    run_async(work())
