"""Texts that are made of unknown values: of the reason why a request is denied only its being there matters.

A function of texts has a result whatever they are: `why := sprintf("not %s", [input.source.spiffe_id])` holds
wherever the caller has an identity. What the text says, only the evaluator of the policy knows.
"""

import re
from typing import Final

from policies.formula import Domain
from policies.language.symbolic.values import Choices, Derived, Sequence, Symbolic, Unknown, is_known

_OF_ONE_TEXT: Final = frozenset({"lower", "upper", "trim_space"})
_LARGE: Final = re.compile(r"\*|[0-9]{4}")
"""A width that comes with the request, or that makes a long text of a short one."""


def is_text(value: Symbolic) -> bool:
    """Whether a value is a text for certain, where what it is made of is there."""
    if isinstance(value, Unknown):
        return value.attribute.domain in (Domain.TEXT, Domain.ADDRESS)
    if not isinstance(value, Derived):
        return isinstance(value, str)
    arguments = value.arguments
    match value.function:
        case "sprintf":
            template, parts = arguments
            return isinstance(template, str) and not _LARGE.search(template) and _listed(parts)
        case "internal.template_string":
            return _listed(arguments[0])
        case "concat":
            delimiter, parts = arguments
            return is_text(delimiter) and isinstance(parts, Sequence) and all(map(is_text, parts.items))
        case name:
            return name in _OF_ONE_TEXT and is_text(arguments[0])


def _listed(parts: Symbolic) -> bool:
    """Whether this is an array of values that can be printed."""
    return isinstance(parts, Sequence) and all(map(_printable, parts.items))


def _printable(part: Symbolic) -> bool:
    if isinstance(part, Choices):  # what a template string interpolates: a value, or none
        return (
            part.kind == "set"
            and len(part.members) <= 1
            and all(_printable(one) for _, _, one in part.members)
        )
    return is_known(part) or isinstance(part, Unknown) or is_text(part)
