"""A server of ours, and workloads on go-spiffe that are told apart by their program's path."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

NODE = "node/one"


@pytest.fixture(scope="module")
def folder(running: ModuleType) -> Iterator[Path]:
    """A short folder for this module's servers and agents."""
    with running.short_folder() as path:
        yield path


@pytest.fixture(scope="module")
def server(running: ModuleType, folder: Path) -> Iterator[Any]:
    """Our server."""
    process = running.GatehouseServer(folder)
    with running.stopping(process):
        yield process.run()


@pytest.fixture(scope="module")
def agent(running: ModuleType, folder: Path, server: Any) -> Iterator[Any]:
    """Our agent, attested to our server as `node/one`."""
    node = f"spiffe://{server.trust_domain}/{NODE}"
    token = server.cli("token", "generate", "--spiffe-id", node)["token"]
    process = running.GatehouseAgent(folder)
    with running.stopping(process):
        yield process.run(f"127.0.0.1:{server.port}", server.trust_domain, server.bundle_file(), token)


@pytest.fixture(scope="module")
def workload(peer: Callable[[str], Path], folder: Path) -> Callable[[str], Path]:
    """A copy of the go-spiffe client under a name of its own, so that its path is its selector."""

    def make(name: str) -> Path:
        program = folder / "bin" / name
        if not program.exists():
            program.parent.mkdir(exist_ok=True)
            shutil.copy2(peer("gatehouse-peer-client"), program)
        return program

    return make


@pytest.fixture(scope="session")
def my_uid() -> str:
    """The selector of whoever runs these tests."""
    return f"unix:uid:{os.getuid()}"
