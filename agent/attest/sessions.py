"""Attestation that goes on while a connection is open.

Each connection to the Workload API is one `Session`: the process behind it, anchored when the first call
comes, and what was last found out about it. Every call attests anew; besides, each open session is looked at
again within `RECHECK_SECONDS`, and ends the moment its process does (the pidfd tells the event loop). Whoever
listens to a session hears of both.

Reading /proc, name services and hashing block, so they run in two worker threads; a queue that is too long
is answered with Unavailable rather than with waiting.
"""

import asyncio
import os
import socket
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from agent.attest.process import AnchoredProcess, ProcessEnded
from agent.attest.unix import Attestation
from agent.waiting import wait_any
from control_plane.core.errors import GatehouseError, PermissionDenied, Unavailable
from control_plane.core.selectors import Selectors
from control_plane.runtime.log import get_logger
from control_plane.runtime.transport import Peer

RECHECK_SECONDS: Final = 30
SWEEP_SECONDS: Final = 1.0
ATTESTATION_TIMEOUT_SECONDS: Final = 15.0
MAX_WAITING: Final = 4096
MAX_RECENT: Final = 512
SO_PEERPIDFD: Final = 77

_log = get_logger(__name__)


class WorkloadAttestor(Protocol):
    """Finds selectors of a process. Blocking, thread-safe. Raises ProcessEnded, Unavailable."""

    def attest(self, process: AnchoredProcess, before: Attestation | None = None) -> Attestation: ...


class Session:
    """One connection of one process. `selectors` are those of the last look."""

    __slots__ = ("__weakref__", "attestation", "ended", "listeners", "process")

    def __init__(self, process: AnchoredProcess) -> None:
        self.process = process
        self.attestation: Attestation | None = None
        self.ended = False
        self.listeners: set[Callable[[], None]] = set()

    @property
    def selectors(self) -> Selectors:
        """What the process is known by; empty before it was attested."""
        return self.attestation.selectors if self.attestation is not None else frozenset()

    def tell(self) -> None:
        """Wakes everybody who listens."""
        for listener in tuple(self.listeners):
            listener()


class Sessions:
    """All open sessions; made and used on one event loop. Call `close` at the end."""

    def __init__(self, attestor: WorkloadAttestor) -> None:
        self._attestor = attestor
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="attest")
        self._sessions: OrderedDict[Session, None] = OrderedDict()  # the next to be looked at first
        self._waiting = 0
        self._recent: OrderedDict[Attestation, Attestation] = OrderedDict()
        self._kernel_gives_pidfds = _kernel_gives_pidfds()

    def __len__(self) -> int:
        return len(self._sessions)

    async def of(self, peer: Peer) -> Session:
        """The session of a connection, attested now. Raises PermissionDenied if the caller is no process
        that can be seen from here, Unavailable if it can't be attested at present."""
        session = peer.attributes.get("session")
        if not isinstance(session, Session):
            session = self._begin(peer)
        await self._look(session)
        if session.ended:
            raise PermissionDenied("attesting the caller: its process has ended")
        return session

    async def explain(self, pid: int) -> Attestation:
        """Attests any process once, for an administrator. Raises ProcessEnded (NotFound), Unavailable."""
        process = AnchoredProcess.open(pid)
        try:
            return await self._in_thread(lambda: self._attestor.attest(process, None))
        finally:
            process.close()

    async def run(self, stop: asyncio.Event) -> None:
        """Looks at every session again within RECHECK_SECONDS, until `stop`."""
        while not stop.is_set():
            share = -(-len(self._sessions) * SWEEP_SECONDS // (RECHECK_SECONDS - 5))
            for session in list(self._sessions)[: int(share)]:
                if session in self._sessions:
                    self._sessions.move_to_end(session)
                    try:
                        await self._look(session)
                    except GatehouseError as error:
                        _log.warning("recheck_failed", pid=session.process.pid, error=str(error))
            await wait_any(stop, timeout_seconds=SWEEP_SECONDS)

    def close(self) -> None:
        """Ends all sessions."""
        for session in list(self._sessions):
            self._end(session)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self, peer: Peer) -> Session:
        unix = peer.unix
        if unix is None or unix.pid <= 0:
            raise PermissionDenied(
                "attesting the caller: the kernel doesn't say which process it is",
                hint="callers must share a PID namespace with the agent, or live in one below it",
            )
        if unix.pidfd is None and self._kernel_gives_pidfds:
            # The kernel gives none only for a process that has ended; its number may be another's by now.
            raise PermissionDenied("attesting the caller: its process has ended")
        try:
            process = AnchoredProcess(unix.pid, unix.pidfd, owns_pidfd=False)
        except ProcessEnded as error:
            raise PermissionDenied(str(error)) from error
        session = Session(process)
        peer.attributes["session"] = session
        self._sessions[session] = None
        if unix.pidfd is not None:
            asyncio.get_running_loop().add_reader(unix.pidfd, self._end, session)
        # The transport closes the pidfd after this callback, never before.
        peer.on_close(lambda: self._end(session))
        return session

    async def _look(self, session: Session) -> None:
        before = session.attestation
        try:
            after = await self._in_thread(lambda: self._attestor.attest(session.process, before))
        except ProcessEnded:
            self._end(session)
            return
        if session.ended:
            return
        session.attestation = self._shared(after)
        if before is not None and before.selectors != after.selectors:
            _log.warning(
                "selectors_changed",
                pid=session.process.pid,
                lost=sorted(map(str, before.selectors - after.selectors)),
                gained=sorted(map(str, after.selectors - before.selectors)),
            )
            session.tell()

    async def _in_thread(self, work: Callable[[], Attestation]) -> Attestation:
        if self._waiting >= MAX_WAITING:
            raise Unavailable("attesting the caller: too many callers are waiting", retry_after_seconds=1)
        self._waiting += 1
        try:
            async with asyncio.timeout(ATTESTATION_TIMEOUT_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except TimeoutError as error:
            raise Unavailable(
                f"attesting the caller: not done within {ATTESTATION_TIMEOUT_SECONDS:.0f} s",
                hint="a name service that doesn't answer, or a very large executable on a slow disk",
            ) from error
        finally:
            self._waiting -= 1

    def _shared(self, attestation: Attestation) -> Attestation:
        """Equal findings as one object: thousands of connections often come from a few programs."""
        known = self._recent.setdefault(attestation, attestation)
        self._recent.move_to_end(attestation)
        while len(self._recent) > MAX_RECENT:
            self._recent.popitem(last=False)
        return known

    def _end(self, session: Session) -> None:
        if session.ended:
            return
        session.ended = True
        self._sessions.pop(session, None)
        if session.process.pidfd is not None:
            asyncio.get_running_loop().remove_reader(session.process.pidfd)
        session.process.close()
        session.tell()


def _kernel_gives_pidfds() -> bool:
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        try:
            pidfd = left.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
        except OSError:
            return False
        os.close(pidfd)
        return True
