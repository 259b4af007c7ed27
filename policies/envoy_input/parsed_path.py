"""Comparisons of `input.parsed_path` with constants, as conditions on the path that manifests can say.

    input.parsed_path == ["a", "b"]        input.request.path == "/a/b"
    input.parsed_path = ["a", _]           glob.match("/a/*", ["/"], input.request.path)
    input.parsed_path[0] == "a"            glob.match("{/a,/a/**}", ["/"], input.request.path)
    input.parsed_path[1] == "a"            true in [glob.match("/*/a", …), glob.match("/*/a/**", …)]

Only segments that mean themselves: decoded, and with nothing that a glob reads in its own way. Those that
begin alike are globs of their own, as OPA reads them wrongly in braces.
"""

from __future__ import annotations

import json
import re
from typing import Final

from policies.envoy_input import fields
from policies.envoy_input.walk import Names
from policies.language.syntax import ast

_SEGMENT: Final = re.compile(r"[A-Za-z0-9._~@:+=-]+")
MAX_INDEX: Final = 16
_PATH: Final = "input.request.path"


def as_path_condition(node: ast.ExprNode, names: Names) -> str | None:
    """The condition in Rego, or None where the statement is another one."""
    if not isinstance(node, ast.Call) or len(node.arguments) != 2:
        return None
    left, right = node.arguments
    if node.name in ("eq", "equal"):
        for side, other in ((left, right), (right, left)):
            if names.envoy_path(side) == fields.PARSED_PATH:
                return _whole(other) if isinstance(other, ast.Array) else None
            if (index := _index(side, names)) is not None:
                return _segment(index, (other,))
    if node.name == "internal.member_2" and (index := _index(left, names)) is not None:
        return _segment(index, right.items) if isinstance(right, ast.Set | ast.Array) else None
    return None


def _whole(array: ast.Array) -> str | None:
    texts = []
    for position, item in enumerate(array.items):
        if isinstance(item, ast.Var) and item.name == "_":
            texts.append("*")
        elif isinstance(item, ast.String) and (
            _SEGMENT.fullmatch(item.value) or _is_end(item, position, array)
        ):
            texts.append(item.value)
        else:
            return None
    if not texts:
        return "false"  # there is always a segment, if only an empty one
    if "*" in texts:
        return _match("/" + "/".join(texts))
    return f"{_PATH} == {_quoted('/' + '/'.join(texts))}"


def _is_end(item: ast.String, position: int, array: ast.Array) -> bool:
    """`/a/` ends with an empty segment; elsewhere slashes are merged and none is empty."""
    return item.value == "" and position == len(array.items) - 1


def _segment(index: int, values: tuple[ast.Term, ...]) -> str | None:
    texts = [one.value for one in values if isinstance(one, ast.String) and _SEGMENT.fullmatch(one.value)]
    if len(texts) != len(values) or not texts:
        return None
    lead = "/*" * index
    patterns = [pattern for text in texts for pattern in (f"{lead}/{text}", f"{lead}/{text}/**")]
    if not index:
        return _match("{" + ",".join(patterns) + "}")
    return f"true in [{', '.join(map(_match, patterns))}]"


def _match(pattern: str) -> str:
    return f'glob.match({_quoted(pattern)}, ["/"], {_PATH})'


def _index(term: ast.Term, names: Names) -> int | None:
    """The position in `input.parsed_path[n]`."""
    if not isinstance(term, ast.Ref) or not term.operands or not isinstance(term.operands[-1], ast.Number):
        return None
    head = ast.Ref(term.head, term.operands[:-1], term.span) if len(term.operands) > 1 else term.head
    text = term.operands[-1].text
    if names.envoy_path(head) != fields.PARSED_PATH or not re.fullmatch(r"[0-9]{1,2}", text):
        return None
    return int(text) if int(text) <= MAX_INDEX else None


def _quoted(text: str) -> str:
    return json.dumps(text)
