"""The two listeners as a service of a process: what can't be had ends it, and nothing is left behind."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from control_plane.core.errors import Unavailable
from control_plane.wiring.rest_server import RestServer


class Svid:
    """Stands for a certificate that is there; nobody shakes hands in these tests."""

    source: Any = None

    async def refresh(self) -> bool:
        return True


async def app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("nobody asks")


def test_an_address_that_is_taken_ends_the_service(short_dir: Path) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            bind = ("127.0.0.1", other.getsockname()[1])
            server = RestServer(app, short_dir / "a.sock", bind=bind, svid=Svid())  # type: ignore[arg-type]
            with pytest.raises(Unavailable, match="in use"):
                await asyncio.wait_for(server.run(asyncio.Event()), 40)
        assert not (short_dir / "a.sock").exists()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_both_listeners_end_with_stop(short_dir: Path) -> None:
    async def main() -> None:
        stop, path = asyncio.Event(), short_dir / "a.sock"
        server = RestServer(app, path, bind=("127.0.0.1", 0), svid=Svid())  # type: ignore[arg-type]
        running = asyncio.create_task(server.run(stop))
        async with asyncio.timeout(40):
            while not (server.port and path.exists()):  # noqa: ASYNC110 (neither has an event)
                await asyncio.sleep(0.01)
        assert path.stat().st_mode & 0o777 == 0o600
        stop.set()
        await asyncio.wait_for(running, 40)
        assert not path.exists()
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", server.port)) != 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
