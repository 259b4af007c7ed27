"""Where something listens: an IP address or a host name with a port, or a unix socket."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from control_plane.core.errors import InvalidInput, shown

MAX_SOCKET_PATH_BYTES: Final = 107  # sun_path of unix(7), less the NUL

_HOST = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?")
_SCHEME: Final = "unix:"


@dataclass(frozen=True, slots=True)
class Address:
    """Either `host` and `port`, or `path`; the others are empty and 0."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Reads `10.0.0.1:80`, `[::1]:80`, `db.example.org:80` or `unix:/run/x.sock`. Raises InvalidInput."""
        if text.startswith(_SCHEME):
            path = text.removeprefix(_SCHEME)
            if (
                not path.startswith("/")
                or not path.isprintable()
                or len(path.encode()) > MAX_SOCKET_PATH_BYTES
            ):
                raise InvalidInput(
                    f"{shown(text)} isn't a unix socket: unix: and an absolute path of at most"
                    f" {MAX_SOCKET_PATH_BYTES} bytes"
                )
            return cls(path=path)
        host, _, port = text.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not port.isascii() or not port.isdigit() or len(port) > 5 or not 0 < int(port) < 65536:
            raise InvalidInput(f"{shown(text)} isn't an address", hint="host:port, [IPv6]:port or unix:/path")
        if ("[" in host) != (":" in bare) or not (_HOST.fullmatch(bare) or _is_ip(bare)):
            raise InvalidInput(f"{shown(text)} isn't an address", hint="host:port, [IPv6]:port or unix:/path")
        return cls(host=str(ipaddress.ip_address(bare)) if _is_ip(bare) else bare.lower(), port=int(port))

    @classmethod
    def parse_local(cls, text: str) -> "Address":
        """As `parse`, for an address to listen on: no name of a host."""
        found = cls.parse(text)
        if found.host and not found.is_ip:
            raise InvalidInput(f"{shown(text)} names a host, an IP address of this machine is expected")
        return found

    @property
    def is_ip(self) -> bool:
        """Whether the host is an IP address, so that nothing has to be resolved."""
        return _is_ip(self.host)

    def __str__(self) -> str:
        if self.path:
            return _SCHEME + self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text
