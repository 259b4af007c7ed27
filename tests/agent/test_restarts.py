"""What an agent says after a start from its cache, to those whom the cache doesn't name.

It may not refuse whom the server has just registered: until it heard all that the server has to say, the
answer is a short wait, then Unavailable. Each way in which it could know too little has its test here.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agent import refusals
from agent.attest.unix import Attestation, UnixAttestor
from control_plane.core.errors import PermissionDenied, Unavailable
from control_plane.core.spiffe_id import TrustDomain
from control_plane.proto import workloadapi_pb2 as pb

TD = TrustDomain("agents.test")
UNHEARD = "hasn't heard from the server"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for the server's first word."""
    monkeypatch.setattr(refusals, "PATIENCE_SECONDS", 0.05)


def test_e_07_unavailable_to_whom_the_cache_does_not_name_until_the_server_was_heard(
    agent_in: Any, entry: Any, run_async: Any, impatient: None
) -> None:
    """An entry may have come after the cache was written, and the agent was killed then: it can't know."""

    async def work() -> None:
        async with agent_in(entry("e1", "/other", "unix:uid:99999"), keep_server=True) as run:
            server = run.server
        server.refuse["Watch"] = Unavailable("away")
        async with agent_in(entry("e2", "/w", created_at=2), server=server) as run:
            token = pb.JWTSVIDRequest(audience=["a"])
            wanted = pb.JWTSVIDRequest(audience=["a"], spiffe_id=f"spiffe://{TD}/w")
            unheard = pytest.raises(Unavailable, match=UNHEARD)
            with unheard:
                await run.x509_once()
            with unheard:
                await run.first("FetchX509Bundles", pb.X509BundlesRequest(), pb.X509BundlesResponse)
            with unheard:
                await run.unary("FetchJWTSVID", token, pb.JWTSVIDResponse)
            with unheard:
                await run.unary("FetchJWTSVID", wanted, pb.JWTSVIDResponse)
            server.refuse.clear()
            await run.until(lambda: "e2" in run.agent.identities.entries, "the server is heard")
            assert (await run.x509_once()).svids[0].spiffe_id == f"spiffe://{TD}/w"
            server.remove("e2")
            await run.until(lambda: "e2" not in run.agent.identities.entries, "the entry is gone")
            with pytest.raises(PermissionDenied, match="no identity issued"):
                await run.x509_once()
            server.refuse["Watch"] = Unavailable("away again")
            with pytest.raises(PermissionDenied, match="no identity issued"):
                await run.x509_once()
        await server.stop()

    run_async(work())


def test_an_identity_that_the_cache_holds_but_not_the_one_asked_for_is_no_refusal_either(
    agent_in: Any, entry: Any, run_async: Any, impatient: None
) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w"), keep_server=True) as run:
            server = run.server
            await run.x509_once()
        server.refuse["Watch"] = Unavailable("away")
        async with agent_in(entry("e2", "/second", created_at=2), server=server) as run:
            wanted = pb.JWTSVIDRequest(audience=["a"], spiffe_id=f"spiffe://{TD}/second")
            with pytest.raises(Unavailable, match=UNHEARD):
                await run.unary("FetchJWTSVID", wanted, pb.JWTSVIDResponse)
            assert [svid.spiffe_id for svid in (await run.x509_once()).svids] == [f"spiffe://{TD}/w"]
        await server.stop()

    run_async(work())


def test_who_asks_before_the_server_was_heard_is_answered_by_its_first_word(
    agent_in: Any, entry: Any, run_async: Any
) -> None:
    """A client that asks once, right after a crash that came before the cache was written."""

    async def work() -> None:
        async with agent_in(entry("e1", "/other", "unix:uid:99999"), keep_server=True) as run:
            server = run.server
        server.watch_pauses = asyncio.Event()
        async with agent_in(
            entry("e2", "/another", "unix:uid:99999", created_at=2),
            entry("e3", "/w", created_at=3),
            server=server,
        ) as run:
            await run.until(lambda: "e2" in run.agent.identities.entries, "the first half of the state")
            asked = asyncio.create_task(run.x509_once())
            await run.until(lambda: len(run.agent.sessions), "the call has come")
            await asyncio.sleep(0.1)
            assert not asked.done(), "half of the state refuses nobody"
            server.watch_pauses.set()
            assert [svid.spiffe_id for svid in (await asked).svids] == [f"spiffe://{TD}/w"]
            assert run.agent.sync.heard
        await server.stop()

    run_async(work())


def test_half_of_the_servers_state_refuses_nobody(
    agent_in: Any, entry: Any, run_async: Any, impatient: None
) -> None:
    """The state may come in several messages; whom the first doesn't name, the second may."""

    async def work() -> None:
        async with agent_in(entry("e1", "/other", "unix:uid:99999"), keep_server=True) as run:
            server = run.server
        server.watch_pauses = asyncio.Event()
        async with agent_in(
            entry("e2", "/another", "unix:uid:99999", created_at=2),
            entry("e3", "/w", created_at=3),
            server=server,
        ) as run:
            await run.until(lambda: "e2" in run.agent.identities.entries, "the first half of the state")
            with pytest.raises(Unavailable, match=UNHEARD):
                await run.x509_once()
            server.watch_pauses.set()
            await run.until(lambda: run.agent.sync.heard, "the second half")
            assert (await run.x509_once()).svids[0].spiffe_id == f"spiffe://{TD}/w"
        await server.stop()

    run_async(work())


def test_who_could_not_be_looked_at_closely_is_not_refused(
    agent_in: Any, entry: Any, run_async: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An executable that can't be read at this moment hides the path that an entry asks for."""
    attest = UnixAttestor.attest

    def hidden(self: UnixAttestor, process: Any, before: Attestation | None = None) -> Attestation:
        found = attest(self, process, before)
        kept = frozenset(one for one in found.selectors if not one.value.startswith("path:"))
        return Attestation(kept, ("unix:path unknown: Input/output error",), None, uncertain=True)

    path = Path("/proc/self/exe").resolve()

    async def work() -> None:
        async with agent_in(entry("e1", "/w", f"unix:path:{path}")) as run:
            assert (await run.x509_once()).svids
            monkeypatch.setattr(UnixAttestor, "attest", hidden)
            with pytest.raises(Unavailable, match="Input/output error"):
                await run.x509_once()

    run_async(work())
