"""The symbolic evaluator against the concrete one: the same policy, the same request, the same answer.

Policies and requests come from `tests/fakes/random_policies.py`. Inputs are whole (every root is there, as
the symbolic evaluator may be told) or not, and then whole roots are missing.
"""

import random
from types import ModuleType

import pytest

from policies.language.diagnostics import Diagnostics


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "parts"])
def test_each_construct_alone(fragment: str, whole: bool, made: ModuleType) -> None:
    randomness = random.Random(fragment)
    for keyword in ("", "import future.keywords.not\n"):
        rules = f"allow if {{ {fragment} }}\ndeny if {{ not neither }}\nneither if {{ {fragment} }}\n"
        text = f"package gatehouse.authz\n{keyword}{made.HELPERS}\n{rules}"
        assert next(made.disagreements(text, randomness, 100, whole=whole), None) is None


@pytest.mark.parametrize("seed", range(60))
def test_constructs_together(seed: int, made: ModuleType) -> None:
    randomness = random.Random(seed)
    text = made.policy(randomness)
    try:
        assert next(made.disagreements(text, randomness, 80, whole=seed % 2 == 0), None) is None
    except Diagnostics:
        assert any(fragment in text for fragment in made.REFUSED)


def test_requests_cover_absence_and_presence(made: ModuleType) -> None:
    drawn = list(made.requests(random.Random(1), 200))
    for attribute in made.VALUES:
        present = sum(request.get(attribute) is not None for request in drawn)
        assert 60 < present < 140
