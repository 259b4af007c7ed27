"""One concrete request: the attributes that have a value. What isn't there is absent."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from policies.formula.attributes import Attribute, Value

_EMPTY: Mapping[Attribute, Value] = MappingProxyType({})
_place = operator.attrgetter("name", "path")  # the order of attributes, without a call for each comparison


@dataclass(frozen=True, slots=True)
class Request:
    """A request or connection as the input document shows it."""

    values: Mapping[Attribute, Value] = field(default_factory=lambda: _EMPTY)

    @staticmethod
    def of(values: Mapping[Attribute, Value]) -> "Request":
        """A request with these attributes present."""
        return Request(MappingProxyType({one: values[one] for one in sorted(values, key=_place)}))

    def get(self, attribute: Attribute) -> Value | None:
        """The value, or None where the attribute is absent."""
        return self.values.get(attribute)

    def document(self) -> dict[str, object]:
        """The input document in the schema's nesting, for printing and for an evaluator."""
        document: dict[str, object] = {}
        for attribute, value in self.values.items():
            place = document
            steps = [*attribute.name.split("."), *attribute.path]
            for step in steps[:-1]:
                inner = place.setdefault(step, {})
                if not isinstance(inner, dict):
                    break
                place = inner
            else:
                place[steps[-1]] = list(value) if isinstance(value, tuple) else value
        return document

    def __str__(self) -> str:
        return (
            ", ".join(
                f"{str(attribute).removeprefix('input.')} = {_shown(value)}"
                for attribute, value in self.values.items()
            )
            or "any request"
        )


def _shown(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return (
        str(list(value))
        if isinstance(value, tuple)
        else repr(value)
        if isinstance(value, str)
        else str(value)
    )
