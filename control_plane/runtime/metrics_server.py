"""Serves metrics to Prometheus: `GET /metrics` in plain HTTP/1, on a loopback address, and nothing else.

Small on purpose, so that an agent needs no web framework for it: one answer a connection, requests bounded in
size and time, connections in number.
"""

import asyncio
from typing import Final

from control_plane.core.errors import Unavailable
from control_plane.runtime.log import get_logger
from control_plane.runtime.metrics import CONTENT_TYPE, Metrics

MAX_HEAD_BYTES: Final = 16 << 10
MAX_CONNECTIONS: Final = 16
TIMEOUT_SECONDS: Final = 10.0


class MetricsServer:
    """A service of a process."""

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        self._metrics = metrics
        self._address = (host, port)
        self._open = 0
        self.port = 0  # known once it listens

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop`. Raises Unavailable if the port can't be had."""
        host, port = self._address
        try:
            server = await asyncio.start_server(self._serve, host, port, limit=MAX_HEAD_BYTES)
        except OSError as error:
            raise Unavailable(
                f"listening for Prometheus on {host}:{port}: {error.strerror or error}",
                hint="choose another address for metrics",
            ) from error
        self.port = server.sockets[0].getsockname()[1]
        get_logger("metrics").info("listening", host=host, port=self.port)
        async with server:
            await stop.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                if self._open > MAX_CONNECTIONS:
                    writer.write(_answer("503 Service Unavailable", b"too many connections\n"))
                else:
                    writer.write(self._answer(await reader.readuntil(b"\r\n\r\n")))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()  # it isn't Prometheus, or it has gone
        finally:
            self._open -= 1
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if path != b"/metrics":
            return _answer("404 Not Found", b"/metrics is served here\n")
        if method != b"GET":
            return _answer("405 Method Not Allowed", b"GET\n")
        return _answer("200 OK", self._metrics.render(), CONTENT_TYPE)


def _answer(status: str, body: bytes, content_type: str = "text/plain") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode("ascii") + body
