"""Where the demo keeps what: everything below `.gatehouse` in the clone.

Unix sockets have paths of at most 107 bytes. In a clone that lies deep, the folder is reached through a short
link below the temporary folder; the data stays where it is.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = Path(os.environ.get("GATEHOUSE_DEMO_DIR") or ROOT / ".gatehouse").absolute()
"""Data folder of server and agent, also the default of every `gatehouse` command that runs in the clone."""
DEMO = DATA / "demo"
STATE = DEMO / "processes.json"
TRUST_DOMAIN = "gatehouse.test"
NODE = f"spiffe://{TRUST_DOMAIN}/node/this-machine"
LONGEST_SOCKET = 107


def gatehouse(*arguments: str) -> list[str]:
    """A `gatehouse` command line."""
    return [str(ROOT / ".venv" / "bin" / "gatehouse"), *arguments]


def python() -> Path:
    """The interpreter of the virtual environment."""
    return ROOT / ".venv" / "bin" / "python"


def gatehouse_agent(*arguments: str) -> list[str]:
    """A `gatehouse-agent` command line."""
    return [str(ROOT / ".venv" / "bin" / "gatehouse-agent"), *arguments]


def spiffe_id(workload: str) -> str:
    """The identity of a demo workload."""
    return f"spiffe://{TRUST_DOMAIN}/{workload}"


def interpreter(workload: str) -> Path:
    """The workload's own copy of the interpreter; its path is what it is recognised by."""
    return DEMO / "interpreters" / workload / "bin" / "python"


def log_of(name: str) -> Path:
    """Where a process writes."""
    return DEMO / f"{name}.log"


def data_dir() -> Path:
    """The data folder, by a path that is short enough for the longest socket name in it."""
    if len(os.fsencode(DATA / "agent-admin.sock")) + 16 <= LONGEST_SOCKET:
        return DATA
    link = outside(str(os.getuid()))
    if not (link.is_symlink() and link.readlink() == DATA):
        link.unlink(missing_ok=True)
        link.symlink_to(DATA)
    return link


def outside(name: str) -> Path:
    """A path below the temporary folder that belongs to this data folder alone."""
    digest = hashlib.sha256(os.fsencode(DATA)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"gatehouse-{name}-{digest}"


def free_port() -> int:
    """A loopback port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
