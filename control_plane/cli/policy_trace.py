"""How an explanation looks in a terminal: the answer first, then the rules, then what would have allowed it.

    ✓ holds   ✗ is false   ? is undefined   · wasn't reached   ! failed

What holds is told in one line; what doesn't is told with the values it read, and with the rules behind them.
Colour only underlines what signs and words say already.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from control_plane.runtime.output import PIPED_WIDTH, escaped

if TYPE_CHECKING:
    from rich.text import Text

    from policies.explain import Condition, DocumentTrace, Explanation, Read, RuleTrace

MAX_RULES: Final = 12
MAX_VALUE: Final = 100
MAX_DEPTH: Final = 6
_INDENT: Final = "   "

_SIGNS: Final = {"holds": "✓", "false": "✗", "undefined": "?", "not reached": "·", "error": "!"}
_STYLES: Final = {
    "holds": "green", "false": "red", "undefined": "yellow", "not reached": "dim", "error": "bold red",
}  # fmt: skip

Line = tuple[int, "Text", str]
"""How far a line is indented, what it says, and what follows on it, or below where that is too long."""


def print_explanation(explanation: Explanation, *, every_rule: bool) -> None:
    """Prints an explanation to standard output."""
    from rich.console import Console  # heavy, and JSON never needs it
    from rich.padding import Padding

    width = None if sys.stdout.isatty() else PIPED_WIDTH
    console = Console(file=sys.stdout, width=width, highlight=False, emoji=False, markup=False)
    for indent, text, aside in _lines(explanation, every_rule):
        fits = indent * len(_INDENT) + text.cell_len + len(_INDENT) + len(aside) <= console.width
        if aside and fits:
            text += _text((f"{_INDENT}{aside}", "dim"))
        console.print(Padding(text, (0, 0, 0, indent * len(_INDENT)), expand=False) if indent else text)
        if aside and not fits:
            below = (0, 0, 0, (indent + 1) * len(_INDENT))
            console.print(Padding(_text((aside, "dim")), below, expand=False))


def _lines(explanation: Explanation, every_rule: bool) -> Iterator[Line]:
    for reason in explanation.reasons:
        yield 0, _answer(explanation, reason), ""
    for document in explanation.documents:
        yield 0, _text(""), ""
        yield 0, _text((document.name, "bold"), " = ", _shown_value(document.value)), ""
        if document.error and explanation.allowed is not None:
            yield 1, _text((f"! {document.error}", "bold red")), ""
        yield from _rules(document, explanation, every_rule)
    for nearest in explanation.nearest:
        yield 0, _text(""), ""
        where = f"{nearest.rule.origin}  {nearest.rule.title}".rstrip()
        yield 0, _text("nearest  ", (where, "bold"), "  would have allowed it, had these held:"), ""
        for condition in nearest.missed:
            yield from _condition(condition, 1, MAX_DEPTH)


def _answer(explanation: Explanation, reason: str) -> Text:
    word, colon, rest = reason.partition(" ")
    style = "bold" if explanation.allowed is None else "bold green" if explanation.allowed else "bold red"
    return _text((word, style), colon, rest)


def _rules(document: DocumentTrace, explanation: Explanation, every_rule: bool) -> Iterator[Line]:
    near = {id(one.rule) for one in explanation.nearest}
    shown = list(document.rules)
    if not every_rule and len(shown) > MAX_RULES:
        ranked = sorted(shown, key=lambda one: (not one.held, id(one) not in near, len(one.missed)))
        kept = {id(one) for one in ranked[:MAX_RULES]}
        shown = [one for one in shown if id(one) in kept]
    for rule in shown:
        yield from _rule(rule, near=id(rule) in near)
    if len(shown) < len(document.rules):
        more = len(document.rules) - len(shown)
        yield 1, _text((f"… {more} more rules; --all shows them", "dim")), ""
    if document.default is not None:
        says = "applies, since no rule holds" if document.default_applied else "isn't asked: a rule decides"
        place = f"{document.default.span.source.file}:{document.default.span.row}"
        yield (
            1,
            _text(("default", "" if document.default_applied else "dim"), (f"  {place}  {says}", "dim")),
            "",
        )


def _rule(rule: RuleTrace, *, near: bool) -> Iterator[Line]:
    title = rule.title or _cut(" ".join(rule.span.text.partition(" if")[0].split()))
    found = _sign(str(rule.outcome)) + _text(
        (f"{rule.span.source.file}:{rule.span.row}", "bold"),
        f"  {'else: ' if rule.is_else and rule.title else ''}{title}",
    )
    if rule.held and str(_shown_value(rule.value)) != "true":
        found += _text(" → ", _shown_value(rule.value))
    if near:
        found += _text(("  ← nearest", "cyan"))
    yield 1, found, ""
    for condition in rule.conditions:
        yield from _condition(condition, 2, MAX_DEPTH)


def _condition(condition: Condition, indent: int, depth: int) -> Iterator[Line]:
    found = _sign(str(condition.outcome)) + _text((f"{condition.span.row} ", "dim"), _cut(condition.text))
    if not condition.held:
        found += _text((f"  {condition.outcome}", _STYLES[str(condition.outcome)]))
    if condition.tried > 1 and not condition.held:
        found += _text((f", for all {condition.tried} that came so far, such as", "dim"))
    values = _values(condition)
    on_the_line = condition.held or len(values) == 1
    yield indent, found, "; ".join(values) if on_the_line else ""
    if condition.note:
        yield indent + 1, _text((condition.note, "dim")), ""
    for said in [] if on_the_line else values:
        yield indent + 1, _text((said, "dim")), ""
    if depth <= 0:
        return
    for inner in condition.inner:
        yield from _condition(inner, indent + 1, depth - 1)
    for read in condition.reads if not condition.held else ():
        yield from _behind(read, indent + 1, depth - 1)


def _behind(read: Read, indent: int, depth: int) -> Iterator[Line]:
    """The rules that a value comes from, nearest first, where the value is what is wrong."""
    if read.document is None or read.document.decides:
        return
    for rule in sorted(read.document.rules, key=lambda one: len(one.missed))[:MAX_RULES]:
        place = f"{rule.span.source.file}:{rule.span.row}"
        yield indent, _sign(str(rule.outcome)) + _text(f"{place}  {rule.title or rule.name}"), ""
        for condition in rule.conditions:
            yield from _condition(condition, indent + 1, depth)


def _values(condition: Condition) -> list[str]:
    """What was read. What the outcome or the rules below say already is left out."""
    said: dict[str, str] = {}
    for read in condition.reads:
        value = _shown_value(read.value)
        repeats = condition.held and value in said.values()  # both sides of an equality that holds
        if not repeats and (read.text != condition.text or (read.missing and read.document is None)):
            said[f"{read.text} = {value}" + (f"  ({read.missing})" if read.missing else "")] = value
    return list(said)


def _shown_value(value: object) -> str:
    from policies.language.concrete.world import Undefined
    from policies.language.serial import render

    return "undefined" if isinstance(value, Undefined) else _cut(render(value))  # type: ignore[arg-type]


def _cut(text: str) -> str:
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}…"


def _sign(outcome: str) -> Text:
    return _text((_SIGNS[outcome], _STYLES[outcome]), " ")


def _text(*parts: str | tuple[str, str]) -> Text:
    from rich.text import Text

    made = Text()
    for part in parts:
        words, style = (part, "") if isinstance(part, str) else part
        made.append(escaped(words), style)
    return made
