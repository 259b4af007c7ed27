"""The servers that the suite runs over: the fake, Vault (a peer), OpenBao (where one is on PATH)."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator

import pytest
from real_vault import REAL_KINDS, Api, Server
from vault_server import FakeVault

KINDS = ("fake", *(pytest.param(kind, marks=pytest.mark.peers) for kind in REAL_KINDS))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a test that is a coroutine."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of each kind. The real ones are shared by all tests."""
    if request.param == "fake":
        with FakeVault() as fake:
            made = Server("fake", Api(fake.url), fake)
            yield made
            made.close()
    else:
        made = Server(request.param, request.getfixturevalue("real_vault")(request.param).api)
        yield made
        made.close()


@pytest.fixture
def fake() -> Iterator[Server]:
    """The fake alone, for faults that no real server can be brought to."""
    with FakeVault() as server:
        made = Server("fake", Api(server.url), server)
        yield made
        made.close()
