"""Runs the REST application on a unix socket, by uvicorn, as one of a process's services.

Who connected is asked of the kernel once a connection and handed on in the state of each request.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from control_plane.api.rest.subjects import LocalPeer
from control_plane.core.errors import Unavailable
from control_plane.runtime.transport.peer import read_unix_peer

GRACE_SECONDS: Final = 5
BACKLOG: Final = 512


class _LocalProtocol(H11Protocol):
    """HTTP with the kernel's word on the caller."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        try:
            peer = read_unix_peer(connection)
        except OSError:
            transport.abort()  # it has gone already
            return
        if peer.pidfd is not None:
            os.close(peer.pidfd)
        self.app_state = {**self.app_state, "peer": LocalPeer(peer.pid, peer.uid)}


class QuietServer(uvicorn.Server):
    """Uvicorn as one service of several."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals belong to the process, which sets `stop`


class RestServer:
    """Serves `app` on `path`, mode 0600."""

    def __init__(self, app: Any, path: Path) -> None:
        self._app = app
        self._path = path

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop`. Raises Unavailable if the socket can't be made."""
        listener = _bind(self._path)
        config = uvicorn.Config(
            self._app,
            http=_LocalProtocol,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            limit_concurrency=200,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        server = QuietServer(config)
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            await serving
        finally:
            stopping.cancel()
            listener.close()
            self._path.unlink(missing_ok=True)


def _bind(path: Path) -> socket.socket:
    """Binds under another name and renames: nobody sees the socket with the wrong mode, or not listening."""
    temporary = path.with_name(path.name + ".new")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        temporary.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            listener.bind(str(temporary))
        finally:
            os.umask(before)
        listener.listen(BACKLOG)
        temporary.rename(path)
    except OSError as error:
        listener.close()
        raise Unavailable(f"listening on unix socket {path}: {error.strerror or error}") from error
    return listener
