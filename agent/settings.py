"""The agent's settings: as an operator writes them, and checked, as the agent runs with them.

Written in TOML (`--config`), in the environment (`GATEHOUSE_AGENT_…`) and as flags; a flag wins over the
environment, the environment over the file. Unknown keys are an error that names the nearest right one.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from control_plane.core.errors import InvalidInput, shown
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import TrustDomain
from control_plane.runtime.addresses import parse_loopback
from control_plane.runtime.settings import path_of

ENVIRONMENT_PREFIX: Final = "GATEHOUSE_AGENT_"
DEFAULT_SERVER: Final = "127.0.0.1:8081"
MAX_TOKEN_CHARACTERS: Final = 255
LOG_LEVELS: Final = ("debug", "info", "warning", "error")

_HOST = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?\.?")
_PORT = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenSettings:
    """As written: text and numbers, nothing checked. The names are those of the flags."""

    data_dir: str = ""
    trust_domain: str = ""
    server: str = DEFAULT_SERVER
    join_token: Secret[str] = field(default_factory=lambda: Secret(""))
    x509pop_certificate: str = ""
    x509pop_key: str = ""
    trust_bundle: str = ""
    insecure_bootstrap: bool = False
    socket_path: str = ""
    admin_socket_path: str = ""
    cache_key_file: str = ""
    svid_cache_size: int = 1000
    executable_size_limit_bytes: int = 512 << 20
    metrics_bind: str = ""
    log_level: str = "info"
    log_format: str = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """As run: valid, whoever made it."""

    data_dir: Path
    trust_domain: TrustDomain
    server_host: str
    server_port: int
    join_token: Secret[str] | None
    x509pop: tuple[Path, Path] | None
    trust_bundle: Path | None
    insecure_bootstrap: bool
    socket_path: Path
    admin_socket_path: Path
    cache_key_file: Path | None
    svid_cache_size: int
    executable_size_limit_bytes: int
    metrics_bind: tuple[str, int] | None
    log_level: str
    log_json: bool

    @classmethod
    def parse(cls, written: WrittenSettings, default_dir: Path | None = None) -> "AgentSettings":
        """Checks what was written; `default_dir` stands in for a missing data_dir. Raises InvalidInput with
        the setting, what came, and what was expected."""
        if not written.data_dir and default_dir is None:
            raise InvalidInput("settings: data_dir is missing", hint="give --data-dir")
        if not written.trust_domain:
            raise InvalidInput("settings: trust_domain is missing", hint="give --trust-domain")
        if bool(written.x509pop_certificate) != bool(written.x509pop_key):
            raise InvalidInput("settings: x509pop_certificate and x509pop_key go together")
        token = written.join_token.reveal()
        if token and written.x509pop_key:
            raise InvalidInput("settings: join_token and x509pop are two ways to attest; give one")
        if len(token) > MAX_TOKEN_CHARACTERS or not token.isprintable():
            raise InvalidInput("settings: join_token isn't a token")
        if written.trust_bundle and written.insecure_bootstrap:
            raise InvalidInput("settings: with a trust_bundle, insecure_bootstrap makes no sense")
        if written.log_level not in LOG_LEVELS or written.log_format not in ("json", "human"):
            raise InvalidInput(
                f"settings: log_level {shown(written.log_level)}, log_format {shown(written.log_format)}; "
                f"expected one of {', '.join(LOG_LEVELS)}, and json or human"
            )
        if written.svid_cache_size < 1 or written.executable_size_limit_bytes < 0:
            raise InvalidInput("settings: svid_cache_size and executable_size_limit_bytes can't be negative")
        data_dir = path_of(str(written.data_dir or default_dir or ""), "data_dir").absolute()
        host, port = parse_server(written.server)
        return cls(
            data_dir=data_dir,
            trust_domain=TrustDomain.parse(written.trust_domain),
            server_host=host,
            server_port=port,
            join_token=Secret(token) if token else None,
            x509pop=(Path(written.x509pop_certificate), Path(written.x509pop_key))
            if written.x509pop_key
            else None,
            trust_bundle=Path(written.trust_bundle) if written.trust_bundle else None,
            insecure_bootstrap=written.insecure_bootstrap,
            socket_path=Path(written.socket_path or data_dir / "agent.sock").absolute(),
            admin_socket_path=Path(written.admin_socket_path or data_dir / "agent-admin.sock").absolute(),
            cache_key_file=Path(written.cache_key_file) if written.cache_key_file else None,
            svid_cache_size=written.svid_cache_size,
            executable_size_limit_bytes=written.executable_size_limit_bytes,
            metrics_bind=parse_loopback("metrics_bind", written.metrics_bind),
            log_level=written.log_level,
            log_json=written.log_format == "json",
        )


def default_data_dir(environment: Mapping[str, str]) -> Path:
    """`.gatehouse` in the current folder where that exists (a clone in which `make up` ran), else the XDG
    state folder; the same rule as the server's command line."""
    here = Path(".gatehouse")
    if here.is_dir():
        return here
    state = environment.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "gatehouse"


def parse_server(text: str) -> tuple[str, int]:
    """Reads `host:port`, `[IPv6]:port`; the host is a name or an address. Raises InvalidInput."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        valid = bool(_HOST.fullmatch(bare)) or bool(ipaddress.ip_address(bare))
    except ValueError:
        valid = False
    if not colon or not valid or not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
        raise InvalidInput(
            f"settings: server {shown(text)} isn't host:port", hint="such as gatehouse.example.org:8081"
        )
    return bare, int(port)
