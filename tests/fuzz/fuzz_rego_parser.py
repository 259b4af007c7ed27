"""Fuzz target of the Rego front end: any bytes end in a policy or in Diagnostics, and soon.

Run at length by targets.py, by pytest with hypothesis in tests/policies/language/test_fuzz.py. What parses
must also format, to a text that parses to the same rules.
"""

from dataclasses import replace

from policies.language.builtins.registry import BUILTINS
from policies.language.checks.check import check_modules
from policies.language.diagnostics import Diagnostics
from policies.language.layout.format import format_module
from policies.language.syntax.ast import Boolean, Rule
from policies.language.syntax.parser import parse_module

TRUE = Boolean(True)


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
    assert [said(rule) for rule in again.rules] == [said(rule) for rule in module.rules]
    try:
        check_modules([module], BUILTINS)
    except Diagnostics as error:
        assert error.diagnostics and str(error)
    return True


def said(rule: Rule) -> Rule:
    """A rule without what may be left out: the value `true` and the body `true`.

    And without its annotations: those that stood inside of another rule go where that is laid out.
    """
    head, body, otherwise = rule.head, rule.body, rule.otherwise
    always = len(body) == 1 and body[0].node == TRUE and not body[0].modifiers
    return replace(
        rule,
        head=replace(head, value=None if head.value == TRUE else head.value),
        body=() if always else body,
        annotations=(),
        otherwise=None if otherwise is None else said(otherwise),
    )
