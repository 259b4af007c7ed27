"""One HTTP exchange with Vault through hvac: bounded as a whole, pinned to one server, blocking.

hvac follows redirects with the token, waits 30 s for each read, and hides the status code; so its raw adapter
is given a transport of ours, which does none of that. The bound on time covers the answer from its first
byte to its last, however slowly it comes; the bound on size holds before anything is parsed. Proxies,
`.netrc` and certificate bundles named in the environment are not looked at.
"""

import http.client
import http.cookiejar
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import requests
from hvac.adapters import RawAdapter
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from control_plane.clients.vault.answers import Answer, Unsent
from control_plane.core.errors import InvalidInput, Unavailable, shown
from control_plane.core.secret import Secret
from control_plane.core.strict_json import load_object
from control_plane.runtime.vault_settings import VaultAddress

MAX_ANSWER_BYTES: Final = 1 << 20
MAX_HEAD_BYTES: Final = 64 << 10
CONNECT_SECONDS: Final = 2.0


class HvacExchange:
    """Exchanges with one server over at most `connections` kept connections; safe for several threads.

    `tls` is asked before each request for the context to use; as long as it gives the same one, connections
    are kept. None stands for plain HTTP.
    """

    def __init__(
        self,
        address: VaultAddress,
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
                headers=_headers(token),
                raise_exception=False,
                json=None if body is None else dict(body),
                stream=True,
                timeout=(min(CONNECT_SECONDS, left), left),
            )
            try:
                content = response.raw.read(decode_content=False)
            finally:
                response.close()
        except requests.exceptions.ConnectTimeout as error:
            raise Unsent(
                f"Vault at {self._address}: can't be reached within {CONNECT_SECONDS:g} s"
            ) from error
        except (requests.exceptions.RequestException, HTTPError, OSError) as error:
            raise self._lost(path, bound, error) from error
        return self._read(path, response, content)

    def close(self) -> None:
        """Closes kept connections; exchanges under way end as they would have."""
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
        session = requests.Session()
        session.trust_env = False
        session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))
        transport = _Transport(context, self._connections)
        session.mount("https://", transport)
        session.mount("http://", transport)
        return RawAdapter(
            base_uri=str(self._address),
            session=session,
            namespace=self._namespace or None,
            allow_redirects=False,
            ignore_exceptions=True,
            strict_http=True,
        )

    def _lost(self, path: str, bound: "_Bound", error: Exception) -> Unavailable:
        where = f"Vault at {self._address}, {path}"
        if bound.too_large:
            return Unavailable(f"{where}: the answer is larger than {MAX_ANSWER_BYTES} bytes")
        if bound.late or isinstance(error, requests.exceptions.Timeout):
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

    def _read(self, path: str, response: Any, content: bytes) -> Answer:
        """The answer's JSON. A body that is none is kept out, and matters only where one was needed."""
        status, where = int(response.status_code), f"Vault at {self._address}, {path}"
        retry_after = _seconds(response.headers.get("Retry-After", ""))
        if not content.strip():
            return Answer(status, {}, retry_after)
        try:
            return Answer(status, load_object(content, "the answer", MAX_ANSWER_BYTES), retry_after)
        except InvalidInput as error:
            if status >= 300:
                return Answer(status, {}, retry_after)
            raise Unavailable(
                f"{where}: status {status} with something that isn't Vault's JSON: {shown(content, 40)}",
                hint="is that a proxy or a login page in Vault's place?",
            ) from error


def _headers(token: Secret[str] | None) -> dict[str, str]:
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    if token is not None:
        headers["X-Vault-Token"] = token.reveal()
    return headers


def _seconds(text: str) -> float | None:
    return min(float(text), 3600.0) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _cause_of(error: BaseException) -> BaseException:
    """The innermost reason: requests and urllib3 wrap it up to four times, as cause, context or argument."""
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


class _Transport(HTTPAdapter):
    """Connections under our TLS context and nothing else's, answers under a bound, no retries."""

    def __init__(self, context: ssl.SSLContext | None, connections: int) -> None:
        self._context = context
        super().__init__(pool_connections=1, pool_maxsize=connections, max_retries=0, pool_block=False)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Called by requests: the pools are ours, and so is the context."""
        super().init_poolmanager(*arguments, **options, ssl_context=self._context)
        self.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}

    def cert_verify(self, conn: Any, url: str, verify: object, cert: object) -> None:
        """requests would add the public authorities of the package certifi to those of our context."""
