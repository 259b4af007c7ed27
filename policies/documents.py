"""YAML and JSON documents read strictly, and YAML written deterministically.

Reading refuses what makes a document mean different things to different readers: duplicate keys, aliases,
tags, and plain words that YAML 1.1 and 1.2 read differently (`yes`, `on`, `012`, `1:20`). Size, depth and the
number of nodes are bounded. Writing quotes every text that isn't an obvious word, so that any reader gets
the text back. Kubernetes reads JSON's data model; nothing outside it is kept.
"""

import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Final

import yaml

from control_plane.core.errors import InvalidInput, ResourceExhausted, shown
from policies.language.numbers import NumberLimitExceededError, Real, number_text, parse_number

MAX_BYTES: Final = 256 << 20
MAX_DEPTH: Final = 64
MAX_NODES: Final = 20_000_000

Node = object
"""None, bool, int, Real (exact, as it was written), str, list or dict with text keys."""

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_FLOAT: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,17}")
_WORDS: Final[dict[str, Node]] = {"true": True, "false": False, "null": None, "~": None, "": None}
_AMBIGUOUS: Final = re.compile(
    r"(?i:y|n|yes|no|on|off|true|false|null)|[-+]?[0-9][0-9_,:.eExXoOa-fA-F+-]*|[-+]?\.[0-9inf].*|\.nan",
    re.DOTALL,
)
_CORE_NUMBER: Final = re.compile(
    r"[-+]?(?:0o[0-7]+|0x[0-9a-fA-F]+|(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)"
)
_PRINTABLE: Final = re.compile(r"[ !#-\[\]-~]*")
"""Texts that stand between double quotes as they are."""
_AMBIGUOUS_WORD: Final = object()
_PLAIN: Final = re.compile(r"[A-Za-z_/][A-Za-z0-9_./\-]*")


def read_documents(text: str, what: str) -> Iterator[Node]:
    """Each document of a YAML stream; `what` names it in errors.

    Raises InvalidInput with line and column for anything refused, ResourceExhausted beyond the bounds.
    """
    if len(text) > MAX_BYTES:
        raise ResourceExhausted(f"reading {what}: {len(text)} characters, at most {MAX_BYTES} are read")
    reader = _Reader(text, what)
    try:
        yield from reader.documents()
    except yaml.YAMLError as error:
        problem, mark = yaml_problem(error)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise InvalidInput(f"reading {what}{place}: {problem}") from error


def yaml_problem(error: yaml.YAMLError) -> tuple[str, yaml.Mark | None]:
    """What is wrong with a YAML text, on one line, and where, counted from 0."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        said = f"{error.problem} {error.context}" if error.context else error.problem
        return " ".join(said.split())[:300], error.problem_mark or error.context_mark
    return " ".join(str(error).split())[:300], None


def read_document(text: str, what: str) -> Node:
    """The one document of a YAML or JSON text (JSON is read by the JSON reader: it is faster)."""
    if text.lstrip()[:1] == "{":
        return read_json(text, what)
    found = list(read_documents(text, what))
    if len(found) != 1:
        raise InvalidInput(f"reading {what}: {len(found)} documents came, one is expected")
    return found[0]


def read_json(text: str, what: str) -> Node:
    """A JSON document without duplicate keys; raises InvalidInput."""
    if len(text) > MAX_BYTES:
        raise ResourceExhausted(f"reading {what}: {len(text)} characters, at most {MAX_BYTES} are read")

    def unique(pairs: list[tuple[str, Node]]) -> Node:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
            raise InvalidInput(f"reading {what}: key {shown(twice)} stands twice in one object")
        return found

    try:
        return json.loads(
            text, object_pairs_hook=unique, parse_float=parse_number, parse_constant=_refused_constant
        )
    except (ValueError, NumberLimitExceededError, RecursionError) as error:
        raise InvalidInput(f"reading {what}: {str(error)[:300]}") from error


def _refused_constant(name: str) -> Node:
    raise ValueError(f"{name} is not JSON")


def write_yaml(document: Node) -> str:
    """YAML in block style, keys in the order given; equal documents give equal text."""
    lines: list[str] = []
    _write(document, 0, "", lines)
    return "\n".join(lines) + "\n"


def _write(node: Node, indent: int, lead: str, lines: list[str]) -> None:
    """Append `node`; `lead` is what already stands on its first line (indentation included)."""
    pad = "  " * indent
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            _entry(f"{lead or pad}{_scalar(key)}:", value, indent, lines)
            lead = ""
    elif isinstance(node, list | tuple) and node:
        for value in node:
            head = f"{lead or pad}- "
            lead = ""
            if isinstance(value, Mapping | list | tuple) and value:
                _write(value, indent + 1, head, lines)
            else:
                lines.append(head + _scalar(value))
    else:
        lines.append((lead or pad) + _scalar(node))


def _entry(head: str, value: Node, indent: int, lines: list[str]) -> None:
    if isinstance(value, Mapping) and value:
        lines.append(head)
        _write(value, indent + 1, "", lines)
    elif isinstance(value, list | tuple) and value:
        lines.append(head)
        _write(value, indent, "", lines)
    else:
        lines.append(f"{head} {_scalar(value)}")


def _scalar(value: Node) -> str:
    if isinstance(value, str):
        return _spelled(value)
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, list | tuple):
        return "[]"
    return number_text(value) if isinstance(value, Real) else json.dumps(value)


@functools.lru_cache(maxsize=65536)
def _spelled(text: str) -> str:
    return text if _PLAIN.fullmatch(text) and not _AMBIGUOUS.fullmatch(text) else _quoted(text)


def _quoted(text: str) -> str:
    """Double quotes with JSON's escapes; YAML wants astral characters and DEL escaped its own way."""
    if _PRINTABLE.fullmatch(text):
        return f'"{text}"'
    parts = (
        json.dumps(character)[1:-1] if ord(character) <= 0xFFFF else f"\\U{ord(character):08x}"
        for character in text
    )
    return '"' + "".join(parts).replace("\x7f", "\\x7f") + '"'


