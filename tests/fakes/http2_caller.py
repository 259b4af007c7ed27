"""An HTTP/2 client that sends what it is told to, right or wrong, and says what came of it.

For asking servers that others wrote what they make of odd requests: header names and pseudo-headers go out as
they are. One request at a time on a connection that is kept open; one that the server closed is opened again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from h2.exceptions import ProtocolError

from agent.cli_client import split
from control_plane.proto import workloadapi_pb2 as pb

SECONDS = 20.0
Fields = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came: `status` of HTTP, 0 where the stream or the connection was ended instead."""

    status: int
    grpc: str = ""
    body: bytes = b""


class Http2Caller:
    """One client for the address; `context` has its certificate."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._port = port
        self._context = context
        self._context.set_alpn_protocols(["h2"])
        self._opened: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._connection = h2.connection.H2Connection()

    async def ask(self, fields: Fields, body: bytes = b"") -> Answer:
        """Sends one request with exactly these fields."""
        for attempt in (0, 1):
            fresh = self._opened is None
            if fresh:
                await self._open()
            assert self._opened is not None
            try:
                async with asyncio.timeout(SECONDS):
                    return await self._ask(*self._opened, fields, body)
            except (OSError, asyncio.IncompleteReadError, ProtocolError):
                self.close()
                if fresh or attempt:
                    return Answer(0)
        raise AssertionError

    def close(self) -> None:
        """Ends the connection."""
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None

    async def _open(self) -> None:
        self._opened = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._context)
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding="latin-1",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self._connection = h2.connection.H2Connection(config)
        self._connection.initiate_connection()
        self._opened[1].write(self._connection.data_to_send())

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fields: Fields, body: bytes
    ) -> Answer:
        stream = self._connection.get_next_available_stream_id()
        self._connection.send_headers(stream, list(fields), end_stream=not body)
        if body:
            self._connection.send_data(stream, body, end_stream=True)
        status, grpc, received = 0, "", b""
        while True:
            writer.write(self._connection.data_to_send())
            data = await reader.read(65536)
            if not data:
                raise ConnectionResetError
            for event in self._connection.receive_data(data):
                match event:
                    case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                        found = {str(name): str(value) for name, value in event.headers or ()}
                        status = int(found.get(":status", status))
                        grpc = found.get("grpc-status", grpc)
                    case h2.events.DataReceived():
                        received += event.data or b""
                        self._connection.acknowledge_received_data(event.flow_controlled_length or 0, stream)
                    case h2.events.StreamEnded():
                        return Answer(status, grpc, received)
                    case h2.events.StreamReset():
                        return Answer(0)
                    case h2.events.ConnectionTerminated():
                        self.close()
                        return Answer(0)


async def svid_of(run: Any, spiffe_id: str, folder: Path) -> Callable[[], ssl.SSLContext]:
    """An identity of this process, from its agent, for TLS clients that look at nobody else's."""
    async with run.x509() as call:
        message: pb.X509SVIDResponse = await asyncio.wait_for(call.receive(), 20)
    svid = next(one for one in message.svids if one.spiffe_id == spiffe_id)
    path = folder / "own.pem"
    key = serialization.load_der_private_key(svid.x509_svid_key, password=None)
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    chain = (x509.load_der_x509_certificate(one) for one in split(svid.x509_svid))
    pem = serialization.Encoding.PEM
    path.write_bytes(key.private_bytes(pem, form, plain) + b"".join(one.public_bytes(pem) for one in chain))

    def context() -> ssl.SSLContext:
        found = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # An SVID has no host name, and what Envoy makes of requests is what is asked here, not who it is.
        found.check_hostname, found.verify_mode = False, ssl.CERT_NONE
        found.load_cert_chain(path)
        return found

    return context
