"""`json.match_schema` and `json.verify_schema`: JSON Schema drafts 4, 6 and 7, without fetching anything.

Error texts are those of the gojsonschema library for the common keywords. A remote `$ref` ends the
evaluation.
"""

from __future__ import annotations

from typing import Any

import jsonschema
from jsonschema import validators
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from policies.language.builtins.documents import json_unmarshal
from policies.language.builtins.errors import BuiltinError, HaltError
from policies.language.serial import json_text
from policies.language.values import Boolean, Value, boolean, from_python, to_python

_TYPES = ["array", "boolean", "integer", "number", "null", "object", "string"]


def _document(operand: Value) -> Any:
    if isinstance(operand, str):
        try:
            return to_python(json_unmarshal(operand))
        except HaltError:
            raise
        except BuiltinError as error:
            raise BuiltinError("invalid JSON string") from error
    return to_python(operand)


def _validator(schema: Any) -> Any:
    kind = validators.validator_for(schema, default=jsonschema.Draft7Validator)
    _check_types(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise BuiltinError(f"jsonschema: {error.message}") from error
    return kind(schema, registry=Registry())


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
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)


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
    found = [from_python(entry) for error in errors for entry in _described(error)]
    valid: Boolean = boolean(not errors)
    return valid, tuple(found)


def _described(error: ValidationError) -> list[dict[str, str]]:
    field = ".".join(map(str, error.absolute_path)) or "(Root)"
    keyword = str(error.validator)
    wanted: Any = error.validator_value
    if keyword == "required":
        present = error.instance if isinstance(error.instance, dict) else {}
        lacking = [name for name in wanted if name not in present and f"'{name}'" in error.message]
        missing = lacking[0] if lacking else ""
        return [_entry(field, "required", f"{missing} is required")]
    if keyword == "type":
        expected = wanted if isinstance(wanted, str) else ",".join(wanted)
        return [
            _entry(
                field, "invalid_type", f"Invalid type. Expected: {expected}, given: {_kind(error.instance)}"
            )
        ]
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
