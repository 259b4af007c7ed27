"""The generator of random policies, and one test for each of its fragments."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

_NAME = "gatehouse_tests_random_policies"
_FILE = Path(__file__).parents[2] / "fakes" / "random_policies.py"


def _module() -> ModuleType:
    if _NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(_NAME, _FILE)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[_NAME] = module
        spec.loader.exec_module(module)
    return sys.modules[_NAME]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fragment" in metafunc.fixturenames:
        metafunc.parametrize("fragment", _module().TESTS)


@pytest.fixture(scope="session")
def made() -> ModuleType:
    """See `tests/fakes/random_policies.py`."""
    return _module()
