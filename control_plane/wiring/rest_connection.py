"""One connection of the management API: uvicorn's HTTP/1.1, with who is at the other end, and clocks.

The kernel's word on the peer of a unix socket, or the chain that a TLS client showed, is handed on in the
state of each request. A peer that takes too long for the head or the body of a request, that doesn't take its
answer, or that sends what isn't HTTP, loses its connection; uvicorn would wait for ever, and would answer in
plain text. What llhttp lets pass and RFC 9112 doesn't, and what nobody needs, is refused here: no `host`, a
coding other than chunked, fields behind a body. A connection isn't upgraded to anything.
"""

import asyncio
import json
import os
import ssl
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from control_plane.api.rest.evidence import LocalPeer, TlsPeer
from control_plane.api.rest.problems import MEDIA_TYPE, problem_document
from control_plane.runtime.log import get_logger
from control_plane.runtime.tls import peer_chain
from control_plane.runtime.transport.peer import read_unix_peer

HEAD_SECONDS: Final = 10.0
REQUEST_SECONDS: Final = 60.0
"""For a whole request; longer than the application waits for a body, which can still answer."""
TAKE_SECONDS: Final = 30.0
"""For a peer to take what was written, whenever that is more than the transport holds without waiting."""
MAX_UNSENT_BYTES: Final = 64 << 10
"""That a connection holds before an answer waits for its peer; with TLS it would be eight times as much."""
MAX_HEAD_BYTES: Final = 64 << 10
MAX_HEADERS: Final = 100

_log = get_logger("rest")


class _Refused(Exception):
    """This is no request for us; `args` are status, kind and words of the problem."""


class TimedConnection(HttpToolsProtocol):
    """HTTP/1.1 whose requests have to come in, and whose answers have to be taken, within their time."""

    _clock: asyncio.TimerHandle | None = None
    """Runs while a request comes in."""
    _taking: asyncio.TimerHandle | None = None
    """Runs while the peer has to take something before anything goes on."""
    _in_head = False
    _head_bytes = 0
    _fed = 0
    _hosts = 0
    _refused: _Refused | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES)
        self._arm(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._taken()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._clock is None:
            self._arm(HEAD_SECONDS)
        went_on = self._in_head
        super().data_received(data)
        if went_on and self._in_head:
            self._fed += len(data)  # of a line that doesn't end the parser tells nothing
            if self._fed > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refused = _head_too_large()
                self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes, self._fed, self._hosts = True, 0, 0, 0
        self._arm(HEAD_SECONDS)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            self._refuse(400, "not-http", "fields behind the body aren't taken")
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes + len(self.url) > MAX_HEAD_BYTES or len(self.headers) == MAX_HEADERS:
            self._refused = _head_too_large()
            raise self._refused
        super().on_header(name, value)
        last = self.headers[-1][0]
        if last == b"host":
            self._hosts += 1
        elif last == b"transfer-encoding" and value.strip().lower() != b"chunked":
            self._refuse(501, "unimplemented", "transfer-encoding: only chunked is understood")

    def on_headers_complete(self) -> None:
        if self._hosts != 1 and self.parser.get_http_version() != "1.0":
            self._refuse(400, "not-http", f"host: {self._hosts} came, expected one")
        self._in_head = False
        super().on_headers_complete()
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False  # what follows may be in another tongue
        self._arm(REQUEST_SECONDS)

    def on_message_complete(self) -> None:
        self._disarm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._must_take()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._must_take()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._must_take()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._must_take()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._taken()

    def send_400_response(self, msg: str) -> None:
        """The same as a problem (RFC 9457)."""
        cycle = self._latest()
        if cycle is not None and not cycle.response_complete:
            self.transport.abort()  # an answer is on its way, and nothing can be put into it
            return
        status, kind, words = 400, "not-http", "this isn't HTTP/1.1 as RFC 9112 has it"
        if self._refused is not None:
            status, kind, words = self._refused.args
        body = json.dumps(problem_document(status, kind, words)).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
        self._must_take()

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: whoever asks for HTTP/2 in that way is content with HTTP/1.1."""

    def _refuse(self, status: int, kind: str, words: str) -> None:
        """Ends the parsing, which ends in `send_400_response`."""
        self._refused = _Refused(status, kind, words)
        raise self._refused

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._clock = self.loop.call_later(seconds, self._late)

    def _disarm(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _late(self) -> None:
        self._clock = None
        if self.flow.read_paused:
            self._arm(HEAD_SECONDS)  # it's us who don't read: an answer before this one takes its time
        else:
            self.transport.abort()

    def _must_take(self) -> None:
        if self._taking is None:
            self._taking = self.loop.call_later(TAKE_SECONDS, self._not_taken)

    def _taken(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _not_taken(self) -> None:
        self._taking = None
        cycle = self._latest()
        _log.info("answer_not_taken", path="" if cycle is None else cycle.scope["path"])
        self.transport.abort()

    def _latest(self) -> RequestResponseCycle | None:
        """The request that came last, answered or not; None before the first."""
        return self.cycle

    def _with_peer(self, peer: LocalPeer | TlsPeer) -> None:
        self.app_state = {**self.app_state, "peer": peer}


def _head_too_large() -> _Refused:
    return _Refused(
        431,
        "head-too-large",
        f"the head of a request may have {MAX_HEAD_BYTES} bytes and {MAX_HEADERS} fields at most",
    )


class LocalConnection(TimedConnection):
    """On the unix socket."""

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
        self._with_peer(LocalPeer(peer.pid, peer.uid))


class TlsConnection(TimedConnection):
    """On TLS, once the handshake is done. `lost` is called when it has ended; `opened`: whether it began."""

    def __init__(self, *args: Any, source: str, lost: Callable[[], None], **more: Any) -> None:
        super().__init__(*args, **more)
        self._source = source
        self._lost = lost
        self.opened = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.opened = True
        super().connection_made(transport)
        tls: ssl.SSLObject = transport.get_extra_info("ssl_object")
        if tls.session_reused:
            transport.abort()  # it would bring a certificate that nobody checked on this connection
            return
        self._with_peer(TlsPeer(self._source, peer_chain(tls)))

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            super().connection_lost(exc)
        finally:
            self._lost()
