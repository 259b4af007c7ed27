"""`regex.globs_match`: whether two simple expressions share a non-empty string.

The expressions know `.` (any character), `[a-z…]` (a class), `\\x` (the character x), and after each
the flags `*` and `+`; everything else stands for itself. Decided on the product of the two automata: a
state is a pair of positions, an edge a character that both sides can take.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from policies.language.builtins.errors import BuiltinError, HaltError
from policies.language.values import Boolean, boolean

MAX_TOKENS = 1_000


@dataclass(frozen=True, slots=True)
class Token:
    """Characters (inclusive ranges, None for any) and how often: exactly once, `*` or `+`."""

    ranges: tuple[tuple[str, str], ...] | None
    flag: str = ""

    def meets(self, other: Token) -> bool:
        """Whether one character fits both."""
        if self.ranges is None or other.ranges is None:
            return self.ranges != () and other.ranges != ()
        return any(a <= d and c <= b for a, b in self.ranges for c, d in other.ranges)


def _invalid(text: str, position: int, reason: str) -> BuiltinError:
    return BuiltinError(f"input:{text}, pos:{position}, {reason}: the input provided is invalid")


@lru_cache(maxsize=512)
def tokenize(text: str) -> tuple[Token, ...]:
    """The tokens of an expression; BuiltinError when it is none."""
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        character = text[at]
        at += 1
        if character in "*+":
            if not tokens or tokens[-1].flag:
                raise _invalid(text, at, f"flag '{character}' must be preceded by a non-flag")
            tokens[-1] = Token(tokens[-1].ranges, character)
        elif character == ".":
            tokens.append(Token(None))
        elif character == "[":
            ranges, at = _class(text, at)
            tokens.append(Token(ranges))
        elif character == "]":
            raise _invalid(text, at, "set-close ']' with no preceding '['")
        else:
            if character == "\\" and at < len(text):
                character = text[at]
                at += 1
            tokens.append(Token(((character, character),)))
    if len(tokens) > MAX_TOKENS:
        raise HaltError(f"regex.globs_match: more than {MAX_TOKENS} characters in an expression")
    return tuple(tokens)


def _class(text: str, at: int) -> tuple[tuple[tuple[str, str], ...], int]:
    start = at
    ranges: list[tuple[str, str]] = []
    pending_range = False
    while True:
        if at >= len(text):
            raise _invalid(text, start + 1, "found [ without matching ]")
        character = text[at]
        at += 1
        if character == "]":
            if pending_range:
                raise _invalid(text, at, "range character '-' must be followed by a Unicode character")
            return tuple(ranges), at
        if character == "-":
            if not ranges or pending_range:
                raise _invalid(text, at, "range character '-' must be preceded by a Unicode character")
            pending_range = True
            continue
        if character == "\\" and at < len(text):
            character = text[at]
            at += 1
        if pending_range:
            low = ranges[-1][0]
            if character < low:
                raise _invalid(
                    text, at, f"range is out of order: '{character}' comes before '{low}' in Unicode"
                )
            ranges[-1] = (low, character)
            pending_range = False
        else:
            ranges.append((character, character))


def _steps(tokens: tuple[Token, ...], at: int) -> list[tuple[Token, int]]:
    """From a position: each token that may take the next character, and the position after it."""
    steps = []
    while at < len(tokens):
        token = tokens[at]
        if token.flag:
            # Once more of the same, or on to what follows; "+" has had its first on the way through `_after`.
            steps.append((token, at))
            steps.append((token, at + 1))
        else:
            steps.append((token, at + 1))
        if token.flag != "*":
            break
        at += 1
    return steps


def _at_end(tokens: tuple[Token, ...], at: int) -> bool:
    return all(token.flag == "*" for token in tokens[at:])


def globs_match(left: str, right: str) -> Boolean:
    """Whether the two expressions share a non-empty string (or are both empty)."""
    first, second = tokenize(left), tokenize(right)
    if not first and not second:
        return boolean(True)
    seen = {(0, 0)}
    waiting = [(0, 0)]
    while waiting:
        here, there = waiting.pop()
        for token, after in _steps(first, here):
            for other, other_after in _steps(second, there):
                if not token.meets(other):
                    continue
                if _at_end(first, after) and _at_end(second, other_after):
                    return boolean(True)
                if (after, other_after) not in seen:
                    seen.add((after, other_after))
                    waiting.append((after, other_after))
    return boolean(False)


FUNCTIONS = {"regex.globs_match": globs_match}
