"""Attestation that goes on: processes that end, change, or can't be seen."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

from agent.attest.process import AnchoredProcess
from agent.attest.sessions import Sessions
from agent.attest.unix import Attestation
from control_plane.core.errors import PermissionDenied, Unavailable
from control_plane.core.selectors import Selector
from control_plane.runtime.transport import Peer, UnixPeer

A = frozenset({Selector("unix", "uid:1")})
B = frozenset({Selector("unix", "uid:2")})


class Scripted:
    """An attestor that finds what it is told to find."""

    def __init__(self) -> None:
        self.selectors = A
        self.raises: Exception | None = None

    def attest(self, process: AnchoredProcess, before: Attestation | None = None) -> Attestation:
        if self.raises is not None:
            raise self.raises
        with process.reading():
            return Attestation(self.selectors)


def peer(pid: int, pidfd: int | None) -> Peer:
    return Peer("unix", f"unix:{pid}", unix=UnixPeer(pid, 0, 0, pidfd))


def run(work: Callable[[], Any]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await work()

    asyncio.run(bounded())


def test_a_session_ends_with_its_process() -> None:
    async def work() -> None:
        child = await asyncio.create_subprocess_exec("sleep", "60")
        sessions = Sessions(Scripted())
        connection = peer(child.pid, os.pidfd_open(child.pid))
        session = await sessions.of(connection)
        told = asyncio.Event()
        session.listeners.add(told.set)
        child.kill()
        await child.wait()
        await asyncio.wait_for(told.wait(), 2)
        assert session.ended and len(sessions) == 0
        with pytest.raises(PermissionDenied, match="ended"):
            await sessions.of(connection)
        connection.close()
        sessions.close()

    run(work)


def test_each_call_attests_anew_and_changes_are_told() -> None:
    async def work() -> None:
        attestor = Scripted()
        sessions = Sessions(attestor)
        connection = peer(os.getpid(), os.pidfd_open(os.getpid()))
        session = await sessions.of(connection)
        told: list[int] = []
        session.listeners.add(lambda: told.append(1))
        assert await sessions.of(connection) is session and not told
        attestor.selectors = B
        assert (await sessions.of(connection)).selectors == B
        assert told == [1]
        connection.close()
        assert session.ended
        sessions.close()

    run(work)


def test_open_sessions_are_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        monkeypatch.setattr("agent.attest.sessions.SWEEP_SECONDS", 0.01)
        monkeypatch.setattr("agent.attest.sessions.RECHECK_SECONDS", 5.05)
        attestor = Scripted()
        sessions = Sessions(attestor)
        connections = [peer(os.getpid(), os.pidfd_open(os.getpid())) for _ in range(10)]
        found = [await sessions.of(connection) for connection in connections]
        stop = asyncio.Event()
        task = asyncio.create_task(sessions.run(stop))
        attestor.selectors = B
        while any(session.selectors != B for session in found):  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.01)
        attestor.raises = Unavailable("the disk is slow")
        await asyncio.sleep(0.05)
        assert all(session.selectors == B and not session.ended for session in found)
        stop.set()
        await task
        for connection in connections:
            connection.close()
        sessions.close()

    run(work)


@pytest.mark.parametrize("pid", [0, -1])
def test_a_caller_in_another_pid_namespace_is_refused(pid: int) -> None:
    async def work() -> None:
        sessions = Sessions(Scripted())
        with pytest.raises(PermissionDenied, match="which process"):
            await sessions.of(peer(pid, None))
        sessions.close()

    run(work)


def test_a_caller_that_ended_before_it_was_asked_for_is_refused() -> None:
    async def work() -> None:
        sessions = Sessions(Scripted())
        if not sessions._kernel_gives_pidfds:
            pytest.skip("this kernel has no SO_PEERPIDFD")
        # The number may be another process's by now; here it is even our own.
        with pytest.raises(PermissionDenied, match="ended"):
            await sessions.of(peer(os.getpid(), None))
        sessions.close()

    run(work)


def test_the_kernel_names_the_process_behind_a_socket() -> None:
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        try:
            pidfd = left.getsockopt(socket.SOL_SOCKET, 77)
        except OSError:
            pytest.skip("this kernel has no SO_PEERPIDFD")
        process = AnchoredProcess(os.getpid(), pidfd)
        assert process.alive()
        process.close()
