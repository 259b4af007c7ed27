"""What all tests share: real counterparts, hypothesis profiles, short folders for sockets.

A test that needs a foreign program takes the fixture `peer` and asks for it by name. Where the program is
absent the test is skipped with one line that says how to get it; with `GATEHOUSE_REQUIRE_PEERS=1` it fails.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fuzz", parent=_PATIENT, max_examples=20_000)
# These draw the same in each run, so that a change is judged by what it does; `make fuzz` draws anew.
settings.register_profile("default", parent=_PATIENT, derandomize=True)
settings.register_profile("brief", parent=_PATIENT, derandomize=True, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: a third of the time a test waits for processes that it started."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Keeps groups together: xdist 3.8 writes them where pytest 9.2 no longer reads them, so that each worker
    would start the processes of a module for itself."""
    return Together(config, log)


class Together(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no type hints
    """Tests of a file that names an `xdist_group` go to one worker; all others one by one."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid.partition("::")[0]) or nodeid


@functools.cache
def group_of(path: str) -> str:
    """The group that a file of tests names, if any. Who deals out the tests knows nothing but their names."""
    found = re.search(r'xdist_group\("([^"]+)"\)', (ROOT / path).read_text(encoding="utf-8"))
    return found[1] if found else ""


def _load(path: str) -> ModuleType:
    """A file below `tests/` as a module; tests have no packages to import it from."""
    name = "gatehouse_tests_" + path.removesuffix(".py").replace("/", "_")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def peer() -> Callable[[str], Path]:
    """Finds a real counterpart's binary by name, or skips (fails where peers are required)."""
    peers = _load("interop/peers.py")

    def find(name: str) -> Path:
        found: Path | None = peers.find(name)
        if found is not None:
            return found
        reason = f"no {name}: `make peers` builds it, or GATEHOUSE_PEERS names a folder that has it"
        if os.environ.get("GATEHOUSE_REQUIRE_PEERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)

    return find


@pytest.fixture(scope="session")
def running() -> ModuleType:
    """Our server and agent, and SPIRE's, as processes: see `tests/fakes/running.py`."""
    return _load("fakes/running.py")


@pytest.fixture(scope="session")
def real_vault(peer: Callable[[str], Path]) -> Iterator[Callable[[str], Any]]:
    """A dev server of `vault` or `bao`, one of each for the whole run: a `real_vault.RealVault`, whose `api`
    sets it up. Tests mount what they need under names of their own."""
    started: dict[str, Any] = {}

    def get(program: str) -> Any:
        if program not in started:
            from real_vault import RealVault  # the server's code is loaded where it is needed alone

            started[program] = RealVault(peer(program)).__enter__()
        return started[program]

    yield get
    for server in started.values():
        server.__exit__()


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder with a path short enough for unix sockets (108 bytes at most, name included)."""
    folder = Path(tempfile.mkdtemp(prefix="gh"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
