"""How many reads the management API answers over TLS, and how long they take at the rate two cores carry.

`python -m bench.rest_reads [--seconds 10] [--connections 16]`: a real server with some policies and
quarantines to tell of, and clients with one X.509-SVID in a process of their own. Every connection asks again
as soon as it is answered: that is the rate that the machine carries, client included. Then requests come by
the clock at 70 % of that rate, whether the ones before are answered or not, and each is timed from the moment
at which it was due: what the client itself is late counts too, and is told beside it. Told is the 99th
percentile beside 50 ms. All the while somebody is cut off or let in again each second; how long that takes
during each of the two parts is told as well.

The two parts take turns of a few seconds, and each turn by the clock goes by the rate of the turn before it:
a machine that gets slower while others use it would else be asked for more than it carries. The client runs
on the same two cores, so it is made to cost little (uvloop, a collector that rests, one task a connection).
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
from dataclasses import dataclass, field
from pathlib import Path

from bench._agent_lab import BIN, _free_port, _until
from bench.report import Result, command_line, tell
from control_plane.runtime import loop
from control_plane.runtime.transport.peer import read_unix_peer

LIMIT_MILLISECONDS = 50.0
SHARE = 0.7
TURNS = 4
TICK_SECONDS = 0.001
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


@dataclass(slots=True)
class Measured:
    """Answers and seconds of the turns flat out, and processor seconds of server and client then; of those by
    the clock the rates, what each answer took from when it was due, and how late the client woke to ask for
    it, in milliseconds; and the milliseconds of the changes in each of the two parts."""

    answers: int = 0
    seconds: float = 0.0
    server: float = 0.0
    client: float = 0.0
    rates: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    changes: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    """False: flat out, True: by the clock."""

    @property
    def rate(self) -> float:
        """Answers a second, flat out."""
        return self.answers / self.seconds


async def flat_out(connections: list[Connection], seconds: float, found: Measured) -> float:
    """Answers a second when everybody asks again at once."""
    answered, begin = 0, time.perf_counter()

    async def one(connection: Connection, number: int) -> None:
        nonlocal answered
        while time.perf_counter() < begin + seconds:
            await connection.ask(PATHS[number % len(PATHS)])
            number += 1
            answered += 1

    await asyncio.gather(*(one(connection, number) for number, connection in enumerate(connections)))
    took = time.perf_counter() - begin
    found.answers += answered
    found.seconds += took
    return answered / took


async def by_the_clock(connections: list[Connection], rate: float, seconds: float, found: Measured) -> None:
    """Requests that are due at a steady rate; a connection that is free takes the one that waits longest."""
    asked: asyncio.Queue[tuple[float, str] | None] = asyncio.Queue()

    async def one(connection: Connection) -> None:
        while (next_one := await asked.get()) is not None:
            due, path = next_one
            await connection.ask(path)
            found.times.append((time.perf_counter() - due) * 1000)

    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(one(connection))
        begin, number = time.perf_counter(), 0
        while number < int(rate * seconds):
            now = time.perf_counter()
            while (due := begin + number / rate) <= now:
                found.late.append((now - due) * 1000)
                asked.put_nowait((due, PATHS[number % len(PATHS)]))
                number += 1
            await asyncio.sleep(TICK_SECONDS)
        for _ in connections:
            asked.put_nowait(None)
    found.rates.append(rate)


async def keep_changing(folder: Path, found: Measured, clocked: asyncio.Event) -> None:
    """One change a second, by the local user, until cancelled."""
    reader, writer = await asyncio.open_unix_connection(folder / "server" / "api.sock")
    change = {"spiffe_id": f"spiffe://{TRUST_DOMAIN}/changing", "reason": "bench"}
    body = json.dumps(change).encode()
    while True:
        for path in ("/v1/quarantine", "/v1/quarantine/release"):
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            began, by_clock = time.perf_counter(), clocked.is_set()
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            await read_answer(reader, path)
            found.changes[by_clock].append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(1.0)


async def play(folder: Path, port: int, count: int, seconds: float) -> Measured:
    """Both parts, in turns."""
    connections = await connected(folder, port, count)
    await flat_out(connections, 1.0, Measured())  # code and caches are warm
    found, clocked = Measured(), asyncio.Event()
    changing = asyncio.create_task(keep_changing(folder, found, clocked))
    for _ in range(TURNS):
        clocked.clear()
        before, ours = cpu_seconds(folder), time.process_time()
        rate = await flat_out(connections, seconds / TURNS, found)
        found.server += cpu_seconds(folder) - before
        found.client += time.process_time() - ours
        clocked.set()
        await by_the_clock(connections, rate * SHARE, seconds / TURNS, found)
    if changing.done():
        changing.result()  # it ends by what went wrong alone
    changing.cancel()
    return found


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
        found = loop.run(play(Path(name), port, chosen.connections, chosen.seconds))
    rate, slow = statistics.mean(found.rates), percentile(found.times)
    flat, clocked = (max(found.changes[part], default=0.0) for part in (False, True))
    print(
        f"{found.rate:.0f} reads/s over TLS flat out on {os.cpu_count()} cores, client included; processor "
        f"each: {found.server / found.answers * 1000:.2f} ms in the server, "
        f"{found.client / found.answers * 1000:.2f} ms in the client; at {rate:.0f}/s: median "
        f"{statistics.median(found.times):.1f} ms, p99 {slow:.1f} ms, max {max(found.times):.1f} ms; the "
        f"client woke late by p99 {percentile(found.late):.1f} ms; a change took up to "
        f"{flat:.0f} ms flat out and {clocked:.0f} ms at that rate"
    )
    tell(
        Result(
            name=f"REST reads at {rate:.0f}/s, p99",
            value=f"{slow:.1f} ms",
            peer=f"{LIMIT_MILLISECONDS:.0f} ms",
            ratio=slow / LIMIT_MILLISECONDS,
            goal=1.0,
        )
    )


def percentile(milliseconds: list[float]) -> float:
    """The 99th."""
    return statistics.quantiles(milliseconds, n=100)[98]


if __name__ == "__main__":
    main()
