"""Conditions that no request fulfils because of how its fields are written, and swapped arguments.

What a field looks like is said by our input schema: a path begins with `/` and is normalised, a SPIFFE ID
begins with `spiffe://`, and so on. All of these are legal Rego that is silently never true, so they are
warnings: under `not` one of them may be meant.

Not here: types (types), what two conditions say together (reach).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from policies.language.compiler.terms import walk_body
from policies.language.diagnostics import Diagnostic, ErrorCode, Severity
from policies.language.syntax import ast
from policies.language.syntax.ast import Call, Module, Ref, Rule, String, Term, Var

_METHODS: Final = frozenset(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"])
_SWAPPED: Final[Mapping[str, tuple[int, int, str]]] = {
    "startswith": (0, 1, 'startswith({field}, "{text}")'),
    "endswith": (0, 1, 'endswith({field}, "{text}")'),
    "regex.match": (1, 0, 'regex.match("{text}", {field})'),
    "glob.match": (2, 0, 'glob.match("{text}", ["/"], {field})'),
    "net.cidr_contains": (1, 0, 'net.cidr_contains("{text}", {field})'),
}
"""Where the constant stands when the arguments are swapped, where the field does, and the call as meant."""


class Form(NamedTuple):
    """Which texts a field never has, why, and what to write; `{}` is the text."""

    wrong: Callable[[str], bool]
    message: str
    hint: str


def _not_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return True
    return False


def _not_normal(text: str) -> bool:
    return "//" in text or any(part in (".", "..") for part in text.split("/"))


def _more_than_host(text: str) -> bool:
    return "/" in text or (":" in text and not text.endswith("]"))


_SPIFFE_ID: Final = (
    Form(
        lambda text: not text.startswith("spiffe://"),
        "a SPIFFE ID begins with spiffe://",
        'write "spiffe://{}"',
    ),
)
_DOMAIN: Final = (
    Form(
        lambda text: "/" in text,
        "a trust domain has neither scheme nor path",
        "leave out spiffe:// and the path",
    ),
)
_ADDRESS: Final = (
    Form(lambda text: "/" in text, "an address is never a block", 'write net.cidr_contains("{}", …)'),
    Form(_not_address, "this is no address", "write an address such as 10.1.2.3"),
)
_FORMS: Final[Mapping[tuple[str, ...], tuple[Form, ...]]] = {
    ("request", "method"): (
        Form(
            lambda text: text != text.upper() and text.upper() in _METHODS,
            "methods are upper case",
            'write "{upper}"',
        ),
    ),
    ("request", "path"): (
        Form(lambda text: "?" in text, "input.request.path has no query string", "remove the part behind ?"),
        Form(lambda text: not text.startswith("/"), "a path begins with /", 'write "/{}"'),
        Form(_not_normal, "paths are normalised, without //, . and ..", "write the path without them"),
    ),
    ("request", "host"): (
        Form(lambda text: text != text.lower(), "input.request.host is lower case", "write it in lower case"),
        Form(_more_than_host, "a host has no scheme, port or path", "write its name alone"),
    ),
    ("source", "spiffe_id"): _SPIFFE_ID,
    ("destination", "spiffe_id"): _SPIFFE_ID,
    ("source", "trust_domain"): _DOMAIN,
    ("destination", "trust_domain"): _DOMAIN,
    ("source", "ip"): _ADDRESS,
    ("destination", "ip"): _ADDRESS,
}  # fmt: skip
_TEXTS: Final = frozenset(_FORMS) | {
    (side, name) for side in ("source", "destination") for name in ("namespace", "service_account")
}


def check_requests(modules: Iterable[Module]) -> list[Diagnostic]:
    """Warnings for conditions on our input that no request fulfils."""
    return [
        found
        for module in modules
        for rule in module.rules
        for branch in _branches(rule)
        for node in walk_body(branch.body)
        for found in _node(node)
    ]


def _branches(rule: Rule) -> Iterator[Rule]:
    branch: Rule | None = rule
    while branch is not None:
        yield branch
        branch = branch.otherwise


def _node(node: object) -> Iterator[Diagnostic]:
    if isinstance(node, Ref):
        yield from _reference(node)
    if not isinstance(node, Call):
        return
    if node.name in ("equal", "eq", "neq") and len(node.arguments) == 2:
        for literal, field in (node.arguments, node.arguments[::-1]):
            yield from _compared(literal, field, "always differs" if node.name == "neq" else "never holds")
    elif node.name == "internal.member_2":
        field, collection = node.arguments
        for item in collection.items if isinstance(collection, ast.Set | ast.Array) else ():
            yield from _compared(item, field)
        yield from _member(field, collection)
    elif node.name in _SWAPPED:
        yield from _swapped(node)
        yield from _delimiters(node)


def _compared(literal: Term, field: Term, effect: str = "never holds") -> Iterator[Diagnostic]:
    """A constant that is compared with a field of the input."""
    path = _path(field)
    if not isinstance(literal, String) or path is None:
        return
    text = literal.value
    if "*" in text and text != "*":
        hint = 'use glob.match(pattern, ["/"], value), startswith or endswith'
        yield _warning(literal, "* is a plain character here: == compares the whole text", hint)
    for form in _FORMS.get(path, ()):
        if form.wrong(text):
            hint = form.hint.format(text, upper=text.upper())
            yield _warning(literal, f"{form.message}: this {effect}", hint)
            break


def _member(item: Term, collection: Term) -> Iterator[Diagnostic]:
    """A text that is looked into as if it were a collection."""
    is_text = isinstance(collection, String) or _path(collection) in _TEXTS
    if is_text:
        hint = f"for a part of a text write contains({_shown(collection)}, {_shown(item)})"
        yield _warning(collection, "a text has no members: this never holds", hint)


def _swapped(call: Call) -> Iterator[Diagnostic]:
    constant_at, field_at, meant = _SWAPPED[call.name]
    if len(call.arguments) <= max(constant_at, field_at):
        return
    constant, field = call.arguments[constant_at], call.arguments[field_at]
    if isinstance(constant, String) and _path(field) is not None:
        hint = "write " + meant.format(text=constant.value, field=_shown(field))
        yield _warning(call, f"the arguments of {call.name} are swapped", hint)


def _delimiters(call: Call) -> Iterator[Diagnostic]:
    """`[]` means `["."]`, so that `*` in a path crosses every `/`."""
    if call.name != "glob.match" or len(call.arguments) < 3:
        return
    delimiters = call.arguments[1]
    if (
        isinstance(delimiters, ast.Array)
        and not delimiters.items
        and _path(call.arguments[2]) == ("request", "path")
    ):
        yield _warning(delimiters, 'no delimiters are ["."]: * crosses every / of the path', 'write ["/"]')


def _reference(reference: Ref) -> Iterator[Diagnostic]:
    path = _path(reference)
    if (
        path is not None
        and path[:2] == ("request", "headers")
        and len(path) > 2
        and path[2] != path[2].lower()
    ):
        hint = f'write input.request.headers["{path[2].lower()}"]'
        yield _warning(reference.operands[2], "header names are lower case in input.request.headers", hint)


def _path(term: Term) -> tuple[str, ...] | None:
    """The path of a reference below `input`, its constant steps; None for anything else."""
    if not isinstance(term, Ref) or not isinstance(term.head, Var) or term.head.name != "input":
        return None
    return tuple(one.value if isinstance(one, String) else "" for one in term.operands)


def _shown(term: Term) -> str:
    return term.span.text if len(term.span.text) <= 60 else "…"


def _warning(node: Term, message: str, hint: str) -> Diagnostic:
    return Diagnostic(node.span, ErrorCode.LINT, message, hint=hint, severity=Severity.WARNING)
