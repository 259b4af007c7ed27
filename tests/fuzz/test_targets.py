"""Some thousand mutated inputs for each fuzz target; `make fuzz` runs them at length."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_targets", Path(__file__).with_name("targets.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


TARGETS = _load()
COUNTS = {
    "http2": 800,
    "inventory": 150,
    "rego": 300,
    "settings": 400,
    "journal": 800,
}  # the others are quick


@pytest.mark.parametrize("name", TARGETS.TARGETS)
def test_mutated_input_ends_in_a_value_or_an_error_of_ours(name: str) -> None:
    target = TARGETS.TARGETS[name]
    for data in TARGETS.mutations(TARGETS.SEEDS[name](), COUNTS.get(name, 2000), seed=1):
        try:
            target(data)
        except Exception as error:
            raise AssertionError(f"{name}: {error!r} from {data!r}") from error
