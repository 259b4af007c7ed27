"""A real server and a real agent on loopback for the agent's benchmarks, and streams made of raw sockets.

Both are started as an operator would start them, in a folder of their own, and ended by their process id.
The streams speak just enough HTTP/2 to open FetchX509SVID and to grant the agent all the window it wants: the
client costs next to nothing, so what is measured is the agent.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bench.transport_streams import http2_request
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.types import entry_pb2 as types
from control_plane.proto.spire.api.types.selector_pb2 import Selector
from control_plane.proto.spire.api.types.spiffeid_pb2 import SPIFFEID
from control_plane.runtime.transport import Channel

TRUST_DOMAIN = "bench.test"
ENTRY = "/spire.api.server.entry.v1.Entry/"
BIN = Path(sys.executable).parent
START_SECONDS = 60.0
LARGEST_WINDOW = 2**31 - 1 - 65_535


class Lab:
    """The two processes; `folder` holds their data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        self.agent: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> str:
        """The Workload API."""
        return str(self.folder / "agent" / "agent.sock")

    @property
    def server_socket(self) -> str:
        """The server's admin API."""
        return str(self.folder / "server" / "server.sock")

    def start(self) -> None:
        """Starts both and waits until the agent serves."""
        server = ["--data-dir", str(self.folder / "server")]
        bind = f"127.0.0.1:{self.port}"
        self._run(
            "server",
            "gatehouse",
            "server",
            "run",
            *server,
            "--trust-domain",
            TRUST_DOMAIN,
            "--bind",
            bind,
            "--issuers",
            "1",
        )
        _until(lambda: self._succeeds("gatehouse", "healthcheck", *server), "the server")
        bundle = self.folder / "bundle.pem"
        bundle.write_text(self._answer("bundle", "show", *server)["pem"])
        token = self._answer("token", "generate", "--spiffe-id", f"spiffe://{TRUST_DOMAIN}/node", *server)[
            "token"
        ]
        agent = ["--data-dir", str(self.folder / "agent")]
        self.agent = self._run(
            "agent", "gatehouse-agent", "run", *agent, "--trust-domain", TRUST_DOMAIN, "--server", bind,
            "--trust-bundle", str(bundle), "--join-token", token,
        )  # fmt: skip
        _until(lambda: self._succeeds("gatehouse-agent", "healthcheck", *agent), "the agent")

    def stop(self) -> None:
        """Ends both."""
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            if process.poll() is None:
                process.kill()

    def agent_memory_kib(self) -> int:
        """Resident memory of the agent."""
        assert self.agent is not None
        status = Path(f"/proc/{self.agent.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    def _run(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen([str(BIN / command[0]), *command[1:]], stdout=log, stderr=log)
        self._processes.append(process)
        return process

    def _answer(self, *command: str) -> Any:
        done = subprocess.run(
            [str(BIN / "gatehouse"), *command, "--output", "json"],
            capture_output=True,
            check=True,
            timeout=60,
        )
        return json.loads(done.stdout)

    @staticmethod
    def _succeeds(*command: str) -> bool:
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]], capture_output=True, check=False, timeout=60
        )
        return done.returncode == 0


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    """A running lab; its logs are shown if something fails."""
    folder = Path(tempfile.mkdtemp(prefix="gh"))
    made = Lab(folder)
    try:
        made.start()
        yield made
    except BaseException:
        for log in folder.glob("*.log"):
            print(f"--- {log.name}\n" + log.read_text(errors="replace")[-3000:], file=sys.stderr)
        raise
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def new_entry(path: str, *selectors: str) -> types.Entry:
    """An entry below the lab's node."""
    pairs = (selector.partition(":") for selector in selectors)
    return types.Entry(
        spiffe_id=SPIFFEID(trust_domain=TRUST_DOMAIN, path=path),
        parent_id=SPIFFEID(trust_domain=TRUST_DOMAIN, path="/node"),
        selectors=[Selector(type=kind, value=value) for kind, _, value in pairs],
    )


async def create(channel: Channel, entries: Iterable[types.Entry]) -> list[str]:
    """Registers entries, 500 at a time; gives their IDs."""
    waiting, ids = list(entries), []
    while waiting:
        share, waiting = waiting[:500], waiting[500:]
        response = await channel.unary(
            ENTRY + "BatchCreateEntry",
            entry_pb2.BatchCreateEntryRequest(entries=share),
            entry_pb2.BatchCreateEntryResponse,
            timeout=60,
        )
        for result in response.results:
            if result.status.code:
                raise RuntimeError(f"registering an entry: {result.status.message}")
            ids.append(result.entry.id)
    return ids


async def delete(channel: Channel, ids: list[str]) -> None:
    """Removes entries."""
    await channel.unary(
        ENTRY + "BatchDeleteEntry",
        entry_pb2.BatchDeleteEntryRequest(ids=ids),
        entry_pb2.BatchDeleteEntryResponse,
        timeout=60,
    )


def open_stream(path: str, request: bytes = b"") -> socket.socket:
    """One stream on a connection of its own, with all the window there can be: FetchX509SVID if no other
    request is given."""
    opened = socket.socket(socket.AF_UNIX)
    opened.connect(path)
    windows = b"".join(b"\0\0\4\x08\0" + struct.pack(">II", stream, LARGEST_WINDOW) for stream in (0, 1))
    opened.sendall((request or http2_request()) + windows)
    return opened


def wait_for(sockets: list[socket.socket], text: bytes, seconds: float = 120.0) -> None:
    """Reads each until the text has come."""
    deadline = time.monotonic() + seconds
    for each in sockets:
        each.settimeout(max(deadline - time.monotonic(), 0.1))
        received = b""
        while text not in received:
            data = each.recv(1 << 16)
            if not data:
                raise RuntimeError(f"the agent closed a stream: {received[-200:]!r}")
            received += data


def wait_for_identity(path: str, text: bytes) -> None:
    """Tries until a stream gets the identity: the entry takes a moment to reach the agent."""

    def heard() -> bool:
        with open_stream(path) as stream:
            try:
                wait_for([stream], text, seconds=1.0)
            except (TimeoutError, RuntimeError):
                return False
            return True

    _until(heard, "the agent, for this process,")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} doesn't serve after {START_SECONDS:.0f} s")
        time.sleep(0.2)


def uid_selector() -> str:
    """What all streams of a benchmark have in common."""
    return f"unix:uid:{os.getuid()}"
