"""Some hundred mutated inputs for each fuzz target; `make fuzz` runs them at length."""

import pytest
import targets

COUNTS = {
    "http2": 800,
    "inventory": 150,
    "rego": 150,
    "manifest": 400,
    "conformance": 200,
    "settings": 400,
    "journal": 800,
}  # the others are quick


@pytest.mark.parametrize("name", targets.TARGETS)
def test_mutated_input_ends_in_a_value_or_an_error_of_ours(name: str) -> None:
    target, seeds = targets.load(name)
    for data in targets.mutations(seeds, COUNTS.get(name, 1000), seed=1):
        try:
            target(data)
        except Exception as error:
            raise AssertionError(f"{name}: {error!r} from {data!r}") from error
