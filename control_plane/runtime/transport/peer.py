"""Who is at the other end of a connection, as the kernel and TLS say; not yet who it claims to be.

No identity is derived here: unix credentials are evidence for attestation, the chain is evidence for
`core.verify_x509`. Interceptors keep what they found in `attributes` for later calls of the connection.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from control_plane.runtime.log import get_logger

SO_PEERPIDFD = 77  # Linux 6.5; the socket module of Python 3.11 doesn't name it
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class UnixPeer:
    """Credentials of the process that connected, fixed by the kernel at that moment.

    `pidfd` stays the same process even when the pid is reused; None where the kernel has no SO_PEERPIDFD or
    the process has ended already. It belongs to the connection and is closed with it; who wants to keep it
    duplicates it.
    """

    pid: int
    uid: int
    gid: int
    pidfd: int | None


def read_unix_peer(connection: socket.socket) -> UnixPeer:
    """Asks the kernel who connected. Raises OSError when the socket is gone."""
    pidfd: int | None = None
    with contextlib.suppress(OSError):  # ENOPROTOOPT before Linux 6.5, ESRCH when the process has ended
        pidfd = connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        if pidfd is not None:
            os.close(pidfd)
        raise
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return UnixPeer(pid, uid, gid, pidfd)


class Peer:
    """The other end of one connection.

    `address` is `host:port`, or `unix:pid` for unix sockets. `chain` is what the peer presented, DER, leaf
    first, () when it presented nothing; OpenSSL has checked it against the union of our bundles only.
    """

    __slots__ = ("_callbacks", "_closed", "address", "attributes", "chain", "kind", "unix")

    def __init__(
        self,
        kind: Literal["tls", "unix"],
        address: str,
        *,
        chain: tuple[bytes, ...] = (),
        unix: UnixPeer | None = None,
    ) -> None:
        self.kind = kind
        self.address = address
        self.chain = chain
        self.unix = unix
        self.attributes: dict[str, Any] = {}
        self._callbacks: list[Callable[[], None]] | None = None
        self._closed = False

    def on_close(self, callback: Callable[[], None]) -> None:
        """Has `callback` called once when the connection is gone; at once if it is gone already."""
        if self._closed:
            callback()
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def close(self) -> None:
        """Tells those who asked, then gives the pidfd back. Called by the transport."""
        if self._closed:
            return
        self._closed = True
        callbacks, self._callbacks = self._callbacks or [], None
        for callback in callbacks:
            try:
                callback()
            except Exception:
                # Another's callback must not keep the next from being told, nor the pidfd open.
                get_logger("transport").exception("close_callback_failed", peer=self.address)
        if self.unix is not None and self.unix.pidfd is not None:
            os.close(self.unix.pidfd)

    def __repr__(self) -> str:
        return f"Peer({self.kind}, {self.address})"
