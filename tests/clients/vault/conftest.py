"""The servers that the suite runs over: the fake, Vault (a peer), OpenBao (where one is on PATH)."""

from __future__ import annotations

import asyncio
import inspect
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_vault import Api, RealVault, Server
from vault_server import FakeVault

KINDS = ("fake", pytest.param("vault", marks=pytest.mark.peers), pytest.param("bao", marks=pytest.mark.peers))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a test that is a coroutine."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(scope="session")
def real(peer: Callable[[str], Path]) -> Iterator[Callable[[str], RealVault]]:
    """One dev server of each kind for the whole run."""
    started: dict[str, RealVault] = {}

    def get(kind: str) -> RealVault:
        if kind == "bao" and shutil.which("bao") is None:
            pytest.skip("no bao on PATH")
        if kind not in started:
            server = RealVault(peer("vault") if kind == "vault" else Path(shutil.which("bao") or ""))
            started[kind] = server.__enter__()
        return started[kind]

    yield get
    for server in started.values():
        server.__exit__()


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of each kind. The real ones are shared by all tests."""
    if request.param == "fake":
        with FakeVault() as fake:
            made = Server("fake", Api(fake.url), fake)
            yield made
            made.close()
    else:
        made = Server(request.param, request.getfixturevalue("real")(request.param).api)
        yield made
        made.close()


@pytest.fixture
def fake() -> Iterator[Server]:
    """The fake alone, for faults that no real server can be brought to."""
    with FakeVault() as server:
        made = Server("fake", Api(server.url), server)
        yield made
        made.close()
