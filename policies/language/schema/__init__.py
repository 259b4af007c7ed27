"""JSON Schema as types of the checker, and the schema of our own policy input.

Only what narrows a type is read: type, properties, additionalProperties, items, enum, const, oneOf, anyOf
and local $ref. Anything else, remote references included, leaves the type open: a schema may make the
checker stricter, never wrong.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

from policies.language.types import (
    ANY,
    BOOLEAN,
    NULL,
    NUMBER,
    STRING,
    ArrayOf,
    ObjectOf,
    Type,
    union,
)

MAX_DEPTH: Final = 40
INPUT_SCHEMA_FILE: Final = "input.schema.json"

ENVOY_FIELDS: Final = frozenset({
    "attributes", "parsed_path", "parsed_query", "parsed_body", "truncated_body", "source_principal",
    "version",
})  # fmt: skip
"""First fields below `input` that only OPA's Envoy plugin has: `policies.envoy_input` rewrites them."""

_PRIMITIVES: Final[dict[str, Type]] = {
    "null": NULL,
    "boolean": BOOLEAN,
    "number": NUMBER,
    "integer": NUMBER,
    "string": STRING,
}


def input_schema() -> dict[str, Any]:
    """Our input schema as JSON, as `gatehouse policy schema` writes it."""
    text = (files(__name__) / INPUT_SCHEMA_FILE).read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


@cache
def input_type() -> Type:
    """The type of `input` in our policies."""
    return type_of_schema(input_schema())


def type_of_schema(schema: Any, root: Any = None, depth: int = 0) -> Type:
    """The type that a JSON Schema describes; `any` where it says more than types can."""
    root = schema if root is None else root
    if depth > MAX_DEPTH or not isinstance(schema, Mapping):
        return ANY
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return type_of_schema(_local(reference, root), root, depth + 1)
    for word in ("oneOf", "anyOf"):
        options = schema.get(word)
        if isinstance(options, list) and options:
            return union(*(type_of_schema(option, root, depth + 1) for option in options))
    kind = schema.get("type")
    if isinstance(kind, list):
        return union(*(type_of_schema({**schema, "type": one}, root, depth + 1) for one in kind))
    if kind in _PRIMITIVES:
        return _PRIMITIVES[kind]
    if kind == "array":
        items = schema.get("items", True)
        return ArrayOf((), type_of_schema(items, root, depth + 1))
    if kind == "object" or (kind is None and "properties" in schema):
        return _object(schema, root, depth)
    return ANY


def _object(schema: Mapping[str, Any], root: Any, depth: int) -> Type:
    properties = schema.get("properties")
    known = properties if isinstance(properties, Mapping) else {}
    static = tuple((name, type_of_schema(part, root, depth + 1)) for name, part in known.items())
    # As in `opa check --schema`, an object that names its properties has no others unless it says so.
    others = schema.get("additionalProperties", not known)
    if others is False or ("patternProperties" in schema and not known):
        return ObjectOf(static, None if others is False else (STRING, ANY))
    return ObjectOf(static, (STRING, type_of_schema(others, root, depth + 1)))


def _local(reference: str, root: Any) -> Any:
    """What a reference inside of the same document points to; True (anything) for all others."""
    if not reference.startswith("#"):
        return True
    found = root
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        found = found.get(name, True) if isinstance(found, Mapping) else True
    return found
