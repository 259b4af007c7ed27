"""`json.match_schema` and `json.verify_schema`: JSON Schema drafts 4, 6 and 7, without fetching anything.

Error texts are those of the gojsonschema library for the common keywords. A remote `$ref` ends the
evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import jsonschema
from jsonschema import validators
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from policies.language.builtins.documents import json_unmarshal
from policies.language.builtins.errors import BuiltinError, HaltError
from policies.language.builtins.regular import compile_pattern
from policies.language.serial import json_text
from policies.language.values import Boolean, Value, boolean, from_python, to_python

_TYPES = ["array", "boolean", "integer", "number", "null", "object", "string"]


def _document(operand: Value) -> Any:
    if isinstance(operand, str):
        try:
            return _whole(to_python(json_unmarshal(operand)))
        except HaltError:
            raise
        except BuiltinError as error:
            raise BuiltinError("invalid JSON string") from error
    return _whole(to_python(operand))


def _whole(document: Any) -> Any:
    """The document with integral decimals as integers: 1.0 is an integer in JSON Schema."""
    if isinstance(document, Decimal):
        return int(document) if document == document.to_integral_value() else document
    if isinstance(document, list):
        return [_whole(item) for item in document]
    if isinstance(document, dict):
        return {key: _whole(item) for key, item in document.items()}
    return document


def _validator(schema: Any) -> Any:
    if not isinstance(schema, dict | bool):
        raise BuiltinError(f"jsonschema: Invalid type. Expected: valid schema, given: {_kind(schema)}")
    if isinstance(schema, dict) and not isinstance(schema.get("$schema", ""), str):
        raise BuiltinError("jsonschema: Invalid type. Expected: string, given: $schema")
    kind: Any = validators.validator_for(schema, default=jsonschema.Draft7Validator)
    _check_types(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise BuiltinError(f"jsonschema: {error.message}") from error
    except RecursionError as error:
        raise HaltError("a schema is nested too deep to be checked") from error
    linear: Any = validators.extend(kind, _LINEAR)  # type: ignore[no-untyped-call]
    return linear(schema, registry=Registry())


def _search(pattern: str, text: str) -> bool:
    """Unanchored, in time linear in the text: the library's own expressions may take exponential time."""
    return compile_pattern(pattern).search(text) is not None


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _search(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, wanted: Any, instance: Any, _schema: Any
) -> Iterator[ValidationError]:
    for name, value in instance.items() if isinstance(instance, dict) else ():
        for pattern, schema in wanted.items():
            if _search(pattern, name):
                yield from validator.descend(value, schema, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, rest: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    extra = [name for name in instance if name not in known and not any(_search(p, name) for p in patterns)]
    if isinstance(rest, dict):
        for name in extra:
            yield from validator.descend(instance[name], rest, path=name)
    elif extra and not rest:
        yield ValidationError(f"additional properties: {', '.join(extra)}")


_LINEAR = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
}


def _check_types(schema: Any) -> None:
    """The library's own words for a bad `type`, wherever it stands."""
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            kind = node.get("type")
            if isinstance(kind, str) and kind not in _TYPES:
                raise BuiltinError(
                    f"jsonschema: has a primitive type that is NOT VALID -- given: /{kind}/ "
                    f"Expected valid values are:[{' '.join(_TYPES)}]"
                )
            if kind is not None and not isinstance(kind, str | list | dict):
                raise BuiltinError("jsonschema: Invalid type. Expected: type, given: string/Array Of Strings")
            reference = node.get("$ref")
            if isinstance(reference, str):
                _check_reference(schema, reference)
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)


def _check_reference(schema: Any, reference: str) -> None:
    """A reference must lead somewhere inside the schema: nothing is fetched."""
    if not reference.startswith("#"):
        raise HaltError(
            f"a schema refers to {reference[:100]!r}, which is not part of it; nothing is fetched"
        )
    node = schema
    for step in reference[1:].split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and step.isdecimal() and step.isascii() and int(step) < len(node):
            node = node[int(step)]
        elif isinstance(node, dict) and step in node:
            node = node[step]
        else:
            raise BuiltinError(f"jsonschema: Object has no key '{step}'")


