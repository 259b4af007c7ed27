"""A part of the input that is given a name first is asked the same as one that is read directly."""

import pytest

from policies.language.symbolic import Memory, PartialInput, SymbolicEvaluator
from policies.language.values import EMPTY_OBJECT
from policies.project import Project

HELPERS = """
headers := input.request.headers
claims := input.jwt.claims
role_of(token) := token.role
red(request) if request.headers["x-team"] == "red"
"""


def asked(condition: str) -> str:
    """What a policy of one rule asks of a request."""
    policy = f"package gatehouse.authz\nimport future.keywords.not\n{HELPERS}\nallow if {{\n{condition}\n}}\n"
    memory = Memory.of(Project.of({"authz.rego": policy}).compiled(), EMPTY_OBJECT)
    found = SymbolicEvaluator(memory, PartialInput()).outcomes(("gatehouse", "authz", "allow"))
    return str([guard for guard, _, _ in found])


@pytest.mark.parametrize(
    ("named", "direct"),
    [
        ('headers["x-team"] == "red"', 'input.request.headers["x-team"] == "red"'),
        ('headers["x-team"] != "red"', 'input.request.headers["x-team"] != "red"'),
        ('not headers["x-team"]', 'not input.request.headers["x-team"]'),
        ('not headers["x-team"] == "red"', 'not input.request.headers["x-team"] == "red"'),
        ('h := input.request.headers\nh["x-team"] == "red"', 'input.request.headers["x-team"] == "red"'),
        ('r := input.request\nr.headers["x-team"] == "red"', 'input.request.headers["x-team"] == "red"'),
        ("red(input.request)", 'input.request.headers["x-team"] == "red"'),
        ('claims.role in {"a", "b"}', 'input.jwt.claims.role in {"a", "b"}'),
        ('"readers" in claims.groups', '"readers" in input.jwt.claims.groups'),
        ('role_of(claims) == "admin"', 'input.jwt.claims.role == "admin"'),
        (
            'not claims.role == "admin"\nclaims.sub == "ann"',
            'not input.jwt.claims.role == "admin"\ninput.jwt.claims.sub == "ann"',
        ),
    ],
)
def test_a_name_for_a_part_asks_nothing_more(named: str, direct: str) -> None:
    assert asked(named) == asked(direct)


@pytest.mark.parametrize(
    "condition",
    [
        'h := input.request.headers\nnot h["x-team"]',  # holds only where there are headers at all
        "input.jwt.claims",
        'is_object(claims)\ninput.request.method == "GET"',
    ],
)
def test_a_part_that_nothing_else_asks_for_is_asked_for(condition: str) -> None:
    assert "opaque" in asked(condition)
