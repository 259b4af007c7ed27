"""How many reads the management API answers over TLS, and how long they take at the rate two cores carry.

`python -m bench.rest_reads [--seconds 10] [--connections 16]`: a real server with some policies and
quarantines to tell of, and clients with one X.509-SVID in a process of their own. First every connection
asks again as soon as it is answered: that is the rate that the machine carries, client included. Then
requests come by the clock at 70 % of that rate, whether the ones before are answered or not, and each is
timed from the moment at which it was due. Told is the 99th percentile beside 50 ms. All the while somebody is
cut off or let in again each second, so that nothing that the server remembers stays true for longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench._agent_lab import BIN, _free_port, _until
from bench.report import Result, command_line, tell
from control_plane.runtime.transport.peer import read_unix_peer

LIMIT_MILLISECONDS = 50.0
SHARE = 0.7
TRUST_DOMAIN = "bench.test"
READER = f"spiffe://{TRUST_DOMAIN}/reader"
PATHS = (
    "/v1/policy/status",
    "/v1/policy/versions?limit=20",
    "/v1/quarantine?limit=50",
    "/v1/health",
    "/v1/policy/versions/1",
    "/v1/authority/x509",
)
SETTINGS = """
[roles]
grants = ["{reader} viewer"]
[api]
bind = "127.0.0.1:{port}"
subject_requests_per_second = 0
address_requests_per_second = 0
"""


class Connection:
    """One keep-alive connection that asks and reads whole answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, path: str) -> None:
        """One request. Raises RuntimeError for any answer but 200."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        await read_answer(self._reader, path)


async def read_answer(reader: asyncio.StreamReader, path: str) -> None:
    """One whole answer. Raises RuntimeError for any but 200."""
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"{path}: {head[:200]!r}")
    length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))


async def connected(folder: Path, port: int, count: int) -> list[Connection]:
    """Connections with a client certificate."""
    context = ssl.create_default_context(cafile=str(folder / "server" / "bundle.pem"))
    context.load_cert_chain(folder / "svid.pem", folder / "key.pem")
    return [Connection(*await asyncio.open_connection("localhost", port, ssl=context)) for _ in range(count)]


async def flat_out(connections: list[Connection], seconds: float) -> float:
    """Answers a second when everybody asks again at once."""
    answered, end = 0, time.perf_counter() + seconds

    async def one(connection: Connection, number: int) -> None:
        nonlocal answered
        while time.perf_counter() < end:
            await connection.ask(PATHS[number % len(PATHS)])
            number += 1
            answered += 1

    began = time.perf_counter()
    await asyncio.gather(*(one(connection, number) for number, connection in enumerate(connections)))
    return answered / (time.perf_counter() - began)


async def by_the_clock(connections: list[Connection], rate: float, seconds: float) -> list[float]:
    """Milliseconds from when each request was due until it was answered."""
    idle: asyncio.Queue[Connection] = asyncio.Queue()
    for connection in connections:
        idle.put_nowait(connection)
    times: list[float] = []

    async def one(due: float, path: str) -> None:
        connection = await idle.get()
        await connection.ask(path)
        times.append((time.perf_counter() - due) * 1000)
        idle.put_nowait(connection)

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            due = begin + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(one(due, PATHS[number % len(PATHS)]))
    return times


async def keep_changing(folder: Path) -> None:
    """One change a second, by the local user, until cancelled."""
    reader, writer = await asyncio.open_unix_connection(folder / "server" / "api.sock")
    change = {"spiffe_id": f"spiffe://{TRUST_DOMAIN}/changing", "reason": "bench"}
    body = json.dumps(change).encode()
    while True:
        for path in ("/v1/quarantine", "/v1/quarantine/release"):
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            await read_answer(reader, path)
            await asyncio.sleep(1.0)


@dataclass(frozen=True, slots=True)
class Measured:
    """`rate` flat out, in answers a second; milliseconds of processor that a read costs server and client
    then; and how long each took by the clock, in milliseconds."""

    rate: float
    server: float
    client: float
    times: list[float]


async def play(folder: Path, port: int, count: int, seconds: float) -> Measured:
    """Both parts."""
    connections = await connected(folder, port, count)
    changing = asyncio.create_task(keep_changing(folder))
    await flat_out(connections, 1.0)  # code and caches are warm
    before, ours = cpu_seconds(folder), time.process_time()
    rate = await flat_out(connections, seconds)
    server = (cpu_seconds(folder) - before) / (rate * seconds) * 1000
    client = (time.process_time() - ours) / (rate * seconds) * 1000
    times = await by_the_clock(connections, rate * SHARE, seconds)
    if changing.done():
        changing.result()  # it ends by what went wrong alone
    changing.cancel()
    return Measured(rate, server, client, times)


def cpu_seconds(folder: Path) -> float:
    """Processor time of the management process so far."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(folder / "server" / "api.sock"))
        pid = read_unix_peer(probe).pid
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def server(folder: Path) -> Iterator[int]:
    """A running server with something to tell, and an SVID of the reader's; gives the port of its API."""
    port, data = _free_port(), folder / "server"
    (folder / "server.toml").write_text(SETTINGS.format(reader=READER, port=port))
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [
                BIN / "gatehouse", "server", "run", "--config", folder / "server.toml", "--data-dir", data,
                "--trust-domain", TRUST_DOMAIN, "--bind", f"127.0.0.1:{_free_port()}", "--issuers", "1",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        _until(lambda: _runs("healthcheck", "--data-dir", data), "the server")
        fill(data / "api.sock")
        _run("svid", "mint", "x509", "--spiffe-id", READER, "--write", folder, "--data-dir", data)
        _until(lambda: _open(port), "the API")
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)


