"""Constants that the libraries behind built-ins refuse: regular expressions, globs, addresses.

OPA accepts them silently: the call is undefined, so `not net.cidr_contains("10.0.0.0/33", ip)` is true and
a deny rule never fires. Here they are errors. Works on the compiled form, where names are resolved.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from policies.language.builtins.errors import BuiltinError
from policies.language.builtins.globs import delimiter_text, read_glob
from policies.language.builtins.net import parse_address, parse_block
from policies.language.builtins.regular import compile_pattern
from policies.language.compiler.compiled import CompiledModules
from policies.language.compiler.graph import nodes_of
from policies.language.diagnostics import Diagnostic, ErrorCode
from policies.language.syntax import ast
from policies.language.syntax.ast import Call, String, Term

_REGEX_POSITION: Final[Mapping[str, int]] = {
    "regex.match": 0,
    "regex.find_n": 0,
    "regex.find_all_string_submatch_n": 0,
    "regex.split": 0,
    "regex.replace": 1,
    "re_match": 0,
}


def check_constants(compiled: CompiledModules) -> list[Diagnostic]:
    """One error for each constant that can't be what its place asks for."""
    found: list[Diagnostic] = []
    for group in compiled.groups.values():
        for rule in group.rules:
            for node in nodes_of(rule):
                if isinstance(node, Call):
                    found.extend(_call(node))
    return list(dict.fromkeys(found))


def _call(call: Call) -> Iterator[Diagnostic]:
    name, arguments = call.name, call.arguments
    position = _REGEX_POSITION.get(name)
    if position is not None and position < len(arguments):
        yield from _refused(arguments[position], "regular expression", compile_pattern)
    elif name == "glob.match" and len(arguments) == 3:
        yield from _glob(arguments[0], arguments[1])
    elif name in ("net.cidr_contains", "net.cidr_intersects", "net.cidr_expand") and arguments:
        yield from _refused(arguments[0], "CIDR", _cidr)
        if name != "net.cidr_expand" and len(arguments) == 2:
            yield from _refused(arguments[1], "address or CIDR", _address)
    elif name == "net.cidr_merge" and arguments and isinstance(arguments[0], ast.Array | ast.Set):
        for item in arguments[0].items:
            yield from _refused(item, "address or CIDR", _address)


def _refused(term: Term, what: str, parse: Callable[[str], object]) -> Iterator[Diagnostic]:
    if not isinstance(term, String):
        return
    try:
        parse(term.value)
    except BuiltinError as error:
        hint = "without this error the call would be undefined, and `not` of it true"
        yield Diagnostic(term.span, ErrorCode.CONSTANT, f"bad {what}: {error}", hint=hint)


def _glob(pattern: Term, delimiters: Term) -> Iterator[Diagnostic]:
    text = ["."]
    if isinstance(delimiters, ast.Null):
        text = []
    elif isinstance(delimiters, ast.Array) and all(isinstance(item, String) for item in delimiters.items):
        text = [item.value for item in delimiters.items if isinstance(item, String)]
        for item in delimiters.items:
            if isinstance(item, String) and len(item.value) != 1:
                message = f"bad glob delimiter {item.value!r}: it must be one character"
                hint = 'paths have ["/"], names have ["."]'
                yield Diagnostic(item.span, ErrorCode.CONSTANT, message, hint=hint)
                return
    else:
        return  # unknown until evaluation
    marks = delimiter_text(tuple(text) if isinstance(delimiters, ast.Array) else None)
    yield from _refused(pattern, "glob", lambda value: read_glob(value, marks))


def _cidr(text: str) -> None:
    if parse_block(text) is None:
        raise BuiltinError(f"{text!r} is no block such as 10.0.0.0/8 or fd00::/8")


def _address(text: str) -> None:
    if parse_block(text) is None and parse_address(text) is None:
        raise BuiltinError(f"{text!r} is no address such as 10.1.2.3 and no block such as 10.0.0.0/8")
