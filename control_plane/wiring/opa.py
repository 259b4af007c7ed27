"""What the management process does for Open Policy Agents beside us, as the settings ask for it."""

import asyncio
import socket
from typing import Any, Final

import uvicorn

from control_plane.api.opa import OpaBundles, opa_app
from control_plane.clients.opa import RestOpa
from control_plane.core.errors import Unavailable
from control_plane.rollout.opa_push import OpaPush
from control_plane.runtime.lifecycle import Service
from control_plane.runtime.log import get_logger
from control_plane.runtime.transport.listener import BACKLOG
from control_plane.wiring.process import Parts
from control_plane.wiring.rest_connection import TimedConnection
from control_plane.wiring.rest_server import GRACE_SECONDS, QuietServer

MAX_CONNECTIONS: Final = 2000  # each OPA keeps one, and one more while it waits


def opa_services(parts: Parts, bundles: OpaBundles) -> dict[str, Service]:
    """The services, by name."""
    found: dict[str, Service] = {"opa": bundles}
    if parts.settings.opa_bind is not None:
        found["opa listener"] = OpaListener(opa_app(bundles), *parts.settings.opa_bind)
    if parts.settings.opa_push:
        token = parts.settings.written.opa.push_token
        targets = [RestOpa(address, token) for address in parts.settings.opa_push]
        push = OpaPush(targets, parts.rollout_store, lambda: parts.replica.index.quarantine)
        parts.replica.listen(
            lambda effects: push.changed() if effects.policies or effects.quarantine else None
        )
        found["opa push"] = push
    return found


class OpaListener:
    """Plain HTTP on a loopback address, without credentials."""

    def __init__(self, app: Any, host: str, port: int) -> None:
        self._app = app
        self._address = (host, port)

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop`. Raises Unavailable if the port can't be had."""
        host, port = self._address
        try:
            listener = socket.create_server(
                self._address, family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG
            )
        except OSError as error:
            raise Unavailable(
                f"listening for OPAs on {host}:{port}: {error.strerror or error}",
                hint="choose another address: [opa] bind",
            ) from error
        get_logger("opa").info("listening", host=host, port=listener.getsockname()[1])
        config = uvicorn.Config(
            self._app,
            http=TimedConnection,
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            lifespan="off",
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
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
