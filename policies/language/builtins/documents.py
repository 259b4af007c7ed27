"""JSON and YAML text as values and back.

YAML is read as OPA reads it: only the first document, YAML 1.1 scalars for booleans and octal numbers,
dates as strings, keys made into JSON strings. Anchors that multiply are bounded. Not here: paths and
patches (`json_paths`), schemas (`schema`).
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import yaml

from policies.documents import nests_deeper
from policies.language.builtins.encoding import text_of
from policies.language.builtins.errors import BuiltinError, HaltError, OperandError
from policies.language.builtins.formatting import general_text
from policies.language.numbers import NumberLimitExceededError, parse_number
from policies.language.serial import JsonError, json_key, json_text, parse_json
from policies.language.values import (
    FALSE,
    MAX_NESTING,
    TRUE,
    Boolean,
    NestingLimitExceededError,
    Object,
    Set,
    Value,
    boolean,
    type_name,
)

MAX_YAML_NODES = 200_000
"""Most values one YAML text may make, aliases counted each time."""


def json_unmarshal(text: str) -> Value:
    try:
        return parse_json(text)
    except JsonError as error:
        raise BuiltinError(f"json: {error}") from error
    except (NumberLimitExceededError, NestingLimitExceededError) as error:
        raise HaltError(str(error)) from error


def json_is_valid(text: str) -> Boolean:
    try:
        json_unmarshal(text)
    except HaltError:
        raise
    except BuiltinError:
        return boolean(False)
    return boolean(True)


def json_marshal(value: Value) -> str:
    return json_text(value)


def json_marshal_with_options(value: Value, options: Object) -> str:
    """JSON on several lines where `pretty`, `indent` or `prefix` ask for it."""
    unknown = [key for key in options if key not in ("pretty", "indent", "prefix")]
    if unknown:
        raise OperandError(f"object contained unknown key {unknown[0]!r}")
    pretty = options.get("pretty", boolean("indent" in options or "prefix" in options))
    indent, prefix = options.get("indent", "\t"), options.get("prefix", "")
    if not isinstance(pretty, Boolean) or not isinstance(indent, str) or not isinstance(prefix, str):
        raise OperandError("operand 2: pretty must be boolean, indent and prefix must be strings")
    if pretty is FALSE:
        return json_text(value)
    return prefix + json_text(value, prefix=prefix, indent=indent)


# --- YAML ------------------------------------------------------------------------------------------


def yaml_unmarshal(text: str) -> Value:
    """The value of the first document."""
    try:
        if nests_deeper(text, MAX_NESTING):
            raise HaltError(f"yaml: nested deeper than {MAX_NESTING}")
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_node() if loader.check_node() else None
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError) as error:
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f"line {mark.line + 1}: "
        raise BuiltinError(f"yaml: {line}{problem}") from error
    except RecursionError as error:
        raise HaltError("yaml: nested too deeply") from error
    return None if node is None else _YamlReader().value(node, MAX_NESTING)


def yaml_is_valid(text: str) -> Boolean:
    try:
        yaml_unmarshal(text)
    except HaltError:
        raise
    except BuiltinError:
        return boolean(False)
    return boolean(True)


_YAML_INTEGER = re.compile(r"[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|(?:0|[1-9][0-9_]*))")
_YAML_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_YAML_SPECIAL = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_WORDS: dict[str, Value] = {
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
    **dict.fromkeys(("true", "True", "TRUE", "y", "Y", "yes", "Yes", "YES", "on", "On", "ON"), TRUE),
    **dict.fromkeys(("false", "False", "FALSE", "n", "N", "no", "No", "NO", "off", "Off", "OFF"), FALSE),
}


_RESOLVER: Any = yaml.SafeLoader("")


class _YamlReader:
    """Values from YAML nodes, with a bound on their number."""

    def __init__(self) -> None:
        self._left = MAX_YAML_NODES

    def value(self, node: Any, nesting: int) -> Value:
        self._left -= 1
        if self._left < 0:
            raise HaltError(f"yaml: more than {MAX_YAML_NODES} values")
        if nesting <= 0:
            raise HaltError(f"yaml: nested deeper than {MAX_NESTING}")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return tuple([self.value(item, nesting - 1) for item in node.value])
        pairs: dict[Value, Value] = {}
        for key_node, item_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                self._merge(pairs, item_node, nesting)
                continue
            key = self.value(key_node, nesting - 1)
            if isinstance(key, tuple | Object):
                raise BuiltinError("yaml: a key must be a scalar")
            pairs[json_key(key)] = self.value(item_node, nesting - 1)
        return Object(pairs)

    def _merge(self, pairs: dict[Value, Value], node: Any, nesting: int) -> None:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for source in sources:
            merged = self.value(source, nesting - 1)
            if not isinstance(merged, Object):
                raise BuiltinError("yaml: map merge requires map or sequence of maps as the value")
            for key, item in merged.items():
                pairs.setdefault(key, item)

    def _scalar(self, node: yaml.ScalarNode) -> Value:
        text: str = node.value
        if node.tag == "tag:yaml.org,2002:binary":
            try:
                return text_of(base64.b64decode(text, validate=False))
            except (binascii.Error, ValueError) as error:
                raise BuiltinError("yaml: !!binary value contains invalid base64 data") from error
        if node.style in ("'", '"', "|", ">"):
            return text
        if node.tag == "tag:yaml.org,2002:str" != _RESOLVER.resolve(yaml.ScalarNode, text, (True, False)):
            return text  # `!!str 1`
        if text in _WORDS:
            return _WORDS[text]
        number = _yaml_number(text)
        return text if number is None else number


def _yaml_number(text: str) -> Value:
    compact = text.replace("_", "")
    if _YAML_INTEGER.fullmatch(text) and any(character.isdigit() for character in compact):
        sign = -1 if compact.startswith("-") else 1
        digits = compact.lstrip("+-").lower()
        for prefix, base in (("0x", 16), ("0b", 2), ("0o", 8)):
            if digits.startswith(prefix):
                return sign * int(digits[2:], base)
        if len(digits) > 1 and digits.startswith("0"):
            return sign * int(digits, 8)
        number = sign * int(digits) if len(digits) < 30 else None
        if number is not None and -(1 << 63) <= number < 1 << 64:
            return number
    if _YAML_FLOAT.fullmatch(compact):
        # OPA sends floats through a float64, so the shortest digits of that remain.
        floating = float(compact)
        if floating in (float("inf"), float("-inf")):
            return None
        return _bounded(
            str(int(floating)) if floating.is_integer() and abs(floating) < 1e21 else general_text(floating)
        )
    if _YAML_SPECIAL.fullmatch(text):
        raise BuiltinError(f"yaml: {text} is no number of JSON")
    return None


def _bounded(text: str) -> Value:
    try:
        return parse_number(text)
    except NumberLimitExceededError as error:
        raise HaltError(str(error)) from error


class _Dumper(yaml.SafeDumper):
    """Block style, no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Number(str):
    """A number's text, written plain."""

    __slots__ = ()