def fill(path: Path) -> None:
    """A hundred identities that are cut off, and ten versions of a policy."""
    asked: list[tuple[str, dict[str, object]]] = [
        ("/v1/quarantine", {"spiffe_id": f"spiffe://{TRUST_DOMAIN}/odd/{number}", "reason": "bench"})
        for number in range(100)
    ]
    inventory = f"mesh: {{trust_domain: {TRUST_DOMAIN}}}\n"
    for number in range(10):
        files = {"a.rego": f"package a\n\nx := {number}\n"}
        body: dict[str, object] = {
            "files": files,
            "inventory": inventory,
            "reason": "bench",
            "wait_seconds": 30,
        }
        asked.append(("/v1/policy/versions", body))
    for where, asking in asked:
        curl = ["curl", "--silent", "--fail", "--unix-socket", str(path), "--json", json.dumps(asking)]
        subprocess.run([*curl, f"http://localhost{where}"], check=True, stdout=subprocess.DEVNULL)


def _open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _run(*command: str | Path) -> None:
    subprocess.run([BIN / "gatehouse", *command], check=True, stdout=subprocess.DEVNULL)


def _runs(*command: str | Path) -> bool:
    done = subprocess.run(
        [BIN / "gatehouse", *command], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return done.returncode == 0


def main() -> None:
    """Measures and tells."""
    parser = command_line(__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=16)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ghb") as name, server(Path(name)) as port:
        found = asyncio.run(play(Path(name), port, chosen.connections, chosen.seconds))
    rate, late = found.rate, statistics.quantiles(found.times, n=100)[98]
    print(
        f"{rate:.0f} reads/s over TLS flat out on {os.cpu_count()} cores, client included; processor each: "
        f"{found.server:.2f} ms in the server, {found.client:.2f} ms in the client; at {rate * SHARE:.0f}/s: "
        f"median {statistics.median(found.times):.1f} ms, p99 {late:.1f} ms, max {max(found.times):.1f} ms"
    )
    tell(
        Result(
            name=f"REST reads at {rate * SHARE:.0f}/s, p99",
            value=f"{late:.1f} ms",
            peer=f"{LIMIT_MILLISECONDS:.0f} ms",
            ratio=late / LIMIT_MILLISECONDS,
            goal=1.0,
        )
    )


if __name__ == "__main__":
    main()
