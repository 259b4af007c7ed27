"""An explanation as plain JSON values. The shape is stable: fields are only added.

    {"allowed": true | false | null, "reasons": [text], "origins": [place], "documents": [document],
     "nearest": [{"rule": rule, "missed": [condition]}]}
    document:  {"name", "defined", "value", "rules": [rule], "default": rule, "default_applied", "error"}
    rule:      {"name", "location", "title", "outcome", "value", "conditions": [condition]}
    condition: {"text", "location", "outcome", "reads": [read], "inner": [condition], "note", "tried"}
    read:      {"text", "defined", "value", "missing", "document": document}
    place:     {"file", "row", "rule"}; location: {"file", "row", "col"}

What is empty is left out, except lists of documents and rules. A long value is cut to its beginning, in
`value_begins`.
"""

from __future__ import annotations

from typing import Any, Final

from policies.explain.trace import Condition, DocumentTrace, Explanation, Read, RuleTrace
from policies.language.concrete.world import Result, Undefined
from policies.language.serial import render
from policies.language.source import Span
from policies.language.values import to_python

MAX_VALUE: Final = 4_096
"""Characters of a value in Rego's notation beyond which only the beginning is given."""


def explanation_document(explanation: Explanation) -> dict[str, Any]:
    """The whole explanation."""
    return {
        "allowed": explanation.allowed,
        "reasons": list(explanation.reasons),
        "origins": [{"file": one.file, "row": one.line, "rule": one.rule} for one in explanation.origins],
        "documents": [_document(one) for one in explanation.documents],
        "nearest": [
            {"rule": _rule(one.rule), "missed": [_condition(missed) for missed in one.missed]}
            for one in explanation.nearest
        ],
    }


def _document(document: DocumentTrace) -> dict[str, Any]:
    found: dict[str, Any] = {"name": document.name, **_value(document.value)}
    found["rules"] = [_rule(one) for one in document.rules]
    if document.default is not None:
        found |= {"default": _rule(document.default), "default_applied": document.default_applied}
    return found | ({"error": document.error} if document.error else {})


def _rule(rule: RuleTrace) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": rule.name, "location": _location(rule.span), "outcome": str(rule.outcome),
        "conditions": [_condition(one) for one in rule.conditions],
    }  # fmt: skip
    if rule.title:
        found["title"] = rule.title
    return found | ({**_value(rule.value)} if rule.held else {})


def _condition(condition: Condition) -> dict[str, Any]:
    found: dict[str, Any] = {
        "text": condition.text, "location": _location(condition.span), "outcome": str(condition.outcome),
        "reads": [_read(one) for one in condition.reads],
    }  # fmt: skip
    if condition.inner:
        found["inner"] = [_condition(one) for one in condition.inner]
    if condition.note:
        found["note"] = condition.note
    return found | ({"tried": condition.tried} if condition.tried > 1 else {})


def _read(read: Read) -> dict[str, Any]:
    found: dict[str, Any] = {"text": read.text, **_value(read.value)}
    if read.missing:
        found["missing"] = read.missing
    return found | ({"document": _document(read.document)} if read.document is not None else {})


def _value(value: Result) -> dict[str, Any]:
    if isinstance(value, Undefined):
        return {"defined": False}
    text = render(value)
    if len(text) > MAX_VALUE:
        return {"defined": True, "value_begins": text[:MAX_VALUE]}
    return {"defined": True, "value": to_python(value)}


def _location(span: Span) -> dict[str, Any]:
    row, column = span.source.position(span.start)
    return {"file": span.source.file, "row": row, "col": column}
