"""Fuzz target of the Rego front end: any bytes end in a policy or in Diagnostics, and soon.

Run at length by targets.py, by pytest with hypothesis in tests/policies/language/test_fuzz.py. What parses
must also format, to a text that parses to the same rules.
"""

from policies.language.builtins.registry import BUILTINS
from policies.language.checks.check import check_modules
from policies.language.diagnostics import Diagnostics
from policies.language.layout.format import format_module
from policies.language.syntax.parser import parse_module


def fuzz_rego_parser(data: bytes) -> bool:
    """One input; accepted if it parses. Anything but Diagnostics that comes out of here is a bug."""
    try:
        module = parse_module(data.decode("utf-8", "replace"))
    except Diagnostics as error:
        assert error.diagnostics and str(error)
        return False
    formatted = format_module(module)
    again = parse_module(formatted)
    assert format_module(again) == formatted
    assert [rule.kind for rule in again.rules] == [rule.kind for rule in module.rules]
    assert [rule.body for rule in again.rules if rule.body] == [
        rule.body for rule in module.rules if rule.body and rule.body[0].span.text != "true"
    ] or any(rule.body and rule.body[0].span.text == "true" for rule in module.rules)
    try:
        check_modules([module], BUILTINS)
    except Diagnostics as error:
        assert error.diagnostics and str(error)
    return True
