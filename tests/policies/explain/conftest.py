"""The generator of random policies."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

_FILE = Path(__file__).parents[2] / "fakes" / "random_policies.py"


@pytest.fixture(scope="session")
def made() -> ModuleType:
    """See `tests/fakes/random_policies.py`."""
    name = "gatehouse_tests_random_policies"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, _FILE)
        assert spec is not None and spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]
