"""The families that are loaded late are all there, and nothing loads them early."""

import subprocess
import sys

from policies.language.builtins import certificates, heavy, schemas, tokens
from policies.language.builtins.registry import BUILTINS


def test_every_function_of_a_heavy_family_is_named() -> None:
    families = (certificates, schemas, tokens)
    assert heavy.FUNCTIONS.keys() == {name for family in families for name in family.FUNCTIONS}
    assert {name for one in families for name in getattr(one, "CONTEXTUAL", ())} == heavy.CONTEXTUAL


def test_a_call_loads_the_family() -> None:
    function = BUILTINS["json.verify_schema"].function
    assert function is not None
    assert function("{}") == schemas.verify_schema("{}")


def test_compiling_loads_no_library_that_a_policy_does_not_call() -> None:
    program = """
import sys
import control_plane.cli.policy, control_plane.cli.policy_cache, policies.kept.compilation
print(*sorted({name.partition(".")[0] for name in sys.modules} & {
    "cryptography", "jsonschema", "asyncio", "http", "rich", "grpclib", "google", "pydantic"}))
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
