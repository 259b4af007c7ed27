"""`glob.match` and `glob.quote_meta`: globs as the gobwas library of OPA 1.19 reads them.

    *    any run of characters that are no delimiter      **     any run of characters
    ?    one character that is no delimiter               [abc] [a-c] [!abc]   one character (delimiters too)
    {a,b*}   alternatives, nested                         \\x     the character x itself

Delimiters `[]` mean `["."]`, null means none. A pattern becomes one regular expression, so matching
takes linear time. Two faults of the library are kept because decisions depend on them: in `prefix**suffix`
(as a whole pattern or a whole alternative) the two may overlap, so `/a/**/c` matches `/a/c`; and `?` or
`[!abc]` alone (or alone as an alternative of `{…}` alone) matches the empty text too. Braces beside other
parts, and `***`, it often reads unlike its notation, or it ends the whole process: what was not measured to
be read right is refused (`unclear`). `overlaps` and `translate` are public because the compiler needs the
same language.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import re2

from policies.language.builtins.errors import BuiltinError, HaltError, OperandError
from policies.language.builtins.regular import MAX_PATTERN, compile_pattern
from policies.language.values import Boolean, Value, boolean, type_name

MAX_NESTED_ALTERNATIVES = 50


@dataclass(frozen=True, slots=True)
class Text:
    """Characters as they are."""

    text: str


@dataclass(frozen=True, slots=True)
class Wildcard:
    """`any` is `*`, `super` is `**` (and `*` without delimiters), `single` is `?`."""

    kind: Literal["any", "super", "single"]


@dataclass(frozen=True, slots=True)
class OneOf:
    """One character in (or, negated, not in) inclusive ranges."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool


@dataclass(frozen=True, slots=True)
class Alternatives:
    """`{…,…}`."""

    options: tuple[Pattern, ...]


Part = Text | Wildcard | OneOf | Alternatives
Pattern = tuple[Part, ...]


def parse_glob(text: str, *, delimited: bool) -> Pattern:
    """The parts of a glob; BuiltinError when the library would refuse it."""
    if len(text) > MAX_PATTERN:
        raise HaltError(f"a glob of {len(text)} characters is longer than {MAX_PATTERN}")
    return _Parser(text, delimited).pattern(0)


class _Parser:
    def __init__(self, text: str, delimited: bool) -> None:
        self._text = text
        self._at = 0
        self._any: Wildcard = Wildcard("any" if delimited else "super")

    def _take(self) -> str:
        if self._at >= len(self._text):
            raise BuiltinError("unexpected end of input")
        self._at += 1
        return self._text[self._at - 1]

    def pattern(self, depth: int) -> Pattern:
        """Parts up to the end, or inside alternatives up to the next `,` or `}` (which is left)."""
        if depth > MAX_NESTED_ALTERNATIVES:
            raise HaltError(f"a glob nests alternatives deeper than {MAX_NESTED_ALTERNATIVES}")
        parts: list[Part] = []
        literal: list[str] = []

        def add(part: Part) -> None:
            if literal:
                parts.append(Text("".join(literal)))
                literal.clear()
            parts.append(part)

        while self._at < len(self._text):
            character = self._text[self._at]
            if depth and character in ",}":
                break
            self._at += 1
            if character == "*":
                if self._text[self._at : self._at + 1] == "*":
                    self._at += 1
                    add(Wildcard("super"))
                else:
                    add(self._any)
            elif character == "?":
                add(Wildcard("single"))
            elif character == "[":
                add(self._one_of())
            elif character == "{":
                add(self._alternatives(depth))
            elif character == "\\":
                literal.append(self._text[self._at : self._at + 1])  # a backslash at the end is ignored
                self._at += 1
            else:
                literal.append(character)
        if literal:
            parts.append(Text("".join(literal)))
        return tuple(parts)

    def _alternatives(self, depth: int) -> Alternatives:
        options = [self.pattern(depth + 1)]
        while self._at < len(self._text) and self._take() == ",":
            options.append(self.pattern(depth + 1))
        return Alternatives(tuple(options))

    def _one_of(self) -> OneOf:
        negated = self._text[self._at : self._at + 1] == "!"
        if negated:
            self._at += 1
        characters: list[str] = []
        while (character := self._take()) != "]":
            characters.append(self._take() if character == "\\" else character)
            if len(characters) == 1 and self._text[self._at : self._at + 1] == "-":
                return self._range(characters[0], negated)
        if not characters:
            raise BuiltinError("could not parse range")
        return OneOf(tuple((character, character) for character in characters), negated)

    def _range(self, low: str, negated: bool) -> OneOf:
        self._take()  # the "-"
        high = self._take()
        if high == "]" and self._text[self._at : self._at + 1] != "]":
            raise BuiltinError("unexpected end of input")
        if high < low:
            raise BuiltinError(f"hi character '{high}' should be greater than lo '{low}'")
        if self._take() != "]":
            raise BuiltinError("expected close range character")
        return OneOf(((low, high),), negated)


