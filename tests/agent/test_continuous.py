"""Attestation goes on while a stream is open: it ends with the process, and with the selectors."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.attest.process import AnchoredProcess
from agent.attest.unix import Attestation, UnixAttestor
from control_plane.core.errors import PermissionDenied
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import TrustDomain

TD = TrustDomain("agents.test")

# Opens a stream, leaves the socket to a child, and ends: the child goes on reading.
INHERITED = """
import os, socket, sys
sys.path.insert(0, sys.argv[2])
from bench.transport_streams import http2_request
stream = socket.socket(socket.AF_UNIX)
stream.connect(sys.argv[1])
stream.sendall(http2_request())
received = b""
while b"spiffe://agents.test/w" not in received:
    received += stream.recv(65536)
print("got it", flush=True)
if os.fork():
    os._exit(0)
stream.settimeout(20)
while True:
    data = stream.recv(65536)
    received = (received + data)[-4096:]
    if not data or b"\\x01\\x05\\x00\\x00\\x00\\x01" in received:  # the end, or HEADERS that end stream 1
        print("cut off", flush=True)
        break
"""


def test_a_stream_ends_with_its_process_even_if_a_child_keeps_the_socket(
    agent_in: Any, entry: Any, run_async: Any
) -> None:
    root = str(Path(__file__).resolve().parents[2])

    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", INHERITED, str(run.settings.socket_path), root, stdout=subprocess.PIPE
            )
            assert process.stdout is not None
            assert await asyncio.wait_for(process.stdout.readline(), 20) == b"got it\n"
            assert await asyncio.wait_for(process.stdout.readline(), 10) == b"cut off\n"
            await process.communicate()
            await run.until(lambda: run.agent.identities.subscriber_count("e1") == 0, "nobody listens")

    run_async(work())


class Changing:
    """The real attestor, plus what the test says."""

    def __init__(self, real: UnixAttestor) -> None:
        self._real = real
        self.extra: frozenset[Selector] = frozenset()
        self.without: frozenset[Selector] = frozenset()

    def attest(self, process: AnchoredProcess, before: Attestation | None = None) -> Attestation:
        found = self._real.attest(process, before)
        return Attestation((found.selectors | self.extra) - self.without, found.problems, found.executable)


def test_a_selector_that_goes_takes_the_identity_from_the_open_stream(
    agent_in: Any, entry: Any, run_async: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.attest.sessions.SWEEP_SECONDS", 0.05)

    async def work() -> None:
        entries = [entry("e1", "/w"), entry("e2", "/group", "unix:supplementary_gid:4242", created_at=2)]
        async with agent_in(*entries) as run:
            changing = Changing(run.agent.sessions._attestor)
            run.agent.sessions._attestor = changing
            async with run.x509() as call:
                assert len((await call.receive()).svids) == 1
                changing.extra = frozenset({Selector("unix", "supplementary_gid:4242")})
                gained = await asyncio.wait_for(call.receive(), 10)
                assert [svid.spiffe_id for svid in gained.svids] == [
                    f"spiffe://{TD}/w",
                    f"spiffe://{TD}/group",
                ]
                changing.extra = frozenset()
                changing.without = frozenset({Selector("unix", f"uid:{os.getuid()}")})
                with pytest.raises(PermissionDenied, match="no identity issued"):
                    await asyncio.wait_for(call.receive(), 10)

    run_async(work())
