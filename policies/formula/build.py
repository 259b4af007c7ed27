"""A few words to build formulas with; each returns a Formula, already simplified.

This is what the symbolic evaluator and the tests call. Constants are checked here: a bad CIDR, glob or
regular expression raises InvalidInput, where OPA would silently be undefined.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Final

from policies.formula.atoms import (
    Between,
    Cidr,
    Contains,
    Equal,
    Glob,
    In,
    Member,
    Opaque,
    Prefix,
    Present,
    Regex,
    Suffix,
    canonical_network,
    check_expression,
)
from policies.formula.attributes import Attribute
from policies.formula.expression import FALSE, Formula, any_of, literal
from policies.formula.glob import alternatives
from policies.proof.regular import UndecidableLanguage, parse_expression

_FLAGS: Final = re.compile(r"\(\?[a-zA-Z^-]+\)")  # flags set for the rest, later alternatives included
_PLAIN: Final = re.compile(r"(?:[^\\.+*?()|\[\]{}^$]|\\[^a-zA-Z0-9])*")


def present(attribute: Attribute) -> Formula:
    """The attribute has a value."""
    return literal(Present(attribute))


def equals(attribute: Attribute, value: str | int | bool) -> Formula:
    """The value is `value`."""
    return literal(Equal(attribute, value))


def differs(attribute: Attribute, value: str | int | bool) -> Formula:
    """Rego's `!=`: the attribute is present AND its value is another (absent is undefined, so false)."""
    return present(attribute) & literal(Equal(attribute, value), negated=True)


def one_of(attribute: Attribute, values: Iterable[str | int | bool]) -> Formula:
    """The value is one of `values`; of none it is FALSE."""
    distinct = {(type(value).__name__, value): value for value in values}
    return literal(
        In(attribute, tuple(distinct[key] for key in sorted(distinct, key=lambda key: (key[0], key[1]))))
    )


def starts_with(attribute: Attribute, text: str) -> Formula:
    """The text starts with `text`."""
    return literal(Prefix(attribute, text))


def ends_with(attribute: Attribute, text: str) -> Formula:
    """The text ends with `text`."""
    return literal(Suffix(attribute, text))


def contains(attribute: Attribute, text: str) -> Formula:
    """`text` is somewhere in the text."""
    return literal(Contains(attribute, text))


def in_network(attribute: Attribute, network: str) -> Formula:
    """The address lies in `network`."""
    return literal(Cidr(attribute, canonical_network(network)))


def between(attribute: Attribute, low: int, high: int) -> Formula:
    """low <= value <= high."""
    return literal(Between(attribute, low, high))


def has_member(attribute: Attribute, values: Iterable[str]) -> Formula:
    """The claim is a list that holds one of `values`."""
    return literal(Member(attribute, tuple(sorted(set(values)))))


def matches_glob(attribute: Attribute, pattern: str, delimiters: tuple[str, ...] = (".",)) -> Formula:
    """Glob match of the whole text, as simpler atoms where the pattern allows; `()` is no delimiters."""
    found: list[Formula] = []
    for pieces in alternatives(pattern, delimiters):
        kinds = [
            ("any" if kind == "star" and not delimiters else "any" if kind == "stars" else kind)
            for kind, _ in pieces
        ]
        texts = [text for _, text in pieces]
        if not pieces or kinds == ["text"]:
            found.append(equals(attribute, "".join(texts)))
        elif kinds == ["any"]:
            found.append(starts_with(attribute, ""))
        elif kinds == ["text", "any"]:
            found.append(starts_with(attribute, texts[0]))
        elif kinds == ["any", "text"]:
            found.append(ends_with(attribute, texts[1]))
        elif kinds == ["any", "text", "any"]:
            found.append(contains(attribute, texts[1]))
        else:
            return literal(Glob(attribute, pattern, delimiters))
    return any_of(*found)


def matches(attribute: Attribute, expression: str, span: str = "regex.match") -> Formula:
    """Rego's `regex.match`: unanchored RE2 search; simpler atoms where it is plain text with anchors.

    An expression that the proof can't model becomes an opaque condition at `span`.
    """
    check_expression(expression)
    head, tail = expression.startswith("^"), expression.endswith("$") and not expression.endswith("\\$")
    body = expression[head : len(expression) - tail]
    group = re.fullmatch(r"\((?:\?:)?([^()]*)\)", body)
    choices = (group[1] if group else body).split("|") if group or not (head or tail) else [body]
    if all(_PLAIN.fullmatch(choice) for choice in choices):
        build = equals if head and tail else starts_with if head else ends_with if tail else contains
        return any_of(*(build(attribute, re.sub(r"\\(.)", r"\1", choice)) for choice in choices))
    branches = _branches(expression)
    if len(branches) > 1 and not _FLAGS.search(expression):
        return any_of(*(matches(attribute, branch, span) for branch in branches))
    before, after = "" if head else "(?s:.*)", "" if tail else "(?s:.*)"
    return _whole(attribute, f"{before}(?:{body}){after}", span)


def _whole(attribute: Attribute, expression: str, span: str) -> Formula:
    """A full match; opaque where the expression is outside what is modelled."""
    try:
        parse_expression(expression)
    except UndecidableLanguage as error:
        digest = hashlib.sha256(f"{attribute}\0{expression}".encode()).hexdigest()
        return opaque(digest, span, error.message, [attribute])
    return literal(Regex(attribute, expression))


def _branches(expression: str) -> list[str]:
    """The alternatives outside all groups and classes: a search for `a|b` is a search for `a` or for `b`."""
    found, start, depth, bracket, index = [], 0, 0, False, 0
    while index < len(expression):
        character = expression[index]
        if character == "\\":
            index += 1
        elif bracket:
            bracket = character != "]"
        elif character == "[":
            bracket = True
            index += expression[index + 1 : index + 2] == "]"
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == "|" and not depth:
            found.append(expression[start:index])
            start = index + 1
        index += 1
    return [*found, expression[start:]]


def opaque(digest: str, span: str, reason: str, reads: Iterable[Attribute] = ()) -> Formula:
    """A condition that only the evaluator can decide."""
    attributes = tuple(sorted(set(reads)))
    return literal(
        Opaque(attributes[0] if attributes else Attribute("request.method"), digest, span, reason, attributes)
    )


__all__ = [
    "FALSE", "between", "contains", "differs", "ends_with", "equals", "has_member", "in_network", "matches",
    "matches_glob", "one_of", "opaque", "present", "starts_with",
]  # fmt: skip
