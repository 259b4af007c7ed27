"""Fuzz target of the Rego front end: any bytes end in a policy or in Diagnostics, and soon.

Run by hand with atheris (`python tests/fuzz/fuzz_rego_parser.py CORPUS`), by pytest with hypothesis in
tests/policies/language/test_fuzz.py. What parses must also format, to a text that parses to the same rules.
"""

import sys

from policies.language.builtins.registry import BUILTINS
from policies.language.checks.check import check_modules
from policies.language.diagnostics import Diagnostics
from policies.language.layout.format import format_module
from policies.language.syntax.parser import parse_module, parse_query


def fuzz_rego_parser(data: bytes) -> None:
    """One input. Anything but Diagnostics that comes out of here is a bug."""
    text = data.decode("utf-8", "replace")
    try:
        parse_query(text)
    except Diagnostics as error:
        assert error.diagnostics
    try:
        module = parse_module(text)
    except Diagnostics as error:
        assert error.diagnostics and str(error)
        return
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


def main() -> None:
    """Runs under atheris until it is stopped."""
    import atheris  # only needed here: the package has no wheel for every platform

    atheris.instrument_all()
    atheris.Setup(sys.argv, fuzz_rego_parser)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
