"""Functions of strings. Positions and lengths count characters (code points), case maps one character to one.

Not here: `sprintf` (`formatting`), templates (`templates`), regular expressions, globs.
"""

from __future__ import annotations

import re
from functools import lru_cache

from policies.language.builtins.errors import BuiltinError, HaltError, OperandError
from policies.language.numbers import Number, written_integer
from policies.language.values import Boolean, Object, Set, Value, boolean, type_name

MAX_RESULT = 16_000_000
"""Longest string, in characters, that a replacement may make."""

_WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


def texts(collection: Value, position: int) -> list[str]:
    """The strings of an array or set, in order; OperandError when something else is among them."""
    items = collection.ordered_members() if isinstance(collection, Set) else collection
    listed = []
    for item in items:  # type: ignore[union-attr] # signatures admit only arrays and sets here
        if not isinstance(item, str):
            raise OperandError(
                f"operand {position} must be {type_name(collection)} of strings but got "
                f"{type_name(collection)} containing {type_name(item)}"
            )
        listed.append(item)
    return listed


def whole(number: Number, position: int) -> int:
    """An operand that is written as an integer of 64 bits: a position, a length, a limit."""
    value = written_integer(number)
    if value is None or not -(1 << 63) <= value < 1 << 63:
        raise OperandError.expected(position, "integer number", "floating-point number")
    return value


def concat(delimiter: str, collection: Value) -> str:
    return delimiter.join(texts(collection, 2))


def contains(text: str, part: str) -> Boolean:
    return boolean(part in text)


def starts_with(text: str, prefix: str) -> Boolean:
    return boolean(text.startswith(prefix))


def ends_with(text: str, suffix: str) -> Boolean:
    return boolean(text.endswith(suffix))


def index_of(text: str, part: str) -> int:
    """Position of the first occurrence, or -1."""
    if not part:
        raise BuiltinError("indexof: empty search character")
    return text.find(part)


def indexes_of(text: str, part: str) -> tuple[int, ...]:
    """Positions of all occurrences, overlapping ones too."""
    if not part:
        raise BuiltinError("indexof_n: empty search character")
    found = []
    at = text.find(part)
    while at >= 0:
        found.append(at)
        at = text.find(part, at + 1)
    return tuple(found)


def count(text: str, part: str) -> int:
    """Occurrences that do not overlap; one more than the characters for an empty part."""
    return text.count(part)


@lru_cache(maxsize=4_096)
def _simple_lower(character: str) -> str:
    mapped = character.lower()
    return mapped if len(mapped) == 1 else {"\u0130": "i"}.get(character, character)


@lru_cache(maxsize=4_096)
def _simple_upper(character: str) -> str:
    # Where upper case takes several characters, the single one (if any) is the title case: U+1FB3 -> U+1FBC.
    mapped = character.upper()
    if len(mapped) > 1:
        mapped = character.title()
    return mapped if len(mapped) == 1 else character


def lower(text: str) -> str:
    """Lower case, each character by itself (Unicode simple mapping): no final sigma."""
    return text.lower() if text.isascii() else "".join(map(_simple_lower, text))


def upper(text: str) -> str:
    """Upper case, each character by itself: "ß" stays."""
    return text.upper() if text.isascii() else "".join(map(_simple_upper, text))


def split(text: str, delimiter: str) -> tuple[str, ...]:
    """The parts between delimiters; the characters when the delimiter is empty."""
    return tuple(text.split(delimiter)) if delimiter else tuple(text)


def split_n(text: str, delimiter: str, limit: Number) -> tuple[str, ...]:
    """The first `limit` parts, or the last ones when it is negative."""
    wanted = whole(limit, 3)
    parts = split(text, delimiter)
    return parts[:wanted] if wanted >= 0 else parts[wanted:]


def _replaced(text: str, old: str, new: str) -> str:
    occurrences = text.count(old)
    if len(text) + occurrences * (len(new) - len(old)) > MAX_RESULT:
        raise HaltError(f"the result of a replacement would be longer than {MAX_RESULT} characters")
    return text.replace(old, new)