def read_glob(text: str, delimiters: str) -> Pattern:
    """As `parse_glob`; HaltError where OPA reads the glob unlike its notation."""
    pattern = parse_glob(text, delimited=bool(delimiters))
    if reason := unclear(pattern, several=len(set(delimiters)) > 1):
        raise HaltError(
            f"OPA 1.19 reads {text[:80]!r} unlike its notation: {reason}; write one glob for each case"
        )
    return pattern


def unclear(pattern: Pattern, *, several: bool) -> str:
    """Why the library is not known to read a whole pattern as it is written; "" where it is.

    `several` is whether there is more than one delimiter.
    """
    for one, two in itertools.pairwise(pattern):
        if _is_run(one) and _is_run(two):
            return "more than two '*' in a row"
        if several and isinstance(one, Wildcard) and isinstance(two, Wildcard):
            return "'*' or '?' beside '?' with several delimiters"
    for part in pattern:
        if not isinstance(part, Alternatives):
            continue
        options = tuple(dict.fromkeys(part.options))
        reason = next(filter(None, (unclear(option, several=several) for option in options)), "")
        if not reason and (len(pattern) > 1 or _shared(part.options)):
            plain = sum(not isinstance(other, Text) for other in pattern) == 1
            reason = _unclear_beside(options, plain=plain)
        if reason:
            return reason
    return ""


def _is_run(part: Part) -> bool:
    return isinstance(part, Wildcard) and part.kind != "single"


def _shared(options: tuple[Pattern, ...]) -> bool:
    """Whether all alternatives begin or end alike; the library puts that beside what is left of them."""
    filled = [option for option in options if option]
    return 1 < len(filled) == len(options) and any(
        len({option[at] for option in filled}) == 1 for at in (0, -1)
    )


def _unclear_beside(options: tuple[Pattern, ...], *, plain: bool) -> str:
    """Why alternatives beside something else may be read wrongly; `plain`: whether all else is text."""
    if len(options) == 1:
        return "braces with one alternative beside something else"
    parts = [part for option in options for part in option]
    if any(isinstance(part, Alternatives) or _is_run(part) for part in parts):
        return "braces with '*' or braces in them beside something else"
    widths = {sum(len(part.text) if isinstance(part, Text) else 1 for part in option) for option in options}
    if len(widths) > 1 and not all(isinstance(part, Text) for part in parts):
        return "braces with '?' or '[' in alternatives of different lengths beside something else"
    if not plain and not all(options):
        return "braces with an empty alternative beside something else than text"
    return ""


def overlaps(pattern: Pattern) -> tuple[str, ...]:
    """The strings that `prefix**suffix` matches although they are shorter than prefix and suffix together."""
    if len(pattern) != 3:
        return ()
    before, middle, after = pattern
    if not isinstance(before, Text) or not isinstance(after, Text) or middle != Wildcard("super"):
        return ()
    prefix, suffix = before.text, after.text
    shared = range(1, min(len(prefix), len(suffix)) + 1)
    return tuple(prefix + suffix[size:] for size in shared if prefix.endswith(suffix[:size]))


