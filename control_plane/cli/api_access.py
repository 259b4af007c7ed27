"""Where a command finds the management API: `api.sock` on this machine, or TLS to a server elsewhere.

A server elsewhere is known by its SPIFFE ID, `spiffe://<trust domain>/spire/server`, vouched for by the trust
bundle that the caller names; names of hosts don't count. The caller shows an X.509-SVID, or sends a token.
How the connections are made is `api_connections`' part.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from control_plane.cli.options import data_dir_of
from control_plane.core.errors import FailedPrecondition, InvalidInput, Unavailable, shown

if TYPE_CHECKING:
    from http.client import HTTPConnection

START_HINT = "start it with `gatehouse server run`, or name its folder with --data-dir"


class Api(Protocol):
    """The management API as a command reaches it; its text is for messages."""

    @property
    def hint(self) -> str:
        """What to do where it doesn't answer."""

    def require(self) -> None:
        """Raises Unavailable, saying so, where it is clear before connecting that nobody answers."""

    def connection(self, timeout_seconds: float) -> HTTPConnection:
        """A connection that opens at its first request; each wait is bounded by the time-out."""


def api_of(data_dir: Path | None) -> Api:
    """The server that this command is for."""
    return _elsewhere.get() or LocalApi(data_dir_of(data_dir) / "api.sock")


def choose(url: str, bundle: Path | None, svid: Path | None, key: Path | None) -> None:
    """Has this command talk to the server at `url`, or to the one of this machine where that is empty. Raises
    InvalidInput for what doesn't go together."""
    _elsewhere.set(ApiElsewhere.parse(url, bundle, svid, key) if url else None)


def only_local(what: str) -> None:
    """Raises FailedPrecondition if a server elsewhere was named, which the admin socket can't reach."""
    server = _elsewhere.get()
    if server is not None:
        raise FailedPrecondition(
            f"{what} at {server}: this command works through server.sock, on the server's machine alone",
            hint="run it there, without --remote and without GATEHOUSE_REMOTE",
        )


@dataclass(frozen=True, slots=True)
class LocalApi:
    """The unix socket of a server on this machine. The kernel tells it who calls."""

    socket: Path

    def __str__(self) -> str:
        return str(self.socket)

    @property
    def hint(self) -> str:
        return START_HINT

    def require(self) -> None:
        require_socket(self.socket)

    def connection(self, timeout_seconds: float) -> HTTPConnection:
        from control_plane.cli.api_connections import UnixConnection  # few commands pay for HTTP

        return UnixConnection(self.socket, timeout_seconds)


def require_socket(path: Path) -> None:
    """Raises Unavailable, saying that no server runs here, before an error of connecting would."""
    if not path.exists():
        raise Unavailable(f"no server is reachable: there is no socket {path}", hint=START_HINT)


@dataclass(frozen=True, slots=True)
class ApiElsewhere:
    """A server's management API over TLS. The files are read for each connection, so they may be renewed."""

    host: str
    port: int
    bundle: Path
    svid: Path | None = None
    key: Path | None = None

    @classmethod
    def parse(cls, url: str, bundle: Path | None, svid: Path | None, key: Path | None) -> ApiElsewhere:
        """From the flags. Raises InvalidInput."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InvalidInput(f"--remote {shown(url)}: {error}") from error
        if parts.scheme != "https" or not host or url.rstrip("/") != f"https://{parts.netloc}" or "@" in url:
            raise InvalidInput(f"--remote {shown(url)}: expected https://host:port and nothing else")
        if bundle is None:
            raise InvalidInput(
                f"--remote {shown(url)}: without a trust bundle no server can be known",
                hint="name the file with --remote-bundle; `gatehouse bundle show` on the server prints it",
            )
        if key is not None and svid is None:
            raise InvalidInput(
                f"--remote-key {key}: there is no certificate for it", hint="name it with --remote-svid"
            )
        return cls(host, port or 443, bundle, svid, key)

    def __str__(self) -> str:
        return f"https://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def hint(self) -> str:
        return (
            "is this its address, does it serve the API on TLS (--api-bind, or [api] bind), and is your "
            "certificate of a trust domain that it knows?"
        )

    def require(self) -> None:
        """Whether somebody answers shows itself when connecting."""

    def connection(self, timeout_seconds: float) -> HTTPConnection:
        from control_plane.cli.api_connections import TlsConnection

        return TlsConnection(self, timeout_seconds)


_elsewhere: ContextVar[ApiElsewhere | None] = ContextVar("elsewhere", default=None)
