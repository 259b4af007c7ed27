"""Some hundred mutated inputs for each fuzz target; `make fuzz` runs them at length."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parent


def _load() -> ModuleType:
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))  # the targets' files import each other, as when run by hand
    spec = importlib.util.spec_from_file_location("fuzz_targets", FOLDER / "targets.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


TARGETS = _load()
COUNTS = {
    "http2": 800,
    "inventory": 150,
    "rego": 150,
    "manifest": 400,
    "conformance": 200,
    "settings": 400,
    "journal": 800,
}  # the others are quick


@pytest.mark.parametrize("name", TARGETS.TARGETS)
def test_mutated_input_ends_in_a_value_or_an_error_of_ours(name: str) -> None:
    target, seeds = TARGETS.load(name)
    for data in TARGETS.mutations(seeds, COUNTS.get(name, 1000), seed=1):
        try:
            target(data)
        except Exception as error:
            raise AssertionError(f"{name}: {error!r} from {data!r}") from error