def beyond(pattern: Pattern) -> tuple[str, ...]:
    """The texts that the library matches although a whole pattern, as it is written, does not."""
    if len(pattern) != 1:
        return overlaps(pattern)
    part = pattern[0]
    if isinstance(part, Alternatives):
        return tuple(text for option in part.options for text in beyond(option))
    single = part == Wildcard("single") or (isinstance(part, OneOf) and part.negated)
    return ("",) if single else ()


def translate(pattern: Pattern, delimiters: str) -> str:
    """The regular expression (RE2, to be matched against the whole text) of a whole glob."""
    return "|".join([_plain(pattern, delimiters), *map(re2.escape, beyond(pattern))])


def _plain(pattern: Pattern, delimiters: str) -> str:
    pieces = []
    for part in pattern:
        if isinstance(part, Text):
            pieces.append(re2.escape(part.text))
        elif isinstance(part, Alternatives):
            pieces.append("(?:" + "|".join(_plain(option, delimiters) for option in part.options) + ")")
        elif isinstance(part, OneOf):
            ranges = "".join(f"{_escaped(low)}-{_escaped(high)}" for low, high in part.ranges)
            pieces.append(f"[{'^' if part.negated else ''}{ranges}]")
        elif part.kind == "super":
            pieces.append("(?s:.)*")
        else:
            one = "[^" + "".join(map(_escaped, delimiters)) + "]" if delimiters else "(?s:.)"
            pieces.append(one + ("*" if part.kind == "any" else ""))
    return "".join(pieces)


def _escaped(character: str) -> str:
    return f"\\x{{{ord(character):x}}}"


@lru_cache(maxsize=2_048)
def compile_glob(text: str, delimiters: str) -> Any:
    """A matcher for the whole text."""
    return compile_pattern(r"\A(?:" + translate(read_glob(text, delimiters), delimiters) + r")\z")


def delimiter_text(operand: Value) -> str:
    """The delimiters of a call as one string; `[]` means ".", null none."""
    if operand is None:
        return ""
    characters = []
    assert isinstance(operand, tuple)  # the signature admits null and arrays only
    for item in operand:
        if not isinstance(item, str) or len(item) != 1:
            raise OperandError(f"operand 2 must be array of runes but got array containing {type_name(item)}")
        characters.append(item)
    return "".join(characters) or "."


def match(pattern: str, delimiters: Value, text: str) -> Boolean:
    """Whether the glob matches the whole text."""
    compiled = compile_glob(pattern, delimiter_text(delimiters))
    if not text.isascii() and counts_bytes(pattern):
        raise HaltError(
            f"glob.match: OPA counts bytes where a character class or '?' stands beside something else, so "
            f"{pattern[:80]!r} has no clear meaning for text that is not ASCII; use regex.match"
        )
    return boolean(compiled.search(text) is not None)


@lru_cache(maxsize=2_048)
def counts_bytes(text: str) -> bool:
    """Whether the library reads a single character of this glob as a byte (one beside other parts)."""
    return _counts_bytes(parse_glob(text, delimited=True))


def _counts_bytes(pattern: Pattern) -> bool:
    single = any(isinstance(part, OneOf) or part == Wildcard("single") for part in pattern)
    nested = (option for part in pattern if isinstance(part, Alternatives) for option in part.options)
    return (single and len(pattern) > 1) or any(map(_counts_bytes, nested))


_META = re.compile(r"[\\*?\[\]{}]")


def quote_meta(text: str) -> str:
    """A glob that matches exactly `text`."""
    return _META.sub(lambda found: "\\" + found[0], text)


FUNCTIONS = {"glob.match": match, "glob.quote_meta": quote_meta}
