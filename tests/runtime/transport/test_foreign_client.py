"""grpcio, a client that we didn't write, against our server; in a process of its own."""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from control_plane.proto.google.rpc.status_pb2 import Status
from control_plane.proto.grpc.health.v1 import health_pb2
from control_plane.proto.grpc.reflection.v1alpha import reflection_pb2
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.types.entry_pb2 import Entry
from control_plane.proto.spire.api.types.status_pb2 import PermissionDeniedDetails
from control_plane.runtime.transport import Server

Run = Callable[[Coroutine[Any, Any, Any]], Any]

# Reads one JSON list of calls, makes them, prints one JSON list of results. Messages travel as hex.
CLIENT = """
import grpc, json, sys
channel = grpc.insecure_channel("unix:" + sys.argv[1], options=[("grpc.max_receive_message_length", -1)])
results = []
for call in json.load(sys.stdin):
    requests = [bytes.fromhex(each) for each in call["requests"]]
    result = {"replies": []}
    try:
        if call["kind"] == "unary":
            reply, rpc = channel.unary_unary(call["method"]).with_call(
                requests[0], timeout=call["timeout"], metadata=call.get("metadata")
            )
            result["replies"].append(reply.hex())
            result["initial"] = [list(each) for each in rpc.initial_metadata()]
            result["trailing"] = [list(each) for each in rpc.trailing_metadata()]
        elif call["kind"] == "server_stream":
            for reply in channel.unary_stream(call["method"])(requests[0], timeout=call["timeout"]):
                result["replies"].append(reply.hex())
                if len(result["replies"]) == call.get("take"):
                    break
        else:
            for reply in channel.stream_stream(call["method"])(iter(requests), timeout=call["timeout"]):
                result["replies"].append(reply.hex())
        result["code"] = 0
    except grpc.RpcError as error:
        result["code"] = error.code().value[0]
        result["details"] = error.details()
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                result["status"] = value.hex()
    results.append(result)
json.dump(results, sys.stdout)
"""


def call(
    method: str, *requests: Any, kind: str = "unary", timeout: float = 20, **more: Any
) -> dict[str, Any]:
    serialised = [request.SerializeToString().hex() for request in requests]
    return {"method": method, "requests": serialised, "kind": kind, "timeout": timeout, **more}


def made(run: Run, services: Any, folder: Path, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    async def main() -> list[dict[str, Any]]:
        server = Server(services)
        await server.listen_unix(folder / "s.sock")
        client = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            CLIENT,
            str(folder / "s.sock"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            output, _ = await client.communicate(json.dumps(calls).encode())
        finally:
            await server.close(0.1)
        results: list[dict[str, Any]] = json.loads(output)
        return results

    results: list[dict[str, Any]] = run(main())
    return results


GET = "/spire.api.server.entry.v1.Entry/GetEntry"


def test_unary_calls_metadata_errors_and_details(run: Run, services: Any, short_dir: Path) -> None:
    ids = ["a", "metadata", "not-found", "banned", "bug", "big:5000000", "i" * 3_000_000, "i" * 4_300_000]
    calls = [call(GET, entry_pb2.GetEntryRequest(id=each), metadata=[["x-asked", "yes"]]) for each in ids]
    calls.append(call(GET, entry_pb2.GetEntryRequest(id="slow"), timeout=0.3))
    calls.append(
        call("/spire.api.server.entry.v1.Entry/BatchCreateEntry", entry_pb2.BatchCreateEntryRequest())
    )
    a, metadata, not_found, banned, bug, big, large, too_large, slow, missing = made(
        run, services, short_dir, calls
    )
    assert Entry.FromString(bytes.fromhex(a["replies"][0])).id == "a"
    assert ["x-first", "yes"] in metadata["initial"] and ["x-last", "1"] in metadata["trailing"]
    assert (not_found["code"], not_found["details"]) == (5, "entry 'ü 100%': there is none — create it")
    assert banned["code"] == 7
    status = Status.FromString(bytes.fromhex(banned["status"]))
    details = PermissionDeniedDetails()
    assert status.details[0].Unpack(details)
    assert (status.code, details.reason) == (7, PermissionDeniedDetails.AGENT_BANNED)
    assert bug["code"] == 13 and "secret-detail" not in bug["details"] and "internal error" in bug["details"]
    assert big["code"] == 0, big
    assert len(Entry.FromString(bytes.fromhex(big["replies"][0])).hint) == 5_000_000
    assert len(Entry.FromString(bytes.fromhex(large["replies"][0])).id) == 3_000_000
    assert too_large["code"] == 8
    assert slow["code"] == 4
    assert missing["code"] == 12


def test_streams_health_and_reflection(run: Run, services: Any, short_dir: Path) -> None:
    requests = [entry_pb2.SyncAuthorizedEntriesRequest(ids=[str(number)]) for number in range(300)]
    watch = health_pb2.HealthCheckRequest(service="spire.api.server.entry.v1.Entry")
    listing = reflection_pb2.ServerReflectionRequest(list_services="*")
    symbol = reflection_pb2.ServerReflectionRequest(file_containing_symbol="spire.api.server.entry.v1.Entry")
    unknown = reflection_pb2.ServerReflectionRequest(file_containing_symbol="spiffe.broker.API")
    info = "/grpc.reflection.{}.ServerReflection/ServerReflectionInfo"
    sync, check, unknown_check, watched, reflected, reflected_v1 = made(
        run,
        services,
        short_dir,
        [
            call("/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries", *requests, kind="bidi"),
            call("/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest()),
            call("/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(service="x")),
            call("/grpc.health.v1.Health/Watch", watch, kind="server_stream", take=1),
            call(info.format("v1alpha"), listing, symbol, unknown, kind="bidi"),
            call(info.format("v1"), listing, kind="bidi"),
        ],
    )
    assert (sync["code"], len(sync["replies"])) == (0, 301)
    assert health_pb2.HealthCheckResponse.FromString(bytes.fromhex(check["replies"][0])).status == 1
    assert unknown_check["code"] == 5
    assert health_pb2.HealthCheckResponse.FromString(bytes.fromhex(watched["replies"][0])).status == 2
    answers = [
        reflection_pb2.ServerReflectionResponse.FromString(bytes.fromhex(each))
        for each in reflected["replies"]
    ]
    names = [each.name for each in answers[0].list_services_response.service]
    assert names == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "spire.api.server.entry.v1.Entry",
    ]
    files = answers[1].file_descriptor_response.file_descriptor_proto
    assert entry_pb2.DESCRIPTOR.serialized_pb == files[0] and len(files) > 4
    assert answers[2].error_response.error_code == 5
    assert reflected_v1["code"] == 0