def verify_schema(schema: Value) -> tuple[Value, ...]:
    """`[true, null]` for a valid schema, else false and what is wrong."""
    try:
        _validator(_document(schema))
    except HaltError:
        raise
    except BuiltinError as error:
        message = str(error)
        return boolean(False), message if message.startswith("jsonschema:") else f"jsonschema: {message}"
    return boolean(True), None


def match_schema(document: Value, schema: Value) -> tuple[Value, ...]:
    """Whether the document fits, and where it does not."""
    validator = _validator(_document(schema))
    try:
        errors = sorted(
            validator.iter_errors(_document(document)), key=lambda error: list(map(str, error.absolute_path))
        )
    except Unresolvable as error:
        raise HaltError(
            f"json.match_schema: the schema refers to {error.ref!r}, which is not part of it"
        ) from error
    except RecursionError as error:
        raise HaltError("json.match_schema: the schema refers to itself without end") from error
    found = [from_python(entry) for error in errors for entry in _described(error)]
    valid: Boolean = boolean(not errors)
    return valid, tuple(found)


_WORDING = {
    "minLength": ("string_gte", "String length must be greater than or equal to {0}"),
    "maxLength": ("string_lte", "String length must be less than or equal to {0}"),
    "pattern": ("pattern", "Does not match pattern '{0}'"),
    "format": ("format", "Does not match format '{0}'"),
    "minimum": ("number_gte", "Must be greater than or equal to {0}"),
    "maximum": ("number_lte", "Must be less than or equal to {0}"),
    "exclusiveMinimum": ("number_gt", "Must be greater than {0}"),
    "exclusiveMaximum": ("number_lt", "Must be less than {0}"),
    "multipleOf": ("multiple_of", "Must be a multiple of {0}"),
    "minItems": ("array_min_items", "Array must have at least {0} items"),
    "maxItems": ("array_max_items", "Array must have at most {0} items"),
    "minProperties": ("array_min_properties", "Must have at least {0} properties"),
    "maxProperties": ("array_max_properties", "Must have at most {0} properties"),
    "oneOf": ("number_one_of", "Must validate one and only one schema (oneOf)"),
    "anyOf": ("number_any_of", "Must validate at least one schema (anyOf)"),
    "not": ("number_not", "Must not validate the schema (not)"),
}


def _described(error: ValidationError) -> list[dict[str, str]]:
    field = ".".join(map(str, error.absolute_path)) or "(Root)"
    keyword = str(error.validator)
    wanted: Any = error.validator_value
    if keyword in _WORDING:
        kind, sentence = _WORDING[keyword]
        return [_entry(field, kind, sentence.format(wanted))]
    present = error.instance if isinstance(error.instance, dict) else {}
    if keyword == "required":
        lacking = [name for name in wanted if name not in present and f"'{name}'" in error.message]
        return [_entry(field, "required", f"{lacking[0] if lacking else ''} is required")]
    if keyword == "additionalProperties":
        known = error.schema.get("properties", {}) if isinstance(error.schema, dict) else {}
        return [
            _entry(field, "additional_property_not_allowed", f"Additional property {name} is not allowed")
            for name in present
            if name not in known
        ]
    if keyword == "type":
        expected = wanted if isinstance(wanted, str) else ",".join(wanted)
        sentence = f"Invalid type. Expected: {expected}, given: {_kind(error.instance)}"
        return [_entry(field, "invalid_type", sentence)]
    if keyword == "enum":
        options = ", ".join(json_text(from_python(option)) for option in wanted)
        return [_entry(field, "enum", f"{field} must be one of the following: {options}")]
    return [_entry(field, keyword, error.message)]


def _entry(field: str, kind: str, description: str) -> dict[str, str]:
    return {"error": f"{field}: {description}", "type": kind, "field": field, "desc": description}


def _kind(instance: Any) -> str:
    if instance is None:
        return "null"
    if isinstance(instance, bool):
        return "boolean"
    if isinstance(instance, str):
        return "string"
    if isinstance(instance, list):
        return "array"
    if isinstance(instance, dict):
        return "object"
    return "integer" if instance == int(instance) else "number"


FUNCTIONS = {"json.match_schema": match_schema, "json.verify_schema": verify_schema}
