"""The Workload Endpoint, rule by rule (SPIFFE_Workload_Endpoint.md): the socket, the header, the statuses."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from control_plane.core.errors import (
    InvalidInput,
    Unavailable,
    Unimplemented,
)
from control_plane.core.spiffe_id import TrustDomain
from control_plane.proto import workloadapi_pb2 as pb

TD = TrustDomain("agents.test")
STREAMS = [
    ("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse),
    ("FetchX509Bundles", pb.X509BundlesRequest(), pb.X509BundlesResponse),
    ("FetchJWTBundles", pb.JWTBundlesRequest(), pb.JWTBundlesResponse),
]


def test_e_01_grpc_on_a_unix_socket_that_everybody_may_open(
    agent_in: Any, entry: Any, run_async: Any
) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            mode = os.lstat(run.settings.socket_path).st_mode
            assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o777
            admin = os.lstat(run.settings.admin_socket_path).st_mode
            assert stat.S_IMODE(admin) == 0o600

    run_async(work())


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("workload.spiffe.io", "True"),),
        (("workload.spiffe.io", "false"),),
        (("workload.spiffe.io", ""),),
        (("workload.spiffe.io", "true"), ("workload.spiffe.io", "true")),
        (("workload.spiffe.io", "true,true"),),
    ],
)
def test_e_03_the_header_is_required_exactly_once(
    agent_in: Any, entry: Any, run_async: Any, metadata: Any
) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            for name, request, kind in STREAMS:
                with pytest.raises(InvalidInput, match="security header"):
                    await run.first(name, request, kind, metadata)
            with pytest.raises(InvalidInput, match="security header"):
                await run.unary(
                    "FetchJWTSVID", pb.JWTSVIDRequest(audience=["a"]), pb.JWTSVIDResponse, metadata
                )
            with pytest.raises(InvalidInput, match="security header"):
                await run.unary(
                    "ValidateJWTSVID",
                    pb.ValidateJWTSVIDRequest(audience="a", svid="a.b.c"),
                    pb.ValidateJWTSVIDResponse,
                    metadata,
                )

    run_async(work())


def test_e_05_the_workload_proves_nothing_by_itself(agent_in: Any, entry: Any, run_async: Any) -> None:
    path = Path("/proc/self/exe").readlink()

    async def work() -> None:
        async with agent_in(entry("e1", "/by-path", f"unix:path:{path}", f"unix:gid:{os.getgid()}")) as run:
            message = await run.x509_once()  # no credential was sent; the kernel said who asked
            assert message.svids[0].spiffe_id == f"spiffe://{TD}/by-path"

    run_async(work())


def test_e_07_unavailable_while_the_agent_knows_nothing(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        def refuse(server: Any) -> None:
            server.refuse["AttestAgent"] = Unavailable("starting")

        async with agent_in(entry("e1", "/w"), before=refuse, wait=False) as run:
            for name, request, kind in STREAMS:
                with pytest.raises(Unavailable):
                    await run.first(name, request, kind)
            run.server.refuse.clear()
            await run.until(lambda: not run.agent.ready(), "ready after the server came", 15)
            assert (await run.x509_once()).svids

    run_async(work())


def test_e_07_unknown_methods_are_unimplemented(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            with pytest.raises(Unimplemented):
                await run.unary("FetchEverything", pb.X509SVIDRequest(), pb.X509SVIDResponse)

    run_async(work())


def test_e_08_reflection_is_served(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        from control_plane.proto.grpc.reflection.v1 import reflection_pb2

        async with agent_in(entry("e1", "/w")) as run:
            path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            async with run.channel.stream(path, reflection_pb2.ServerReflectionResponse, timeout=10) as call:
                await call.send(reflection_pb2.ServerReflectionRequest(list_services="*"), end=True)
                names = {each.name for each in (await call.receive()).list_services_response.service}
            assert {"SpiffeWorkloadAPI", "grpc.health.v1.Health"} <= names

    run_async(work())


def test_e_09_the_workload_api_is_always_there(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w"), keep_server=True) as run:
            server = run.server
            await run.x509_once()
            await run.agent.storage.save_workloads()
        await server.stop()
        # The server is away; the agent starts and serves from what it wrote down.
        async with agent_in(server=server, wait=False) as run:
            assert (await run.x509_once()).svids[0].spiffe_id == f"spiffe://{TD}/w"

    run_async(work())


def test_e_04_no_tls_and_no_client_authentication_is_needed(
    agent_in: Any, entry: Any, run_async: Any
) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            _, writer = await asyncio.open_unix_connection(str(run.settings.socket_path))
            assert writer.get_extra_info("ssl_object") is None
            writer.close()
            assert (await run.x509_once()).svids

    run_async(work())
