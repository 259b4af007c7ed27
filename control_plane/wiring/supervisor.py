"""The supervisor: prepares the data directory, starts the other processes, starts them again when they end.

It serves nobody itself, so there is little that could end it. Children get their settings over a pipe that
stays open: its end tells them that the supervisor is gone, however it went, and they end too.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, Final, Literal

from control_plane.core.errors import GatehouseError, Unavailable
from control_plane.runtime import log, loop
from control_plane.runtime.addresses import check_socket_path
from control_plane.runtime.lifecycle import Ending, run_services
from control_plane.settings import ServerSettings
from control_plane.wiring import data_directory
from control_plane.wiring.preparation import prepare_apart
from control_plane.wiring.told import heard

FIRST_BACKOFF_SECONDS: Final = 0.5
MAX_BACKOFF_SECONDS: Final = 30.0
STABLE_SECONDS: Final = 10.0  # longer than a start takes: only a process that fails at its start is held back
STOP_SECONDS: Final = 20.0
LAST_WORDS_SECONDS: Final = 1.0  # what a process said before it ended; a child of its own may hold the pipe
READY_LINE: Final = b"ready\n"


def run_server(settings: ServerSettings, started: Callable[[], None] | None = None) -> None:
    """Runs the whole server until a signal. `started` is called once all processes serve.

    Raises InvalidInput if the data directory's path is too long for sockets in it, FailedPrecondition if the
    directory is in use or not safe, or a process says at the first start that the state doesn't let it (keys
    under another passphrase), Unavailable if the port is taken or a process can't be started, and what
    `preparation.prepare_apart` raises.
    """
    loop.run(supervise(settings, started=started))


async def supervise(settings: ServerSettings, *, started: Callable[[], None] | None = None) -> None:
    """The same inside an event loop."""
    log.configure(level=settings.written.log_level, json=settings.written.log_format == "json")
    for path in (settings.admin_socket, settings.rest_socket):
        check_socket_path(path)
    async with data_directory.own(settings.data_dir) as inherited:
        if settings.api_bind is not None:
            _check_free(*settings.api_bind)
        with _reserve(settings.host, settings.port) as reserved, Ending("server") as ending:
            await prepare_apart(settings.database, inherited)
            settings = settings.with_port(reserved.getsockname()[1])
            group = _Group(settings, started, inherited, ending)
            names = [("management", 0)] + [("issuer", index) for index in range(settings.issuers)]
            await run_services(
                {f"{kind}-{index}": _Child(settings, kind, index, group) for kind, index in names},
                grace_seconds=STOP_SECONDS + 5,
                ending=ending,
            )


class _Group:
    """What the processes have in common: the lock that they inherit, and the server's way to its end. Counts
    who is ready, says so once, and leaves the address for others to find."""

    def __init__(
        self, settings: ServerSettings, started: Callable[[], None] | None, inherited: int, ending: Ending
    ) -> None:
        self.inherited = inherited
        self.ending = ending
        self._settings = settings
        self._started = started
        self._waiting = settings.issuers + 1
        self._log = log.get_logger("supervisor")

    @property
    def starting(self) -> bool:
        """Whether not all have served yet."""
        return self._waiting > 0

    def ready(self) -> None:
        """One more process serves for the first time."""
        self._waiting -= 1
        if self._waiting:
            return
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        address = f"{host}:{self._settings.port}"
        about = {"address": address, "trust_domain": str(self._settings.trust_domain), "pid": os.getpid()}
        path = self._settings.data_dir / "server.json"
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(about) + "\n", encoding="ascii")
        temporary.rename(path)
        api = self._settings.api_bind
        self._log.info(
            "server_ready",
            address=address,
            issuers=self._settings.issuers,
            admin=str(self._settings.admin_socket),
            api=str(self._settings.rest_socket) if api is None else f"{api[0]}:{api[1]}",
        )
        if self._started is not None:
            self._started()


class _Child:
    """One process: started, watched, started again with a growing pause."""

    def __init__(self, settings: ServerSettings, kind: str, index: int, group: _Group) -> None:
        self._settings = settings
        self._kind = kind
        self._index = index
        self._group = group
        self._was_ready = False
        self._refused: GatehouseError | None = None
        self._log = log.get_logger("supervisor").bind(process=f"{kind}-{index}")

    async def run(self, stop: asyncio.Event) -> None:
        """Keeps the process running until `stop`, then ends it."""
        backoff = FIRST_BACKOFF_SECONDS
        stopping = asyncio.ensure_future(stop.wait())
        clock = asyncio.get_running_loop()
        try:
            while not stop.is_set():
                began = clock.time()
                try:
                    code = await self._once(stopping)
                except OSError as error:  # no descriptors, no memory, or too many processes
                    backoff = await self._not_started(error, stopping, backoff)
                    continue
                if stop.is_set():
                    if code not in (0, -signal.SIGTERM):  # the latter: it hadn't come to listen for it yet
                        self._group.ending.trouble(f"{self._kind}-{self._index} ended with {code}")
                    return
                if self._refused is not None and self._group.starting:
                    raise self._refused  # somebody is there to be told
                if clock.time() - began > STABLE_SECONDS:
                    backoff = FIRST_BACKOFF_SECONDS
                self._log.error("process_ended", code=code, restart_in_seconds=backoff)
                await asyncio.wait({stopping}, timeout=backoff)
                backoff = min(backoff * 2, MAX_BACKOFF_SECONDS)
        finally:
            stopping.cancel()

    async def _not_started(self, error: OSError, stopping: "asyncio.Future[Any]", backoff: float) -> float:
        """Waits until the next attempt, and gives the pause after that. Raises Unavailable at the first
        start, when somebody is there to be told."""
        if not self._was_ready:
            raise Unavailable(
                f"starting {self._kind}-{self._index}: {error.strerror or error}",
                hint="see what the system allows: ulimit -n, ulimit -u, free memory",
            ) from error
        self._log.error("process_not_started", error=str(error), again_in_seconds=backoff)
        await asyncio.wait({stopping}, timeout=backoff)
        return min(backoff * 2, MAX_BACKOFF_SECONDS)

    async def _once(self, stopping: "asyncio.Future[Literal[True]]") -> int:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "control_plane.wiring",
            self._kind,
            str(self._index),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(self._group.inherited,),
            start_new_session=True,  # Ctrl-C is for us: we end the children in order, however far they are
        )
        ready = asyncio.ensure_future(self._watch_output(child))
        ended = asyncio.ensure_future(child.wait())
        try:
            assert child.stdin is not None
            # A child that was killed before it read this is one that has ended, no more. uvloop says it by a
            # RuntimeError of the closed pipe.
            with contextlib.suppress(ConnectionError, RuntimeError):
                child.stdin.write(self._settings.to_json().encode("utf-8") + b"\n")
                await child.stdin.drain()
            first: set[asyncio.Future[Any]] = {ended, stopping}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                _signal(child, signal.SIGTERM)
                await asyncio.wait({ended}, timeout=STOP_SECONDS)
            if not ended.done():
                self._log.error("process_did_not_stop", after_seconds=STOP_SECONDS)
                _signal(child, signal.SIGKILL)
            code = await ended
            if code > 0:
                await asyncio.wait({ready}, timeout=LAST_WORDS_SECONDS)
            return code
        finally:
            if not ended.done():
                _signal(child, signal.SIGKILL)
            ready.cancel()

    async def _watch_output(self, child: asyncio.subprocess.Process) -> None:
        assert child.stdout is not None
        async for line in child.stdout:
            if line != READY_LINE:
                self._refused = heard(line)
                continue
            self._log.info("process_ready", pid=child.pid)
            if not self._was_ready:
                self._was_ready = True
                self._group.ready()


def _signal(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(number)


def _check_free(host: str, port: int) -> None:
    """Says before anything starts that the address of the management API can't be had."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Unavailable(
                f"listening on {host}:{port} for the management API: {error.strerror or error}",
                hint="choose another --api-bind",
            ) from error


def _reserve(host: str, port: int) -> socket.socket:
    """Binds the port without listening: the issuers share it, and nobody else takes it between restarts."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reserved = socket.socket(family, socket.SOCK_STREAM)
    try:
        if port:
            # Without SO_REUSEPORT this fails if anybody listens there, a forgotten server of ours included.
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind((host, port))
    except OSError as error:
        reserved.close()
        raise Unavailable(
            f"listening on {host}:{port}: {error.strerror or error}", hint="choose another --bind"
        ) from error
    return reserved
