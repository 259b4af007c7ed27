"""Regular expressions: RE2's language and time bounds, with the results of Go's regexp package.

Matching works on UTF-8 bytes; every offset that leaves this module has become text again. What Go and
RE2's C++ library read differently (`\\C`, a group name given twice) and what is too large for the
library's memory bound ends the evaluation with an error instead of being undefined.

Not here: `glob.match` (`globs`), `regex.globs_match` (`glob_intersection`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import re2

from policies.language.builtins.errors import BuiltinError, HaltError
from policies.language.builtins.strings import MAX_RESULT, whole
from policies.language.numbers import Number
from policies.language.values import Boolean, boolean

MAX_PATTERN = 100_000
"""Longest pattern, in characters."""

Spans = tuple[tuple[int, int], ...]


@lru_cache(maxsize=2_048)
def compile_pattern(pattern: str) -> Any:
    """The compiled pattern; BuiltinError says what RE2 has against it."""
    if len(pattern) > MAX_PATTERN:
        raise HaltError(f"a regular expression of {len(pattern)} characters is longer than {MAX_PATTERN}")
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
        if "duplicate" in reason or "too large" in reason:
            raise HaltError(f"the regular expression {pattern[:80]!r} is not supported: {reason}") from error
        raise BuiltinError(f"error parsing regexp: {reason}") from error
    if re.search(r"(?<!\\)(?:\\\\)*\\C", pattern):
        raise BuiltinError("error parsing regexp: invalid escape sequence: `\\C`")
    return compiled


def is_match(pattern: str, text: str) -> Boolean:
    """Whether the pattern matches somewhere in the text."""
    return boolean(compile_pattern(pattern).search(text) is not None)


def is_valid(pattern: str) -> Boolean:
    try:
        compile_pattern(pattern)
    except HaltError:
        raise
    except BuiltinError:
        return boolean(False)
    return boolean(True)


def _matches(compiled: Any, data: bytes, limit: int) -> Iterator[Spans]:
    """Successive matches; an empty one right after another match does not count (Go, Regexp.FindAll)."""
    at, previous_end, found = 0, -1, 0
    while at <= len(data) and found != limit:
        match = compiled.search(data, at)
        if match is None:
            return
        start, end = match.span()
        accepted = not (start == end == previous_end)
        if end > at:
            at = end
        else:
            at += 1
            while at < len(data) and data[at] & 0xC0 == 0x80:  # on to the next character
                at += 1
        previous_end = end
        if accepted:
            found += 1
            yield tuple(match.span(group) for group in range(compiled.groups + 1))


def _text(data: bytes, span: tuple[int, int]) -> str:
    return data[span[0] : span[1]].decode() if span[0] >= 0 else ""


def find_n(pattern: str, text: str, limit: Number) -> tuple[str, ...]:
    """The first `limit` matches, or all when it is negative."""
    data = text.encode()
    return tuple(_text(data, spans[0]) for spans in _matches(compile_pattern(pattern), data, whole(limit, 3)))


def find_all_submatches(pattern: str, text: str, limit: Number) -> tuple[tuple[str, ...], ...]:
    """As `find_n`, each match with its groups ("" for one that took no part)."""
    data = text.encode()
    found = _matches(compile_pattern(pattern), data, whole(limit, 3))
    return tuple(tuple(_text(data, span) for span in spans) for spans in found)


_REFERENCE = re.compile(r"\$(?:\$|\{(?P<braced>[0-9A-Za-z_]+)\}|(?P<bare>[0-9A-Za-z_]+))")


def replace(text: str, pattern: str, replacement: str) -> str:
    """All matches replaced; `$1`, `${1}`, `$name` stand for groups, `$$` for a dollar."""
    compiled = compile_pattern(pattern)
    data = text.encode()
    names = compiled.groupindex
    pieces, end, size = [], 0, 0

    def expand(spans: Spans, reference: re.Match[str]) -> str:
        name = reference["braced"] or reference["bare"]
        if name is None:
            return "$"
        if name.isdigit():
            number = int(name) if len(name) < 6 else len(spans)
        else:
            number = names.get(name, len(spans))
        return _text(data, spans[number]) if number < len(spans) else ""

    for spans in _matches(compiled, data, -1):
        start = spans[0][0]
        pieces.append(data[end:start].decode())
        pieces.append(_REFERENCE.sub(partial(expand, spans), replacement))
        size += len(pieces[-1])
        if size > MAX_RESULT:
            raise HaltError(f"the result of regex.replace is longer than {MAX_RESULT} characters")
        end = spans[0][1]
    pieces.append(data[end:].decode())
    return "".join(pieces)


def split(pattern: str, text: str) -> tuple[str, ...]:
    """The parts between matches."""
    compiled = compile_pattern(pattern)
    if pattern and not text:
        return ("",)
    data = text.encode()
    parts, begin, end = [], 0, 0
    for (start, stop), *_ in _matches(compiled, data, -1):
        end = start
        if stop:
            parts.append(_text(data, (begin, start)))
        begin = stop
    if end != len(data):
        parts.append(_text(data, (begin, len(data))))
    return tuple(parts)


def template_match(template: str, text: str, opening: str, closing: str) -> Boolean:
    """Whether the text is the template with each delimited part matched as a regular expression."""
    for name, delimiter in (("start", opening), ("end", closing)):
        if len(delimiter.encode()) != 1:
            raise BuiltinError(f"{name} delimiter has to be exactly one character long")
    return boolean(compile_pattern(_template_pattern(template, opening, closing)).search(text) is not None)


@lru_cache(maxsize=1_024)
def _template_pattern(template: str, opening: str, closing: str) -> str:
    pieces, end, depth, start = ["^"], 0, 0, 0
    for at, character in enumerate(template):
        if character == opening:
            depth += 1
            if depth == 1:
                start = at
        elif character == closing:
            depth -= 1
            if depth == 0:
                inner = template[start + 1 : at]
                compile_pattern(f"^{inner}$")
                pieces.append(f"{re2.escape(template[end:start])}({inner})")
                end = at + 1
            elif depth < 0:
                break
    if depth:
        raise BuiltinError(f'unbalanced braces in "{template}"')
    return "".join([*pieces, re2.escape(template[end:]), "$"])


FUNCTIONS = {
    "regex.match": is_match,
    "re_match": is_match,
    "regex.is_valid": is_valid,
    "regex.find_n": find_n,
    "regex.find_all_string_submatch_n": find_all_submatches,
    "regex.replace": replace,
    "regex.split": split,
    "regex.template_match": template_match,
}
