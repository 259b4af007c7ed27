"""`strings.render_template`: the part of Go's text/template that policies use.

Fields (`{{.a.b}}`, `{{.}}`), variables of `range`, `if`/`else`, `range`, `with`, comments, trimming
(`{{-`, `-}}`) and literals. Pipelines and function calls are refused by name, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from policies.language.builtins.errors import BuiltinError, HaltError
from policies.language.numbers import number_text, parse_number
from policies.language.serial import json_key
from policies.language.values import FALSE, TRUE, Boolean, Object, Set, Value, members

MAX_OUTPUT = 1_000_000
MAX_DEPTH = 50

_ACTION = re.compile(r"\{\{(-(?=\s))?(.*?)((?<=\s)-)?\}\}", re.DOTALL)
_FIELD = re.compile(r"(\$\w*)?((?:\.\w+)*|\.)")


class _Missing:
    """What a field that is not there yields."""


_MISSING = _Missing()
_Value = Value | _Missing


@dataclass(slots=True)
class _Block:
    """Text and actions in order; an action is (keyword, argument, body, alternative)."""

    parts: list[str | tuple[str, str, _Block, _Block]] = field(default_factory=list)


def render_template(template: str, variables: Object) -> str:
    """The template with the variables in it; a missing key is `<undefined>`."""
    root = _parsed(template)
    writer = _Writer()
    writer.block(root, variables, {"$": variables})
    return "".join(writer.pieces)


def _parsed(template: str) -> _Block:
    root = _Block()
    stack: list[tuple[str, _Block]] = [("", root)]
    at, trim = 0, False
    for match in _ACTION.finditer(template):
        _add_text(stack[-1][1], template[at : match.start()], left=trim, right=match[1] is not None)
        at, trim = match.end(), match[3] is not None
        action = match[2].strip()
        if action.startswith("/*"):
            continue
        keyword, _, argument = action.partition(" ")
        if keyword in ("if", "range", "with"):
            body, alternative = _Block(), _Block()
            stack[-1][1].parts.append((keyword, argument.strip(), body, alternative))
            stack.append((keyword, body))
            if len(stack) > MAX_DEPTH:
                raise HaltError(f"strings.render_template: nested deeper than {MAX_DEPTH}")
        elif keyword in ("else", "end"):
            _close(stack, keyword, argument)
        else:
            stack[-1][1].parts.append(("", action, _Block(), _Block()))
    rest = template[at:]
    if "{{" in rest:
        raise BuiltinError("template: unclosed action")
    _add_text(stack[-1][1], rest, left=trim, right=False)
    if len(stack) > 1:
        raise BuiltinError("template: unexpected EOF")
    return root


def _add_text(block: _Block, text: str, *, left: bool, right: bool) -> None:
    text = text.lstrip(" \t\r\n") if left else text
    text = text.rstrip(" \t\r\n") if right else text
    if text:
        block.parts.append(text)


def _close(stack: list[tuple[str, _Block]], keyword: str, argument: str) -> None:
    if len(stack) == 1:
        raise BuiltinError(f"template: unexpected {{{{{keyword}}}}}")
    if argument.strip():
        raise HaltError(f"strings.render_template: {{{{{keyword} {argument.strip()}}}}} is not supported")
    stack.pop()
    if keyword == "else":
        owner = stack[-1][1].parts[-1]
        assert isinstance(owner, tuple)  # the action that opened the block
        stack.append(("else", owner[3]))


class _Writer:
    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._size = 0

    def _put(self, text: str) -> None:
        self.pieces.append(text)
        self._size += len(text)
        if self._size > MAX_OUTPUT:
            raise HaltError(f"strings.render_template: more than {MAX_OUTPUT} characters")

    def block(self, block: _Block, dot: _Value, names: Mapping[str, _Value]) -> None:
        for part in block.parts:
            if isinstance(part, str):
                self._put(part)
                continue
            keyword, argument, body, alternative = part
            if not keyword:
                self._put(_shown(_evaluated(argument, dot, names), top=True))
            elif keyword == "range":
                self._range(argument, body, alternative, dot, names)
            else:
                value = _evaluated(argument, dot, names)
                holds = _holds(value)
                inner = value if keyword == "with" and holds else dot
                self.block(body if holds else alternative, inner, names)

    def _range(
        self, argument: str, body: _Block, alternative: _Block, dot: _Value, names: Mapping[str, _Value]
    ) -> None:
        declared, colon, source = argument.partition(":=")
        variables = [name.strip() for name in declared.split(",")] if colon else []
        collection = _evaluated(source.strip() if colon else argument, dot, names)
        if not isinstance(collection, tuple | Object | Set):
            if isinstance(collection, _Missing) or collection is None:
                self.block(alternative, dot, names)
                return
            raise BuiltinError("template: range can't iterate over the value")
        if not collection:
            self.block(alternative, dot, names)
            return
        for position, (key, item) in enumerate(members(collection)):
            index: Value = key if isinstance(collection, Object) else position
            bound = [item] if len(variables) == 1 else [index, item]
            self.block(body, item, {**names, **dict(zip(variables, bound, strict=False))})


def _evaluated(text: str, dot: _Value, names: Mapping[str, _Value]) -> _Value:
    if text == ".":
        return dot
    if (
        text.startswith('"')
        and text.endswith('"')
        and len(text) > 1
        and "\\" not in text
        and '"' not in text[1:-1]
    ):
        return text[1:-1]
    if text in ("true", "false"):
        return TRUE if text == "true" else FALSE
    if re.fullmatch(r"-?[0-9]+", text):
        return parse_number(text)
    found = _FIELD.fullmatch(text)
    if not text or found is None:
        raise HaltError(f"strings.render_template: the action {{{{{text}}}}} is not supported")
    if found[1]:
        if found[1] not in names:
            raise BuiltinError(f'template: undefined variable "{found[1]}"')
        value = names[found[1]]
    else:
        value = dot
    for name in found[2].split(".")[1:]:
        if isinstance(value, _Missing) or value is None:
            return _MISSING
        if not isinstance(value, Object):
            raise BuiltinError(f"template: can't evaluate field {name}")
        value = value.get(name, _MISSING)
    return value


def _holds(value: _Value) -> bool:
    if isinstance(value, _Missing) or value is None:
        return False
    return value is TRUE if isinstance(value, Boolean) else bool(value)


def _shown(value: _Value, *, top: bool = False) -> str:
    """As Go's %v prints what encoding/json makes of the value."""
    if isinstance(value, _Missing):
        return "<undefined>"
    if value is None:
        return "<undefined>" if top else "<nil>"
    if isinstance(value, str):
        return value
    if isinstance(value, Boolean):
        return "true" if value is TRUE else "false"
    if isinstance(value, tuple | Set):
        items = value.ordered_members() if isinstance(value, Set) else value
        return "[" + " ".join(map(_shown, items)) + "]"
    if isinstance(value, Object):
        pairs = sorted(((json_key(key), item) for key, item in value.items()), key=lambda pair: pair[0])
        return "map[" + " ".join(f"{key}:{_shown(item)}" for key, item in pairs) + "]"
    return number_text(value)


FUNCTIONS = {"strings.render_template": render_template}
