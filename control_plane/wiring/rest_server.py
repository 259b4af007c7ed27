"""Runs the REST application by uvicorn as a service of a process: on a unix socket, and on TLS if asked.

Both are one uvicorn server, so that there is one end to them: no new requests, five seconds for those that
run. Rotation of the certificate changes what the next connection gets and nothing else.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import uvicorn

from control_plane.runtime.log import get_logger
from control_plane.runtime.transport.listener import bind_unix
from control_plane.wiring.own_svid import OwnSvid
from control_plane.wiring.rest_connection import LocalConnection, TlsConnection
from control_plane.wiring.rest_door import TlsDoor

GRACE_SECONDS: Final = 5
KEEP_ALIVE_SECONDS: Final = 30
REFRESH_SECONDS: Final = 1.0
HTTP_ALPN: Final = "http/1.1"


class QuietServer(uvicorn.Server):
    """Uvicorn as one service of several."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals belong to the process, which sets `stop`


class RestServer:
    """Serves `app` on the unix socket `path`, mode 0600, and on `bind` with the certificate of `svid`."""

    def __init__(
        self, app: Any, path: Path, *, bind: tuple[str, int] | None = None, svid: OwnSvid | None = None
    ) -> None:
        self._app = app
        self._path = path
        self._bind = bind
        self._svid = svid
        self._log = get_logger("rest")
        self.port = 0  # of TLS; known once it listens

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop`. Raises Unavailable if a socket can't be had."""
        listener = bind_unix(self._path, 0o600)
        server = QuietServer(
            uvicorn.Config(
                self._app,
                http=LocalConnection,
                ws="none",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                lifespan="off",
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        stopping = asyncio.ensure_future(stop.wait())
        outside = asyncio.ensure_future(self._serve_tls(server, stop))
        ends: set[asyncio.Future[Any]] = {serving, stopping, outside}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            await serving
            if outside.done():
                outside.result()  # it ends before `stop` only by what it raises
        finally:
            for each in ends:
                each.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            listener.close()
            self._path.unlink(missing_ok=True)

    async def _serve_tls(self, server: uvicorn.Server, stop: asyncio.Event) -> None:
        """Listens on TLS as soon as there is a certificate, and keeps that current."""
        bind, svid = self._bind, self._svid
        if bind is None or svid is None:
            await stop.wait()
            return
        while not await svid.refresh():  # noqa: ASYNC110 -- what it waits for has no event
            await asyncio.sleep(REFRESH_SECONDS)

        def made(source: str, lost: Callable[[], None]) -> TlsConnection:
            return TlsConnection(server.config, server.server_state, {}, source=source, lost=lost)

        host, port = bind
        door = TlsDoor(host, port, svid.source, made)
        self.port = door.port
        self._log.info("listening", address=f"{f'[{host}]' if ':' in host else host}:{door.port}")
        try:
            while not stop.is_set():
                await svid.refresh()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REFRESH_SECONDS):
                        await stop.wait()
        finally:
            door.close()