def _represent_text(dumper: Any, text: str) -> Any:
    style = None
    if text in _WORDS or _YAML_LOOKALIKE.fullmatch(text):
        style = '"'
    elif "\n" in text:
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_YAML_LOOKALIKE = re.compile(
    r"[-+]?(?:0[box][0-9a-fA-F_]+|[0-9][0-9_]*(?::[0-5]?[0-9])*)|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    r"|[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*"
)
_Dumper.add_representer(
    _Number, lambda dumper, number: dumper.represent_scalar("tag:yaml.org,2002:float", str(number))
)
_Dumper.add_representer(str, _represent_text)


def yaml_marshal(value: Value) -> str:
    """Block-style YAML with sorted keys."""
    try:
        text = yaml.dump(
            _plain(value), Dumper=_Dumper, allow_unicode=True, default_flow_style=False, width=1 << 30
        )
    except yaml.YAMLError as error:
        raise BuiltinError(f"yaml: a {type_name(value)} can't be written: {error}") from error
    return text.removesuffix("...\n")


def _plain(value: Value) -> Any:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Boolean):
        return value is TRUE
    if isinstance(value, tuple | Set):
        return [_plain(item) for item in (value.ordered_members() if isinstance(value, Set) else value)]
    if isinstance(value, Object):
        pairs = sorted(((json_key(key), item) for key, item in value.items()), key=lambda pair: pair[0])
        return {key: _plain(item) for key, item in pairs}
    return value if isinstance(value, int) else _Number(general_text(float(value)))


FUNCTIONS = {
    "json.unmarshal": json_unmarshal,
    "json.is_valid": json_is_valid,
    "json.marshal": json_marshal,
    "json.marshal_with_options": json_marshal_with_options,
    "yaml.unmarshal": yaml_unmarshal,
    "yaml.is_valid": yaml_is_valid,
    "yaml.marshal": yaml_marshal,
}
