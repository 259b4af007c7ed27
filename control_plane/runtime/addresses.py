"""Addresses in settings: where to listen, and where others are. Text in, checked values out; no look-ups."""

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control_plane.core.errors import InvalidInput, shown

EXAMPLE: Final = "0.0.0.0:8081"

_LONGEST_SOCKET_BYTES: Final = 107  # sun_path with its terminating zero is 108 (unix(7))
_SOCKET_SUFFIX_BYTES: Final = 7  # of the name under which a socket is bound before it is renamed
_HOST: Final = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?")
_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-fA-F:.]+\]|[^/@:?#\[\]]+)(:(?P<port>[0-9]{1,5}))?/?"
)


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """Where somebody else's HTTP server is: with TLS, or without on this machine alone."""

    host: str
    port: int
    tls: bool

    @classmethod
    def parse(cls, url: str, *, setting: str, default_port: int, risk: str) -> "HttpAddress":
        """Reads `https://host[:port]`, or plain HTTP to a loopback address. Raises InvalidInput, which names
        the setting, and what anybody on the way could do (`risk`)."""
        found = _URL.fullmatch(url)
        if found is None:
            raise InvalidInput(
                f"settings: {setting} {shown(url)}, expected http(s)://host:port without a path",
                hint=f"such as http://127.0.0.1:{default_port}",
            )
        tls = found["scheme"] == "https"
        host, port = parse_bind(f"{found['host']}:{found['port'] or default_port}")
        if not tls and not is_loopback(host):
            raise InvalidInput(
                f"settings: {setting} {shown(url)}: anybody on the way could {risk}",
                hint="use https for a server on another machine",
            )
        return cls(host, port, tls)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


def check_socket_path(path: Path) -> None:
    """Returns if a unix socket can have this path. Raises InvalidInput if the kernel takes none so long."""
    excess = len(os.fsencode(path)) + _SOCKET_SUFFIX_BYTES - _LONGEST_SOCKET_BYTES
    if excess > 0:
        raise InvalidInput(
            f"unix socket {shown(str(path))}: the path is {excess} bytes too long",
            hint="choose a shorter folder",
        )


def parse_bind(text: str) -> tuple[str, int]:
    """Reads `host:port` or `[v6]:port`. Raises InvalidInput."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise InvalidInput(f"settings: bind {shown(text)}, expected host:port", hint=f"such as {EXAMPLE}")
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        if not _HOST.fullmatch(bare):
            raise InvalidInput(f"settings: bind {shown(text)}, the host can't be read") from None
    return bare, int(port)


def parse_loopback(name: str, text: str) -> tuple[str, int] | None:
    """Reads `host:port` of this machine alone; None for an empty text. Raises InvalidInput."""
    if not text:
        return None
    host, port = parse_bind(text)
    if not is_loopback(host):
        raise InvalidInput(
            f"settings: {name} {shown(text)}, expected a loopback address: it is served without credentials",
            hint="such as 127.0.0.1:9988; put a proxy that authenticates in front to reach it from elsewhere",
        )
    return host, port


def is_loopback(host: str) -> bool:
    """Whether this is an address of the machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
