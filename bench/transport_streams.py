"""What an idle server stream weighs, and what a unary call costs beside grpcio's server.

`python -m bench.transport_streams [--streams 5000]`: a server in its own process holds that many Workload API
streams, each on a unix connection of its own, idle after one message. Printed is the growth of the server's
resident memory per stream as a ratio to the limit of 40 KiB. Then one client program (grpcio, another
process) calls our server and grpcio's asyncio server in turn, same messages, same machine, same run.
Raw sockets play the clients of the streams: only the server is measured.
"""

import argparse
import asyncio
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from bench.report import Result, command_line, tell
from control_plane.proto import workloadapi_pb2
from control_plane.runtime.loop import raise_file_limit, run
from control_plane.runtime.transport import Call, Server, service
from control_plane.runtime.transport.limits import Limits

LIMIT_KIB = 40.0
DESCRIPTOR = workloadapi_pb2.DESCRIPTOR.services_by_name["SpiffeWorkloadAPI"]
PAYLOAD = workloadapi_pb2.X509SVIDResponse(
    svids=[
        workloadapi_pb2.X509SVID(
            spiffe_id="spiffe://example.org/w",
            x509_svid=b"c" * 1100,
            x509_svid_key=b"k" * 138,
            bundle=b"b" * 600,
        )
    ]
).SerializeToString()
REPLY = workloadapi_pb2.JWTSVIDResponse(
    svids=[workloadapi_pb2.JWTSVID(spiffe_id="spiffe://e/w", svid="t" * 700)]
)


class Workloads:
    """The measured service: one message per stream, then silence; and a small unary call."""

    async def fetch_x509_svid(self, call: Call, request: object) -> AsyncIterator[bytes]:
        yield PAYLOAD
        await asyncio.get_running_loop().create_future()

    async def fetch_jwt_svid(self, call: Call, request: object) -> workloadapi_pb2.JWTSVIDResponse:
        return REPLY


def resident_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


async def serve(path: str) -> None:
    """The server process: answers "memory" lines on standard input with its resident KiB and CPU seconds."""
    server = Server([service(DESCRIPTOR, Workloads())], limits=Limits(idle_timeout_seconds=0))
    await server.listen_unix(path)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        cpu = time.process_time()
        sys.stdout.write(f"{resident_kib()} {cpu} {server.connections}\n")
        sys.stdout.flush()


GRPCIO_SERVER = """
import asyncio, grpc, sys, time
async def main():
    server = grpc.aio.server()
    async def fetch(request, context): return %r
    handlers = {"FetchJWTSVID": grpc.unary_unary_rpc_method_handler(fetch)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("SpiffeWorkloadAPI", handlers),))
    server.add_insecure_port("unix:" + sys.argv[1])
    await server.start()
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(0, time.process_time(), 0, flush=True)
asyncio.run(main())
"""

GRPCIO_CLIENT = """
import asyncio, grpc, sys, time
async def main():
    async with grpc.aio.insecure_channel("unix:" + sys.argv[1]) as channel:
        call = channel.unary_unary("/SpiffeWorkloadAPI/FetchJWTSVID")
        for _ in range(50): await call(b"")
        count, workers = int(sys.argv[2]), 16
        async def worker():
            for _ in range(count // workers): await call(b"")
        started = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(workers)))
        print(count / (time.perf_counter() - started))
asyncio.run(main())
"""


def http2_request(
    path: str = "/SpiffeWorkloadAPI/FetchX509SVID", message: bytes = b"", flags: int = 1
) -> bytes:
    """Preface, SETTINGS, and one request as grpc-go would send it; with `flags` 0 its stream stays open."""

    def literal(name: str, value: str) -> bytes:
        return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()

    headers = b"\x83\x86" + literal(":path", path) + literal(":authority", "localhost")
    headers += literal("content-type", "application/grpc") + literal("te", "trailers")
    headers += literal("user-agent", "grpc-go/1.80.0") + literal("workload.spiffe.io", "true")

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return (
            struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload
        )

    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(4, 0, 0, b"")
        + frame(4, 1, 0, b"")
        + frame(1, 4, 1, headers)
        + frame(0, flags, 1, b"\0" + struct.pack(">I", len(message)) + message)
    )


class Measured:
    """A server in a process of its own."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self) -> tuple[int, float, int]:
        """Resident KiB, CPU seconds, connections."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("?\n")
        self._process.stdin.flush()
        memory, cpu, connections = self._process.stdout.readline().split()
        return int(memory), float(cpu), int(connections)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # else the thread that reads there would hold its end up
        self._process.terminate()
        self._process.wait(timeout=10)


def open_streams(path: str, count: int) -> list[socket.socket]:
    request = http2_request()
    opened = []
    for _ in range(count):
        each = socket.socket(socket.AF_UNIX)
        each.connect(path)  # blocks while the backlog is full; with a timeout it would fail
        each.settimeout(20)
        each.sendall(request)
        opened.append(each)
    for each in opened:
        received = b""
        while b"spiffe://example.org/w" not in received:
            received += each.recv(65536)
    return opened


def measure_memory(path: str, server: Measured, count: int) -> float:
    """KiB of resident memory that one more idle stream takes."""
    open_streams(path, 20)
    before, _, _ = server.ask()
    opened = open_streams(path, count)
    time.sleep(1)
    after, _, connections = server.ask()
    assert connections >= count, f"{connections} connections of {count} are open"
    for each in opened:
        each.close()
    return (after - before) / count


def measure_unary(path: str, server: Measured, calls: int) -> tuple[float, float]:
    """Calls a second and server CPU microseconds a call, seen by grpcio's client."""
    _, before, _ = server.ask()
    done = subprocess.run(
        [sys.executable, "-c", GRPCIO_CLIENT, path, str(calls)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    _, after, _ = server.ask()
    return float(done.stdout), (after - before) / calls * 1e6


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--streams", type=int, default=5000)
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        run(serve(arguments.serve))
        return
    raise_file_limit()
    count = min(arguments.streams, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200)
    with tempfile.TemporaryDirectory(prefix="gh") as folder:
        ours_path, theirs_path = f"{folder}/ours.sock", f"{folder}/theirs.sock"
        ours = Measured([sys.executable, "-m", "bench.transport_streams", "--serve", ours_path])
        theirs = Measured([sys.executable, "-c", GRPCIO_SERVER % REPLY.SerializeToString(), theirs_path])
        try:
            for path in (ours_path, theirs_path):
                while not Path(path).exists():
                    time.sleep(0.05)
            memory = measure_memory(ours_path, ours, count)
            time.sleep(2)
            rate, cost = measure_unary(ours_path, ours, arguments.calls)
            their_rate, their_cost = measure_unary(theirs_path, theirs, arguments.calls)
        finally:
            ours.close()
            theirs.close()
    tell(
        Result(
            name=f"memory of an idle stream, {count} unix connections",
            value=f"{memory:.1f} KiB",
            peer=f"a limit of {LIMIT_KIB:g} KiB",
            ratio=memory / LIMIT_KIB,
            goal=1.0,
        )
    )
    tell(
        Result(
            name=f"server CPU of a unary call, grpcio as client, {rate:.0f} calls/s",
            value=f"{cost:.0f} µs",
            peer=f"grpcio's asyncio server, {their_cost:.0f} µs, {their_rate:.0f} calls/s",
            ratio=cost / their_cost,
            goal=1.0,
        )
    )


if __name__ == "__main__":
    main()
