"""The agent as a whole against a strict server: attesting, renewing, being refused, being alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent.cache import AGENT_FILE, WORKLOADS_FILE
from agent.node import Standing
from control_plane.core.certificate import read_certificate
from control_plane.core.errors import (
    DenialReason,
    FailedPrecondition,
    InvalidInput,
    PermissionDenied,
    Unavailable,
)
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import TrustDomain, agent_id
from control_plane.proto import workloadapi_pb2 as pb

TD = TrustDomain("agents.test")


@pytest.mark.parametrize("pushes", [True, False])
def test_new_entries_reach_the_workload(agent_in: Any, entry: Any, run_async: Any, pushes: bool) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/a"), pushes=pushes) as run, run.x509() as call:
            await call.receive()
            began = asyncio.get_running_loop().time()
            run.server.put(entry("e2", "/b", created_at=2))
            message = await asyncio.wait_for(call.receive(), 12)
            took = asyncio.get_running_loop().time() - began
            assert len(message.svids) == 2
            assert took < (1.0 if pushes else 7.0)
            assert run.agent.sync.pushed is pushes

    run_async(work())


def test_more_entries_than_a_page_are_polled(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        entries = [entry(f"e{number:04}", f"/w{number}", "unix:uid:99999") for number in range(1234)]
        async with agent_in(*entries, pushes=False, svid_cache_size=10) as run:
            assert len(run.agent.identities.entries) == 1234
            session = run.agent.node.session()
            known = dict(run.agent.identities.entries)
            run.server.put(entry("e0007", "/changed", "unix:uid:99999"))
            run.server.remove("e0008")
            found = await session.api.sync_entries(known)
            assert len(found) == 1233 and "e0008" not in found
            assert found["e0007"].spiffe_id.path == "/changed"
            assert found["e0001"] is known["e0001"], "what is known isn't sent again"
            await run.until(lambda: len(run.agent.identities.held()) == 10, "prefetched up to the cap")

    run_async(work())


def test_batches_stay_small(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        entries = [entry(f"e{number:03}", f"/w{number}", "unix:uid:99999") for number in range(230)]
        async with agent_in(*entries) as run:
            await run.until(lambda: len(run.agent.identities.held()) == 230, "all prefetched")
            assert max(run.server.batches) <= 50

    run_async(work())


def test_the_agent_renews_and_its_new_serial_is_promoted(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        def short(server: Any) -> None:
            server.agent_ttl = 8

        async with agent_in(entry("e1", "/w"), before=short) as run:
            first = run.agent.node.credential.held.svid.serial
            await run.until(lambda: run.agent.node.credential.held.svid.serial != first, "renewed", 15)
            run.server.put(entry("e2", "/new", created_at=2))
            await run.until(lambda: "e2" in run.agent.identities.held(), "works with the new certificate")
            row = run.server.agents[agent_id(TD, "join_token", "token-1")]
            await run.until(
                lambda: row.current == run.agent.node.credential.held.svid.serial, "the new serial is current"
            )
            assert run.server.calls["AttestAgent"] == 1

    run_async(work())


def test_workload_svids_are_renewed_on_the_stream(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w", x509_svid_ttl_seconds=10)) as run, run.x509() as call:
            first = await call.receive()
            second = await asyncio.wait_for(call.receive(), 10)
            serials = {read_certificate(message.svids[0].x509_svid).serial for message in (first, second)}
            assert len(serials) == 2
            assert first.svids[0].x509_svid_key != second.svids[0].x509_svid_key, "each SVID has its own key"

    run_async(work())


def test_a_server_that_fails_is_not_hammered_and_nothing_is_lost(
    agent_in: Any, entry: Any, run_async: Any
) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w", x509_svid_ttl_seconds=30)) as run, run.x509() as call:
            await call.receive()
            run.server.refuse["BatchNewX509SVID"] = Unavailable("overloaded")
            run.server.put(entry("e2", "/b", created_at=2))
            await asyncio.sleep(4)
            assert 2 <= run.server.calls["BatchNewX509SVID"] <= 12
            message = await run.x509_once()
            assert message.svids[0].spiffe_id == f"spiffe://{TD}/w"
            run.server.refuse.clear()
            await run.until(lambda: "e2" in run.agent.identities.held(), "signed after recovery", 15)

    run_async(work())


@pytest.mark.parametrize(
    "reason",
    [DenialReason.AGENT_EXPIRED, DenialReason.AGENT_NOT_ATTESTED, DenialReason.AGENT_NOT_ACTIVE],
)
def test_a_refused_agent_keeps_serving_what_is_valid(
    agent_in: Any, entry: Any, run_async: Any, reason: DenialReason
) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            await run.x509_once()
            run.server.deny = reason
            run.server.change()
            await run.until(lambda: run.agent.node.standing is Standing.REFUSED, "refused")
            assert reason.name in run.agent.node.error
            assert (await run.x509_once()).svids, "what is valid is served on"
            assert not run.task.done()

    run_async(work())


def test_a_banned_agent_stops_and_forgets(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run, run.x509() as call:
            await call.receive()
            await run.agent.storage.save_workloads()
            folder = run.settings.data_dir
            for row in run.server.agents.values():
                row.banned = True
            run.server.change()
            with pytest.raises((PermissionDenied, Unavailable)):
                await asyncio.wait_for(call.receive(), 5)
            await asyncio.wait_for(run.task, 10)
            assert run.agent.node.standing is Standing.BANNED
            assert not (folder / AGENT_FILE).exists() and not (folder / WORKLOADS_FILE).exists()
            assert not run.agent.identities.held()

    run_async(work())


def test_an_agent_without_a_way_to_attest_is_told_of_both(agent_in: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(wait=False, join_token=Secret("")) as run:
            with pytest.raises(FailedPrecondition) as ended:
                await asyncio.wait_for(run.task, 20)
        assert ended.value.message == "attesting this node: no method is configured"
        assert ended.value.hint == "give --join-token, or node attestation by x509pop in the configuration"

    run_async(work())


def test_a_used_join_token_ends_an_agent_that_has_nothing(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(wait=False, join_token=Secret("unknown")) as run:
            with pytest.raises(FailedPrecondition, match="join token"):
                await asyncio.wait_for(run.task, 10)

    run_async(work())


def test_a_restart_uses_the_cache_and_not_the_token(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        token = Secret("token-1")
        async with agent_in(entry("e1", "/w"), keep_server=True) as run:
            server = run.server
            first = await run.x509_once()
        async with agent_in(server=server, join_token=token) as run:
            assert server.calls["AttestAgent"] == 1
            assert await run.x509_once() == first, "the same SVID, no new signature"
        server.tokens.add("token-2")
        async with agent_in(server=server, join_token=Secret("token-2")) as run:
            await run.until(lambda: server.calls["AttestAgent"] == 2, "a new token is used")
        server.tokens.clear()
        async with agent_in(server=server, join_token=Secret("token-3")) as run:
            await run.until(lambda: server.calls["AttestAgent"] == 3, "a bad token is tried")
            await asyncio.sleep(0.3)
            assert run.agent.node.standing is Standing.ATTESTED, "and does no harm"
            assert (await run.x509_once()).svids
        await server.stop()

    run_async(work())


def test_a_corrupt_cache_is_set_aside(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w"), keep_server=True) as run:
            server, folder = run.server, run.settings.data_dir
            await run.x509_once()
        for name in (AGENT_FILE, WORKLOADS_FILE):
            path = folder / name
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
        server.tokens.add("token-2")
        async with agent_in(server=server, join_token=Secret("token-2")) as run:
            assert (await run.x509_once()).svids
            names = sorted(path.name for path in folder.iterdir())
            assert any(name.startswith(f"{AGENT_FILE}.unreadable-") for name in names)
            assert any(name.startswith(f"{WORKLOADS_FILE}.unreadable-") for name in names)
        await server.stop()

    run_async(work())


def test_an_attested_node_survives_a_bundle_call_that_fails(
    agent_in: Any, entry: Any, run_async: Any
) -> None:
    async def work() -> None:
        def refuse(server: Any) -> None:
            server.refuse["GetBundle"] = Unavailable("later")

        async with agent_in(entry("e1", "/w"), before=refuse) as run:
            assert (await run.x509_once()).svids, "the join token was spent; what it bought is used"

    run_async(work())


def test_x509pop_attests_again_instead_of_renewing(
    agent_in: Any, entry: Any, run_async: Any, node_certificate: Any, node_server: Any
) -> None:
    certificate, key_file, pop = node_certificate

    async def work() -> None:
        server = node_server.FakeServer(TD)
        server.x509pop = pop
        server.agent_ttl = 8
        await server.start()
        async with agent_in(
            entry("e1", "/w"),
            server=server,
            x509pop_certificate=str(certificate),
            x509pop_key=str(key_file),
        ) as run:
            await run.until(lambda: server.calls["AttestAgent"] >= 2, "attested again", 15)
            assert server.calls["RenewAgent"] == 0
            server.agents.clear()  # evicted
            server.change()
            await run.until(lambda: server.agents, "came back by itself", 10)
            server.put(entry("e2", "/b", created_at=3))
            await run.until(lambda: "e2" in run.agent.identities.held(), "serves again", 10)
        await server.stop()

    run_async(work())


def test_the_bundle_that_the_agent_has_is_reported(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            run.server.rotate(taint=False)
            await run.until(lambda: 2 in run.server.posted, "the new sequence number was posted")
            assert len(run.agent.node.bundle.x509_authorities) == 2

    run_async(work())


def test_jwt_svids_are_cached_and_outlive_a_failing_server(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        def short(server: Any) -> None:
            server.jwt_ttl = 4

        async with agent_in(entry("e1", "/w"), before=short) as run:

            async def token(*audience: str) -> str:
                request = pb.JWTSVIDRequest(audience=audience)
                return str((await run.unary("FetchJWTSVID", request, pb.JWTSVIDResponse)).svids[0].svid)

            first = await token("a", "b")
            assert await token("b", "a") == first, "the audience is a set"
            assert await token("a") != first
            run.server.refuse["NewJWTSVID"] = Unavailable("away")
            await asyncio.sleep(2.2)  # past half life
            assert await token("a", "b") == first
            await asyncio.sleep(2.5)  # past its end
            with pytest.raises(Unavailable):
                await token("a", "b")

    run_async(work())


def test_a_tainted_jwt_key_empties_the_token_cache(
    agent_in: Any, entry: Any, run_async: Any, node_server: Any
) -> None:
    async def work() -> None:
        import dataclasses

        from control_plane.core.bundle import JwtAuthority

        async with agent_in(entry("e1", "/w")) as run:
            request = pb.JWTSVIDRequest(audience=["a"])
            first = await run.unary("FetchJWTSVID", request, pb.JWTSVIDResponse)
            old = [dataclasses.replace(each, tainted=True) for each in run.server.bundle.jwt_authorities]
            key = node_server.JwtKey()
            run.server.jwt_key = key
            run.server.set_bundle(jwt_authorities=(*old, JwtAuthority(key.key_id, key.spki, 0)))
            await run.until(lambda: len(run.agent.node.bundle.jwt_authorities) == 2, "the bundle came")
            second = await run.unary("FetchJWTSVID", request, pb.JWTSVIDResponse)
            assert second.svids[0].svid != first.svids[0].svid

    run_async(work())


def test_many_callers_of_one_token_are_one_request(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w"), entry("e2", "/j", "unix:uid:0", created_at=2)) as run:
            request = pb.JWTSVIDRequest(audience=["a"], spiffe_id=f"spiffe://{TD}/w")
            answers = await asyncio.gather(
                *(run.unary("FetchJWTSVID", request, pb.JWTSVIDResponse) for _ in range(20))
            )
            assert len({answer.svids[0].svid for answer in answers}) == 1
            assert run.server.calls["NewJWTSVID"] == 1

    run_async(work())


def test_a_bad_audience_is_refused(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            for audience in (["x" * 5000], [str(number) for number in range(500)]):
                with pytest.raises(InvalidInput):
                    await run.unary("FetchJWTSVID", pb.JWTSVIDRequest(audience=audience), pb.JWTSVIDResponse)

    run_async(work())


def test_the_admin_socket_answers_spires_tools(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        from control_plane.proto.spire.api.agent.debug.v1 import debug_pb2
        from control_plane.proto.spire.api.agent.logger.v1 import logger_pb2
        from control_plane.proto.spire.api.types import logger_pb2 as types
        from control_plane.runtime.transport import Channel

        async with agent_in(entry("e1", "/w")) as run, Channel.unix(run.settings.admin_socket_path) as admin:
            await run.until(run.agent.identities.held, "prefetched")
            info = await admin.unary(
                "/spire.agent.debug.v1.Debug/GetInfo", debug_pb2.GetInfoRequest(), debug_pb2.GetInfoResponse
            )
            assert (info.svids_count, len(info.svid_chain)) == (1, 1) and info.last_sync_success
            path = "/spire.api.agent.logger.v1.Logger/"
            level = await admin.unary(
                path + "SetLogLevel",
                logger_pb2.SetLogLevelRequest(new_level=types.LogLevel.ERROR),
                types.Logger,
            )
            assert (level.current_level, level.launch_level) == (types.LogLevel.ERROR, types.LogLevel.INFO)
            with pytest.raises(InvalidInput):
                await admin.unary(path + "SetLogLevel", logger_pb2.SetLogLevelRequest(), types.Logger)
            level = await admin.unary(path + "ResetLogLevel", logger_pb2.ResetLogLevelRequest(), types.Logger)
            assert level.current_level == types.LogLevel.INFO

    run_async(work())


def test_a_server_that_ends_each_stream_at_once_is_not_hammered(
    agent_in: Any, entry: Any, run_async: Any
) -> None:
    async def work() -> None:
        def short(server: Any) -> None:
            server.watch_ends = True

        async with agent_in(entry("e1", "/w"), before=short) as run:
            await asyncio.sleep(2)
            assert 1 <= run.server.calls["Watch"] <= 6
            assert (await run.x509_once()).svids

    run_async(work())


def test_each_call_says_which_change_was_heard_of_also_after_a_restart(
    agent_in: Any, entry: Any, run_async: Any
) -> None:
    """Else a process of the server that lags behind would take back what another one told."""

    async def work() -> None:
        async with agent_in(entry("e1", "/w"), keep_server=True) as run:
            server = run.server
            assert server.heard["Watch"] == "", "nothing yet"
            server.put(entry("e2", "/later"))
            told = f"{server.change_log}/{server.change_sequence}"
            await run.until(lambda: server.heard["BatchNewX509SVID"] == told, "the new entry is signed")
            await run.until(lambda: "e2" in run.agent.identities.held(), "its SVID is there")
        watched = server.calls["Watch"]
        async with agent_in(server=server, keep_server=True, wait=False) as run:
            await run.until(lambda: server.calls["Watch"] > watched, "the agent came back")
            assert server.heard["Watch"] == told
        # A server that was restored: an older number in a new log, which is the one that counts from then on.
        server.change_log, server.change_sequence = "fedcba9876543210", 3
        async with agent_in(server=server) as run:
            server.put(entry("e3", "/restored"))
            told = f"fedcba9876543210/{server.change_sequence}"
            await run.until(lambda: server.heard["BatchNewX509SVID"] == told, "the new log is followed")
        await server.stop()

    run_async(work())


def test_a_process_of_the_server_that_is_behind_costs_no_identity_and_is_left_for_another(
    agent_in: Any, entry: Any, run_async: Any
) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            await run.x509_once()
            server = run.server
            behind = Unavailable("this process of the server is behind")
            server.refuse["BatchNewX509SVID"] = behind
            server.put(entry("e2", "/later"))
            await run.until(lambda: "e2" in run.agent.identities.entries, "the entry was told")
            await run.until(lambda: server.calls["BatchNewX509SVID"] >= 2, "it was asked for twice")
            server.connections.clear()
            server.refuse["Watch"] = behind
            server.change()
            await run.until(lambda: len(server.connections) >= 2, "another connection was tried", 20)
            assert len((await run.x509_once()).svids) == 1, "nothing is taken away"
            server.refuse.clear()
            await run.until(lambda: "e2" in run.agent.identities.held(), "it comes as soon as it can", 20)

    run_async(work())
