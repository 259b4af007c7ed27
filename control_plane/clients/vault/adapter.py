"""One HTTP exchange with Vault through hvac: bounded as a whole, pinned to one server, blocking.

hvac follows redirects with the token, waits 30 s for each read, and hides the status code; requests below it
looks at proxies, `.netrc` and certificate bundles that the environment names. So hvac's raw adapter is given
connections of ours in place of requests, which do none of that. The bound on time covers the answer from its
first byte to its last, however slowly it comes; the bound on size holds before anything is parsed.
"""

import http.client
import io
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

from hvac.adapters import RawAdapter
from urllib3 import Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError

from control_plane.clients.vault.answers import Answer, Unsent
from control_plane.core.errors import InvalidInput, Unavailable, shown
from control_plane.core.secret import Secret
from control_plane.core.strict_json import load_object
from control_plane.runtime.addresses import HttpAddress

MAX_ANSWER_BYTES: Final = 1 << 20
MAX_HEAD_BYTES: Final = 64 << 10
PIECE_BYTES: Final = 64 << 10
CONNECT_SECONDS: Final = 2.0

_OF_THE_SERVER: Final = frozenset({"sys/health"})
"""Paths that are in no namespace: asked for there, they aren't found."""


class HvacExchange:
    """Exchanges with one server over at most `connections` kept connections; safe for several threads.

    `tls` is asked before each request for the context to use; as long as it gives the same one, connections
    are kept. None stands for plain HTTP.
    """

    def __init__(
        self,
        address: HttpAddress,
        *,
        namespace: str = "",
        tls: Callable[[], ssl.SSLContext] | None = None,
        connections: int = 8,
    ) -> None:
        self._address = address
        self._namespace = namespace
        self._tls = tls
        self._connections = connections
        self._lock = threading.Lock()
        self._current: tuple[ssl.SSLContext | None, RawAdapter] | None = None

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        token: Secret[str] | None,
        deadline: float,
    ) -> Answer:
        """See `exchange.Exchange`."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise Unsent(f"Vault at {self._address}, {path}: no time is left to ask")
        bound = _bound.current = _Bound(deadline)
        try:
            response = self._adapter().request(
                method,
                f"/v1/{path}",
                headers=_headers(token, "" if path in _OF_THE_SERVER else self._namespace),
                raise_exception=False,
                json=None if body is None else dict(body),
                timeout=(min(CONNECT_SECONDS, left), left),
            )
        except (HTTPError, OSError) as error:
            raise self._lost(path, bound, error) from error
        return self._read(path, response)

    def close(self) -> None:
        """See `exchange.Exchange`."""
        with self._lock:
            if self._current is not None:
                self._current[1].close()
                self._current = None

    def _adapter(self) -> RawAdapter:
        context = self._tls() if self._tls is not None else None
        with self._lock:
            if self._current is None or self._current[0] is not context:
                if self._current is not None:
                    self._current[1].close()
                self._current = (context, self._make(context))
            return self._current[1]

    def _make(self, context: ssl.SSLContext | None) -> RawAdapter:
        host, port, base = self._address.host, self._address.port, str(self._address)
        pool: HTTPConnectionPool
        if context is None:
            pool = _PlainPool(host, port, maxsize=self._connections)
        else:
            pool = _TlsPool(host, port, maxsize=self._connections, ssl_context=context)
        return RawAdapter(
            base_uri=base,
            session=_Connections(pool, base),
            allow_redirects=False,
            ignore_exceptions=True,
            strict_http=True,
        )

    def _lost(self, path: str, bound: "_Bound", error: Exception) -> Unavailable:
        where = f"Vault at {self._address}, {path}"
        if bound.too_large:
            return Unavailable(f"{where}: the answer is larger than {MAX_ANSWER_BYTES} bytes")
        if isinstance(error, ConnectTimeoutError) and not isinstance(error, NewConnectionError):
            return Unsent(f"{where}: can't be reached within {CONNECT_SECONDS:g} s")
        if bound.late or isinstance(error, ReadTimeoutError):
            return Unavailable(f"{where}: no whole answer in time", hint="see vault.timeout_seconds")
        cause = _cause_of(error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Unsent(
                f"{where}: its certificate isn't accepted: {cause.verify_message}",
                hint="vault.ca_file must hold the CA of Vault's own certificate",
            )
        if isinstance(cause, http.client.IncompleteRead):
            return Unavailable(f"{where}: the answer was cut, {cause.expected or 'some'} bytes are missing")
        text = f"{where}: {type(cause).__name__}: {shown(str(cause))}"
        return (
            Unsent(text) if isinstance(cause, ConnectionRefusedError | socket.gaierror) else Unavailable(text)
        )

    def _read(self, path: str, response: "_Response") -> Answer:
        """The answer's JSON. A body that is none is kept out, and matters only where one was needed."""
        status, content = response.status_code, response.content
        if not content.strip():
            return Answer(status, {}, response.retry_after_seconds)
        try:
            found = load_object(content, "the answer", MAX_ANSWER_BYTES)
        except InvalidInput as error:
            if status >= 300:
                return Answer(status, {}, response.retry_after_seconds)
            raise Unavailable(
                f"Vault at {self._address}, {path}: status {status} with something that isn't Vault's JSON: "
                f"{shown(content, 40)}",
                hint="is that a proxy or a login page in Vault's place?",
            ) from error
        return Answer(status, found, response.retry_after_seconds)


