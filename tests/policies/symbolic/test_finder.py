"""A finder names a rule exactly where the evaluator says that the document holds."""

from __future__ import annotations

import json
import random
from types import ModuleType

import pytest

from policies.language.closures.closure import compile_finder
from policies.language.concrete.evaluate import Evaluator
from policies.language.numbers import parse_number


@pytest.mark.parametrize("seed", range(4))
def test_on_random_policies(made: ModuleType, seed: int) -> None:
    randomness = random.Random(seed)
    data = made.as_data(made.DATA)
    held = specialised = 0
    for _ in range(20):
        text = made.policy(randomness)
        modules = made.compiled(text)
        evaluator = Evaluator(modules)
        drawn = made.cases(randomness, 40, whole=False)
        for name in ("allow", "deny"):
            path = ("gatehouse", "authz", name)
            finder = compile_finder(modules, path, data)
            specialised += not finder.reason
            for case in drawn:
                wanted = made.concrete_answer(evaluator, path, case, data)
                if wanted == made.CONFLICTING:
                    continue
                span = finder(json.loads(case.text, parse_float=parse_number))
                assert (span is not None) is (wanted is True), f"{name} for {case.text}\n{text}"
                held += span is not None
    assert held > 20
    assert specialised > 5


def test_a_set_holds_when_it_has_a_member(made: ModuleType) -> None:
    text = 'package p\n\nd contains "x" if input.a\n\nd contains input.b\n\nb if input.a\n'
    modules = made.compiled(text)
    for name, with_b in (("d", True), ("b", False)):
        finder = compile_finder(modules, ("p", name), made.as_data({}))
        assert finder({"a": True}) is not None
        assert finder({"a": False}) is None
        assert (finder({"b": 1}) is not None) is with_b