def _read_differently(text: str) -> bool:
    """Whether a plain word is a number, date or truth value to some YAML reader."""
    if _CORE_NUMBER.fullmatch(text) or text in ("y", "Y", "n", "N"):
        return True
    resolvers = yaml.SafeLoader.yaml_implicit_resolvers.get(text[0], [])
    return any(pattern.match(text) for _, pattern in resolvers)


@functools.lru_cache(maxsize=65536)
def _plain_value(text: str) -> Node:
    """What a word without quotes means, or _AMBIGUOUS_WORD."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return parse_number(text)
    return _AMBIGUOUS_WORD if _read_differently(text) else text


def nests_deeper(text: str, levels: int) -> bool:
    """Whether a YAML text does; to be asked before PyYAML's own reader, which says best what is wrong with a
    text, but takes a second for some thousand brackets. Raises yaml.YAMLError where only libyaml may say so.
    """
    level = 0
    try:
        next_event = _LOADER(text).get_event
        while (event := next_event()) is not None and level <= levels:
            if isinstance(event, yaml.CollectionStartEvent):
                level += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                level -= 1
    except yaml.YAMLError:
        if text.count("[") + text.count("{") > levels:
            raise
        return False
    return level > levels


class _Reader:
    """Builds plain values from parser events, so that every refusal knows its place."""

    def __init__(self, text: str, what: str) -> None:
        self._next = _LOADER(text).get_event  # the parser itself: `yaml.parse` wraps each event once more
        self._what = what
        self._nodes = 0

    def documents(self) -> Iterator[Node]:
        while (event := self._next()) is not None:
            if isinstance(event, yaml.DocumentStartEvent):
                yield self._node(self._next(), 0)

    def _node(self, event: yaml.Event, depth: int) -> Node:
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise ResourceExhausted(
                f"{self._at(event)}: deeper than {MAX_DEPTH} or more than {MAX_NODES} nodes"
            )
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise InvalidInput(
                f"{self._at(event)}: anchors and aliases are not read", hint="write the value out"
            )
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):
            raise InvalidInput(f"{self._at(event)}: tag {shown(tag)} is not read")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(inner := self._next(), yaml.SequenceEndEvent):
                items.append(self._node(inner, depth + 1))
            return items
        return self._mapping(depth)

    def _mapping(self, depth: int) -> Node:
        found: dict[str, Node] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            if not isinstance(key, str):
                raise InvalidInput(f"{self._at(event)}: key {shown(key)} is not a text", hint="quote it")
            if key in found:
                raise InvalidInput(f"{self._at(event)}: key {shown(key)} stands twice in one mapping")
            found[key] = self._node(self._next(), depth + 1)
        return found

    def _scalar(self, event: yaml.ScalarEvent) -> Node:
        text: str = event.value
        if event.style or event.tag == "!":
            return text
        value = _plain_value(text)
        if value is _AMBIGUOUS_WORD:
            raise InvalidInput(
                f"{self._at(event)}: YAML 1.1 and 1.2 read {shown(text)} differently", hint="quote it"
            )
        return value

    def _at(self, event: yaml.Event) -> str:
        mark = event.start_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
        return f"reading {self._what}, line {line}, column {column}"
