"""Listening sockets: never seen half made, accepting in batches, patient when files run out."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

from control_plane.core.errors import Unavailable
from control_plane.runtime.addresses import check_socket_path
from control_plane.runtime.log import Log
from control_plane.runtime.tls import TlsServerSource

BACKLOG = 4096
_ACCEPTS_AT_ONCE = 64
_PAUSE_SECONDS = 0.2
QUIET_SECONDS = 30  # of a TCP connection, until the kernel asks whether the peer is there
PROBE_SECONDS = 10
_PROBES = 3


class Listener:
    """One listening socket: accepts in batches, pauses when the process runs out of descriptors."""

    def __init__(
        self,
        listener: socket.socket,
        tls: TlsServerSource | None,
        path: Path | None,
        accepted: Callable[[socket.socket, object, TlsServerSource | None], None],
        log: Log,
    ) -> None:
        self._socket = listener
        self._tls = tls
        self._path = path
        self._inode = path.stat().st_ino if path is not None else 0
        self._accepted = accepted
        self._log = log
        self._closed = False
        self._listen()

    def _listen(self) -> None:
        if not self._closed:
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                connection, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # EMFILE, ENFILE, ENOBUFS, ENOMEM: others must give back first
                self._log.error("accept_failed", reason=str(error), hint="raise the limit of open files")
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._socket.fileno())
                loop.call_later(_PAUSE_SECONDS, self._listen)
                return
            self._accepted(connection, address, self._tls)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        if self._path is not None:
            # Another process may have put its own socket there since; that one stays.
            with contextlib.suppress(OSError):
                if self._path.lstat().st_ino == self._inode:
                    self._path.unlink()


def bind_tcp(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    """A listening TCP socket; port 0 takes a free one. Raises Unavailable if the address can't be had."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Unavailable(f"listening on {host}:{port}: {error.strerror or error}") from error
    return listener


def bind_unix(path: Path, mode: int) -> socket.socket:
    """A listening unix socket with the permissions `mode`.

    It is bound under another name and renamed when it listens: nobody sees it with wrong permissions or is
    refused, and one that an earlier process left is replaced.

    Raises:
        InvalidInput: the path is longer than the kernel takes.
        Unavailable: it can't be had.
    """
    check_socket_path(path)
    temporary = Path(f"{path}.{os.urandom(3).hex()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        previous = os.umask(0o177)
        try:
            listener.bind(str(temporary))
        finally:
            os.umask(previous)
        temporary.chmod(mode)
        listener.listen(BACKLOG)
        temporary.rename(path)
    except OSError as error:
        listener.close()
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise Unavailable(f"listening on unix socket {path}: {error.strerror or error}") from error
    return listener


def tune_tcp(connection: socket.socket) -> None:
    """Lets the kernel find out that a peer is gone, within about a minute, whether we are silent or write."""
    gone_after = QUIET_SECONDS + _PROBES * PROBE_SECONDS
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, QUIET_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, gone_after * 1000)