@dataclass(frozen=True, slots=True)
class _Response:
    """What came, whole; in the form that hvac's adapter looks at."""

    status_code: int
    content: bytes = field(repr=False)
    retry_after_seconds: float | None

    @property
    def ok(self) -> bool:
        return self.status_code < 400


class _Connections:
    """What hvac takes for the `Session` of requests: one request, one answer, and nothing more."""

    verify = cert = proxies = None

    def __init__(self, pool: HTTPConnectionPool, base: str) -> None:
        self._pool = pool
        self._base = base

    def request(
        self, *, method: str, url: str, headers: dict[str, str], timeout: tuple[float, float], **options: Any
    ) -> _Response:
        """Raises urllib3's HTTPError or OSError."""
        target, body = url.removeprefix(self._base), options.get("json")
        if options.get("params"):
            target = f"{target}?{urlencode(options['params'])}"
        connect, read = timeout
        answer = self._pool.urlopen(
            method.upper(),
            target,
            body=None if body is None else json.dumps(body).encode(),
            headers=headers,
            retries=False,
            redirect=False,
            timeout=Timeout(connect=connect, read=read),
            preload_content=False,
        )
        try:
            # Piece by piece: a length that is announced would be allocated whole, however large it is.
            content = b"".join(answer.stream(PIECE_BYTES, decode_content=False))
            return _Response(answer.status, content, _seconds(answer.headers.get("Retry-After", "")))
        finally:
            answer.release_conn()
            answer.close()

    def close(self) -> None:
        """Closes kept connections."""
        self._pool.close()


def _headers(token: Secret[str] | None, namespace: str) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity", "Content-Type": "application/json", "User-Agent": "gatehouse"}
    if token is not None:
        headers["X-Vault-Token"] = token.reveal()
    if namespace:
        headers["X-Vault-Namespace"] = namespace
    return headers


def _seconds(text: str) -> float | None:
    return min(float(text), 3600.0) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _cause_of(error: BaseException) -> BaseException:
    """The innermost reason: urllib3 wraps it up to three times, as cause, context or argument."""
    for _ in range(8):
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = error.__cause__ or error.__context__
        if inner is None:
            inner = next((each for each in error.args if isinstance(each, BaseException)), None)
        if inner is None:
            return error
        error = inner
    return error


class _Bound:
    """How long and how large the answer may still be, for the exchange of this thread."""

    __slots__ = ("deadline", "late", "left", "too_large")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.left = MAX_ANSWER_BYTES + MAX_HEAD_BYTES
        self.late = self.too_large = False


class _Current(threading.local):
    current: _Bound | None = None


_bound = _Current()


class _BoundedReader(io.RawIOBase):
    """A socket's incoming bytes under a bound; urllib3's timeout starts anew with every byte."""

    def __init__(self, inner: socket.SocketIO, sock: socket.socket, bound: _Bound) -> None:
        super().__init__()
        self._inner = inner
        self._sock = sock
        self._bound = bound

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._bound.deadline - time.monotonic()
        if left <= 0:
            self._bound.late = True
            raise TimeoutError("the time for the whole answer is over")
        self._sock.settimeout(left)
        count = self._inner.readinto(buffer)
        self._bound.left -= count or 0
        if self._bound.left < 0:
            self._bound.too_large = True
            raise OSError("the answer is too large")
        return count

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
        super().close()


class _BoundedSocket:
    """What `http.client` wants of a socket when it starts to read an answer."""

    def __init__(self, sock: socket.socket, bound: _Bound) -> None:
        self._sock = sock
        self._bound = bound

    def makefile(self, _mode: str) -> io.BufferedReader:
        inner = self._sock.makefile("rb", buffering=0)
        return io.BufferedReader(_BoundedReader(inner, self._sock, self._bound))


class _BoundedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        bound = _bound.current
        given = sock if bound is None else _BoundedSocket(sock, bound)
        super().__init__(given, *arguments, **options)  # type: ignore[arg-type]  # it calls makefile alone


class _PlainConnection(HTTPConnection):
    response_class = _BoundedResponse


class _TlsConnection(HTTPSConnection):
    response_class = _BoundedResponse


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection
