"""Some hundred mutated inputs for each fuzz target; `make fuzz` runs them at length."""

import pytest
import targets
from fuzz_mutations import mutations

COUNTS = {
    "http2": 800,
    "http2_client": 500,
    "inventory": 150,
    "rego": 350,
    "manifest": 400,
    "conformance": 200,
    "settings": 400,
    "journal": 800,
    "xds": 400,
    "description": 200,
    "signed_policy": 400,
    "attestation": 400,
    "annotations": 300,
    "envoy_input": 400,
    "kept": 500,
}  # the others are quick


@pytest.mark.parametrize("name", targets.TARGETS)
def test_mutated_input_ends_in_a_value_or_an_error_of_ours(name: str) -> None:
    target, seeds = targets.load(name)
    accepted = 0
    count = COUNTS.get(name, 1000)
    for data in mutations(seeds, count, seed=1):
        try:
            accepted += target(data)
        except Exception as error:
            raise AssertionError(f"{name}: {error!r} from {data!r}") from error
    assert count / 50 < accepted < count, "the mutations reach nothing but refusals, or none"
