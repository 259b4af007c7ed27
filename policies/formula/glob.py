"""Globs as OPA 1.19 means them, rewritten to RE2 and, where possible, to simpler patterns.

`*` is any run without a delimiter, `**` any run, `?` one character that is no delimiter, `[abc]`, `[a-z]` and
`[!abc]` one character (delimiters included), `{a,b}` alternatives, which nest. `\\` quotes what follows.
What differs from the documentation of `glob.match` was measured; see docs on the language.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Final

from control_plane.core.errors import InvalidInput, shown

MAX_ALTERNATIVES: Final = 64
MAX_PATTERN_LENGTH: Final = 4096
MAX_NESTING: Final = 16

Piece = tuple[str, str]
"""("text", literal) · ("star", "") · ("stars", "") · ("one", "") · ("class", "[...]" in RE2 syntax)."""


@functools.lru_cache(maxsize=4096)
def glob_expression(pattern: str, delimiters: tuple[str, ...]) -> str:
    """The RE2 expression (for a full match) of a glob; raises InvalidInput for a pattern that is none."""
    inside = "[^" + "".join(_class_escape(one) for one in delimiters) + "]" if delimiters else "(?s:.)"
    words = {"star": inside + "*", "stars": "(?s:.)*", "one": inside}

    def spell(piece: Piece) -> str:
        kind, text = piece
        return "".join(map(_escape, text)) if kind == "text" else text if kind == "class" else words[kind]

    return "|".join("".join(map(spell, pieces)) for pieces in alternatives(pattern, delimiters))


@functools.lru_cache(maxsize=4096)
def alternatives(pattern: str, delimiters: tuple[str, ...]) -> tuple[tuple[Piece, ...], ...]:
    """The pattern without braces: one sequence of pieces for each alternative (at most MAX_ALTERNATIVES)."""
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise InvalidInput(f"reading a glob: {len(pattern)} characters of at most {MAX_PATTERN_LENGTH}")
    if any(len(one) != 1 for one in delimiters):
        raise InvalidInput(f"reading glob {shown(pattern)}: every delimiter is one character")
    plain = itertools.islice(_expand(pattern, 0), MAX_ALTERNATIVES + 1)
    found = [_pieces(one, pattern) for one in plain]
    if len(found) > MAX_ALTERNATIVES:
        raise InvalidInput(f"reading glob {shown(pattern)}: more than {MAX_ALTERNATIVES} alternatives")
    return tuple(dict.fromkeys(found))


def _expand(pattern: str, depth: int) -> Iterator[str]:
    """Brace alternatives, one plain pattern at a time; a brace that never closes is a literal, as in OPA."""
    if depth > MAX_NESTING:
        raise InvalidInput(f"reading glob {shown(pattern)}: braces nest deeper than {MAX_NESTING}")
    opening = _find_open(pattern)
    if opening is None:
        yield pattern
        return
    start, end, commas = opening
    cuts = [start, *commas, end]
    for left, right in itertools.pairwise(cuts):
        yield from _expand(pattern[:start] + pattern[left + 1 : right] + pattern[end + 1 :], depth + 1)


def _find_open(pattern: str) -> tuple[int, int, list[int]] | None:
    """Start, end and top-level commas of the first closed brace group outside brackets and quotes."""
    index, level, start, commas, bracket = 0, 0, -1, list[int](), False
    while index < len(pattern):
        character = pattern[index]
        if character == "\\":
            index += 1
        elif bracket:
            bracket = character != "]"
        elif character == "[":
            bracket = True
        elif character == "{":
            level += 1
            if level == 1:
                start = index
        elif character == "}" and level:
            level -= 1
            if not level:
                return start, index, commas
        elif character == "," and level == 1:
            commas.append(index)
        index += 1
    return None


def _pieces(plain: str, whole: str) -> tuple[Piece, ...]:
    """The pieces of a pattern without brace groups."""
    pieces: list[Piece] = []
    index = 0
    while index < len(plain):
        character = plain[index]
        index += 1
        if character == "*":
            deep = plain[index : index + 1] == "*"
            while plain[index : index + 1] == "*":
                index += 1
            pieces.append(("stars" if deep else "star", ""))
        elif character == "?":
            before = pieces[-1][1][-1:] if pieces and pieces[-1][0] == "text" else ""
            if not (before + plain[index : index + 1]).isascii():
                raise InvalidInput(
                    f"reading glob {shown(whole)}: '?' beside a character outside ASCII counts bytes in OPA"
                )
            pieces.append(("one", ""))
        elif character == "[":
            end = plain.find("]", index + 1)
            if end < 0:
                raise InvalidInput(f"reading glob {shown(whole)}: '[' without ']'")
            pieces.append(("class", _class(plain[index:end], whole)))
            index = end + 1
        else:
            if character == "\\" and index < len(plain):
                character = plain[index]
                index += 1
            if pieces and pieces[-1][0] == "text":
                pieces[-1] = ("text", pieces[-1][1] + character)
            else:
                pieces.append(("text", character))
    return tuple(pieces)


def _class(body: str, whole: str) -> str:
    """A glob class as an RE2 class: a list or one range, `!` negates, `^` is a character."""
    negated, body = body.startswith("!"), body.removeprefix("!")
    if not body:
        raise InvalidInput(f"reading glob {shown(whole)}: an empty character class")
    sign = "^" if negated else ""
    if len(body) == 3 and body[1] == "-":
        if body[0] > body[2]:
            raise InvalidInput(f"reading glob {shown(whole)}: the range {shown(body)} runs backwards")
        return f"[{sign}{_class_escape(body[0])}-{_class_escape(body[2])}]"
    return f"[{sign}{''.join(map(_class_escape, body))}]"


def _class_escape(character: str) -> str:
    return "\\" + character if character in "\\]^-[" else character


def _escape(character: str) -> str:
    return "\\" + character if character in "\\.+*?()|[]{}^$" else character
