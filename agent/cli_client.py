"""How commands call a socket of the agent: one call, one answer, on an event loop of their own."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from control_plane.core import der
from control_plane.core.errors import Unavailable
from control_plane.runtime.clock import SystemClock
from control_plane.runtime.transport import Channel

WORKLOAD_API = "/SpiffeWorkloadAPI/"
WORKLOAD_METADATA = (("workload.spiffe.io", "true"),)

T = TypeVar("T")


def call(socket: Path, work: Callable[[Channel], Awaitable[T]]) -> T:
    """Runs `work` with a channel to the socket. Raises GatehouseError; Unavailable if there is no socket."""

    async def main() -> T:
        if not await asyncio.to_thread(socket.exists):
            raise Unavailable(
                f"connecting to {socket}: there is no such socket",
                hint="is the agent running? name its folder with --data-dir, or the socket itself",
            )
        async with Channel.unix(socket) as channel:
            return await work(channel)

    return asyncio.run(main())


def split(certificates: bytes) -> list[bytes]:
    """DER certificates that were written one after another. Raises InvalidInput if that isn't what it is."""
    found = []
    offset = 0
    while offset < len(certificates):
        _, end = der.expect(certificates, offset, len(certificates), der.SEQUENCE)
        found.append(certificates[offset:end])
        offset = end
    return found


def pem(certificate: bytes) -> str:
    """One certificate as PEM."""
    return (
        x509.load_der_x509_certificate(certificate).public_bytes(serialization.Encoding.PEM).decode("ascii")
    )


def key_pem(key: bytes) -> str:
    """A PKCS#8 key as PEM, unencrypted."""
    return (
        serialization.load_der_private_key(key, password=None)
        .private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        .decode("ascii")
    )


def moment(unix_seconds: int, now: int) -> str:
    """A time for people, with its distance: `2026-11-21 11:05:00Z, in 23.4 h`."""
    if not unix_seconds:
        return "never"
    when = SystemClock().now().fromtimestamp(unix_seconds, SystemClock().now().tzinfo)
    distance = unix_seconds - now
    unit, size = ("h", 3600) if abs(distance) >= 7200 else ("min", 60) if abs(distance) >= 120 else ("s", 1)
    span = f"{abs(distance) / size:.3g} {unit}"
    return f"{when:%Y-%m-%d %H:%M:%SZ}, " + (f"in {span}" if distance >= 0 else f"{span} ago")