def replace(text: str, old: str, new: str) -> str:
    return _replaced(text, old, new)


def replace_n(pairs: Object, text: str) -> str:
    """All keys replaced by their values in one pass from left to right; keys are tried in their order."""
    replacements: dict[str, str] = {}
    for old, new in pairs.ordered_items():
        if not isinstance(old, str) or not isinstance(new, str):
            raise OperandError("operand 1 must be object of strings to strings")
        replacements[old] = new
    if not replacements:
        return text
    if len(text) * max(1, *map(len, replacements.values())) > MAX_RESULT:
        raise HaltError(f"the result of a replacement could be longer than {MAX_RESULT} characters")
    return _Replacer(replacements).apply(text)


class _Replacer:
    """Leftmost replacement, keys tried in order."""

    def __init__(self, replacements: dict[str, str]) -> None:
        self._replacements = replacements
        keys = [key for key in replacements if key]
        self._pattern = re.compile("|".join(map(re.escape, keys))) if keys else None

    def apply(self, text: str) -> str:
        if "" not in self._replacements:
            return (
                self._pattern.sub(lambda match: self._replacements[match[0]], text) if self._pattern else text
            )
        # The empty key sorts first, hence comes before every character and before every other match.
        filler = self._replacements[""]
        pieces, at = [filler], 0
        while at < len(text):
            match = self._pattern.match(text, at) if self._pattern else None
            pieces.append(self._replacements[match[0]] if match else text[at])
            pieces.append(filler)
            at = match.end() if match else at + 1
        return "".join(pieces)


def reverse(text: str) -> str:
    return text[::-1]


def substring(text: str, offset: Number, length: Number) -> str:
    """`length` characters from `offset`; all the rest when the length is negative."""
    start, size = whole(offset, 2), whole(length, 3)
    if start < 0:
        raise BuiltinError("substring: negative offset")
    return text[start:] if size < 0 else text[start : start + size]


def trim(text: str, cut: str) -> str:
    """`text` without characters of the cut set at both ends."""
    return text.strip(cut) if cut else text


def trim_left(text: str, cut: str) -> str:
    return text.lstrip(cut) if cut else text


def trim_right(text: str, cut: str) -> str:
    return text.rstrip(cut) if cut else text


def trim_prefix(text: str, prefix: str) -> str:
    return text.removeprefix(prefix)


def trim_suffix(text: str, suffix: str) -> str:
    return text.removesuffix(suffix)


def trim_space(text: str) -> str:
    """`text` without white space (the Unicode property) at both ends."""
    return text.strip(_WHITE_SPACE)


def _one_or_more(operand: Value, position: int) -> list[str]:
    return [operand] if isinstance(operand, str) else texts(operand, position)


def any_prefix_match(searched: Value, bases: Value) -> Boolean:
    """Whether one of the strings begins with one of the bases."""
    prefixes = tuple(_one_or_more(bases, 2))
    return boolean(any(text.startswith(prefixes) for text in _one_or_more(searched, 1)))


def any_suffix_match(searched: Value, bases: Value) -> Boolean:
    """Whether one of the strings ends with one of the bases."""
    suffixes = tuple(_one_or_more(bases, 2))
    return boolean(any(text.endswith(suffixes) for text in _one_or_more(searched, 1)))


FUNCTIONS = {
    "concat": concat,
    "contains": contains,
    "startswith": starts_with,
    "endswith": ends_with,
    "indexof": index_of,
    "indexof_n": indexes_of,
    "lower": lower,
    "upper": upper,
    "split": split,
    "replace": replace,
    "substring": substring,
    "trim": trim,
    "trim_left": trim_left,
    "trim_right": trim_right,
    "trim_prefix": trim_prefix,
    "trim_suffix": trim_suffix,
    "trim_space": trim_space,
    "strings.any_prefix_match": any_prefix_match,
    "strings.any_suffix_match": any_suffix_match,
    "strings.count": count,
    "strings.replace_n": replace_n,
    "strings.reverse": reverse,
    "strings.split_n": split_n,
}
