"""Verdicts and the like as JSON and back. Lines stand as their place in a signature's list.

Reading makes only what a compilation could have made: outcomes are of their kinds, requests are built by
their own checks. Whatever has another shape raises InvalidInput, and counts as not kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TypeVar

from control_plane.core.errors import InvalidInput
from policies.formula import Attribute, Origin, Request, Value
from policies.kept.signatures import Signature
from policies.layers import Blocked
from policies.pipeline import Written
from policies.proof.verdict import Outcome, Verdict
from policies.reach import Breach
from policies.targets.shortfall import Shortfall, Step

Json = object
Value_ = TypeVar("Value_")


class UnknownLineError(InvalidInput):
    """An origin is none of the signature's lines, so that nothing can be kept that names it."""


class Lines:
    """The lines of a signature, by place and back."""

    def __init__(self, signature: Signature) -> None:
        self._origins = signature.origins
        self._place = {origin: place for place, origin in enumerate(signature.origins)}

    def written(self, origins: Iterable[Origin]) -> list[int]:
        """Their places. Raises UnknownLineError."""
        try:
            return [self._place[one] for one in origins]
        except KeyError as error:
            raise UnknownLineError("writing a record: a line that isn't the question's") from error

    def read(self, places: Json) -> tuple[Origin, ...]:
        """The lines at places. Raises InvalidInput."""
        listed = _list(places)
        size = len(self._origins)
        if not all(type(place) is int and 0 <= place < size for place in listed):
            raise InvalidInput("reading a record: a line that isn't there")
        return tuple(self._origins[place] for place in listed if isinstance(place, int))


def read_all(document: Json, read: Callable[[Json], Value_]) -> tuple[Value_, ...]:
    """Every item of a list. Raises InvalidInput."""
    return tuple(map(read, _list(document)))


def verdict_json(one: Verdict, lines: Lines) -> Json:
    """A verdict without its workload."""
    request = _request_json(one.witness)
    return [one.layer, str(one.outcome), request, lines.written(one.origins), one.reason, [*one.assumptions]]


def read_verdict(document: Json, workload: str, lines: Lines) -> Verdict:
    """Raises InvalidInput."""
    match document:
        case [str(layer), str(outcome), request, origins, str(reason), list(assumptions)]:
            return Verdict(
                workload, layer, _outcome(outcome), _request(request), lines.read(origins), reason,
                tuple(map(_text, assumptions)),
            )  # fmt: skip
    raise InvalidInput("reading a verdict: another shape")


def shortfall_json(one: Shortfall, lines: Lines) -> Json:
    """A shortfall without target and workload."""
    return [str(one.step), one.reason, lines.written(one.origins)]


def read_shortfall(document: Json, target: str, workload: str, lines: Lines) -> Shortfall:
    """Raises InvalidInput."""
    match document:
        case [("narrowed" | "custom" | "refused") as step, str(reason), origins]:
            return Shortfall(target, workload, Step(step), reason, lines.read(origins))
    raise InvalidInput("reading a shortfall: another shape")


def breach_json(one: Breach, lines: Lines) -> Json:
    """A breach without its workload."""
    return [
        lines.written(one.invariant),
        _request_json(one.request),
        lines.written(one.admitted_by),
        one.reason,
    ]


def read_breach(document: Json, workload: str, lines: Lines) -> Breach:
    """Raises InvalidInput."""
    match document:
        case [invariant, request, admitted_by, str(reason)]:
            return Breach(workload, lines.read(invariant), _request(request), lines.read(admitted_by), reason)
    raise InvalidInput("reading a breach: another shape")


def blocked_json(one: Blocked, lines: Lines) -> Json:
    """A blocked pair without its workload."""
    allowed, denied = lines.written(one.allowed_by), lines.written(one.denied_by)
    return [one.caller, _request_json(one.request), allowed, denied, one.entirely, one.reason]


def read_blocked(document: Json, workload: str, lines: Lines) -> Blocked:
    """Raises InvalidInput."""
    match document:
        case [str(caller), request, allowed, denied, bool(entirely), str(reason)]:
            return Blocked(
                caller, workload, _request(request), lines.read(allowed), lines.read(denied), entirely, reason
            )
    raise InvalidInput("reading a blocked pair: another shape")


def written_json(one: Written) -> Json:
    """What a file's object can select."""
    labels = None if one.labels is None else dict(one.labels)
    return [one.name, one.namespace, labels, one.digest, [*one.only]]


def read_written(document: Json) -> Written:
    """Raises InvalidInput."""
    match document:
        case [str(name), str(namespace), (None | dict()) as labels, str(digest), list(only)]:
            if labels is None or all(isinstance(value, str) for value in labels.values()):
                return Written(name, namespace, labels, digest, tuple(map(_text, only)))
    raise InvalidInput("reading an object's record: another shape")


def _request_json(request: Request | None) -> Json:
    if request is None:
        return None
    return [[[attribute.name, *attribute.path], value] for attribute, value in request.values.items()]


def _request(document: Json) -> Request | None:
    if document is None:
        return None
    values: dict[Attribute, Value] = {}
    for entry in _list(document):
        match entry:
            case [list(name), (str() | int()) as value]:
                values[_attribute(tuple(map(_text, name)))] = value
            case [list(name), list(value)]:
                values[_attribute(tuple(map(_text, name)))] = tuple(map(_text, value))
            case _:
                raise InvalidInput("reading a request: another shape")
    return Request.of(values)


@functools.lru_cache(maxsize=1024)
def _attribute(name: tuple[str, ...]) -> Attribute:
    if not name:
        raise InvalidInput("reading a request: an attribute without a name")
    return Attribute.of(*name)


def _outcome(text: str) -> Outcome:
    try:
        return Outcome(text)
    except ValueError as error:
        raise InvalidInput(f"reading a verdict: {text[:40]!r} is no outcome") from error


def _text(document: Json) -> str:
    if not isinstance(document, str):
        raise InvalidInput("reading a record: a text is expected")
    return document


def _list(document: Json) -> list[Json]:
    if not isinstance(document, list):
        raise InvalidInput("reading a record: a list is expected")
    return document
