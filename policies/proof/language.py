"""Regular languages over characters, stepped as small automata.

An automaton is a Glushkov construction: one position per character set, states are bit masks of positions.
`shortest` walks several automata at once and finds the shortest word for every combination of accepting ones
that occurs at all. Expressions outside the subset raise UndecidableLanguage: not proved is never proved.
"""

import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from control_plane.core.errors import ResourceExhausted
from policies.proof.regular import Characters, Expression, UndecidableLanguage, parse_expression

MAX_POSITIONS: Final = 3000
MAX_STATES: Final = 60_000
_FRESH: Final = "zqxjkvw0123456789ZQXJ~abcdefghilmnoprstuy-_ABCDEFGHIKLMNOPRSTUVWY.!$'()+,;:@=%\""


class TooManyStates(ResourceExhausted):
    """The automata of one question have more common states than are walked."""


class Language:
    """An automaton; `name` tells equal languages apart from different ones and orders them."""

    __slots__ = ("_accepting", "_follow", "_masks", "_memo", "_others", "alphabet", "name")

    def __init__(self, name: str, expression: Expression) -> None:
        self.name = name
        positions: list[Characters] = []
        follow: dict[int, int] = {}
        nullable, first, last = _glushkov(expression, positions, follow)
        self._follow = [first, *(follow.get(index, 0) for index in range(1, len(positions) + 1))]
        self._accepting = last | int(nullable)
        self.alphabet = frozenset().union(*(one.listed for one in positions)) if positions else frozenset()
        self._masks = {character: _mask(positions, character) for character in self.alphabet}
        self._others = sum(1 << index for index, one in enumerate(positions, 1) if one.negated)
        self._memo: dict[int, int] = {}

    def step(self, state: int, character: str) -> int:
        """The state after one more character; 0 is dead, 1 the start."""
        return self.following(state) & self._masks.get(character, self._others)

    def following(self, state: int) -> int:
        """The positions that may come next, whatever the character."""
        found = self._memo.get(state)
        if found is None:
            found, left = 0, state
            while left:
                lowest = left & -left
                found |= self._follow[lowest.bit_length() - 1]
                left ^= lowest
            self._memo[state] = found
        return found

    def mask(self, character: str) -> int:
        """The positions that take a character; characters with equal masks are never told apart."""
        return self._masks.get(character, self._others)

    def accepts(self, state: int) -> bool:
        """Whether a word that ends here belongs to the language."""
        return bool(state & self._accepting)

    def has(self, word: str) -> bool:
        """Membership of a whole word."""
        state, memo, masks, others = 1, self._memo, self._masks, self._others
        for character in word:
            following = memo.get(state)
            if following is None:
                following = self.following(state)
            state = following & masks.get(character, others)
            if not state:
                return False
        return self.accepts(state)


def _mask(positions: Sequence[Characters], character: str) -> int:
    return sum(1 << index for index, one in enumerate(positions, 1) if one.has(character))


def _glushkov(node: Expression, positions: list[Characters], follow: dict[int, int]) -> tuple[bool, int, int]:
    """Nullable, first and last positions of `node`; fills `positions` and `follow`."""
    if node.kind == "chars":
        positions.append(node.characters)
        if len(positions) > MAX_POSITIONS:
            raise UndecidableLanguage(f"building an automaton: more than {MAX_POSITIONS} positions")
        bit = 1 << len(positions)
        return False, bit, bit
    if node.kind == "star":
        _, first, last = _glushkov(node.parts[0], positions, follow)
        _link(last, first, follow)
        return True, first, last
    if node.kind == "alt":
        found = [_glushkov(part, positions, follow) for part in node.parts]
        nullable = any(one[0] for one in found)
        return nullable, _union(one[1] for one in found), _union(one[2] for one in found)
    nullable, first, last = True, 0, 0
    for part in node.parts:
        part_nullable, part_first, part_last = _glushkov(part, positions, follow)
        _link(last, part_first, follow)
        first |= part_first if nullable else 0
        last = part_last | (last if part_nullable else 0)
        nullable = nullable and part_nullable
    return nullable, first, last


def _union(masks: Iterable[int]) -> int:
    return functools.reduce(int.__or__, masks, 0)


def _link(last: int, first: int, follow: dict[int, int]) -> None:
    while last:
        lowest = last & -last
        index = lowest.bit_length() - 1
        follow[index] = follow.get(index, 0) | first
        last ^= lowest


def fresh_character(used: Iterable[str]) -> str:
    """A printable character that none of the `used` texts holds."""
    taken = set[str]().union(*used)
    for character in _FRESH:
        if character not in taken:
            return character
    return next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in taken)


def shortest(
    domain: Language, languages: Sequence[Language], excluded: frozenset[str]
) -> Mapping[frozenset[int], str]:
    """The shortest word of `domain` for each set of `languages` (by index) that can hold together.

    Words of `excluded` don't count. Ties go to the word first in the walk, which is deterministic.
    Raises TooManyStates where the common automaton is too large.
    """
    every = [domain, *languages]
    alphabet = [
        (character, tuple(one.mask(character) for one in every)) for character in _letters(every, excluded)
    ]
    prefixes = {word[:size] for word in excluded for size in range(len(word) + 1)}
    start = (1, *(1 for _ in languages))
    found: dict[frozenset[int], str] = {}
    seen: set[tuple[tuple[int, ...], str | None]] = {(start, "" if "" in prefixes else None)}
    frontier: list[tuple[tuple[int, ...], str]] = [(start, "")]
    while frontier:
        following: list[tuple[tuple[int, ...], str]] = []
        for states, word in frontier:
            if domain.accepts(states[0]) and word not in excluded:
                holds = frozenset(
                    index for index, one in enumerate(languages) if one.accepts(states[index + 1])
                )
                found.setdefault(holds, word)
            open_to = tuple(one.following(state) for one, state in zip(every, states, strict=True))
            for character, masks in alphabet:
                reached = tuple(map(operator.and_, open_to, masks))
                if not reached[0]:
                    continue
                longer = word + character
                key = (reached, longer if longer in prefixes else None)
                if key not in seen:
                    seen.add(key)
                    following.append((reached, longer))
        if len(seen) > MAX_STATES:
            raise TooManyStates(f"walking {len(languages)} patterns together: more than {MAX_STATES} states")
        frontier = following
    return found


def _letters(languages: Sequence[Language], excluded: frozenset[str]) -> list[str]:
    """One character for each kind that the languages tell apart; those of `excluded` words as well."""
    named = frozenset().union(*excluded)
    every = sorted(
        named.union(*(one.alphabet for one in languages)), key=lambda one: (not one.isalnum(), one)
    )
    kinds: dict[tuple[int, ...], str] = {}
    letters = []
    for character in [*every, fresh_character(every)]:
        kind = tuple(one.mask(character) for one in languages)
        if character in named:
            letters.append(character)
        elif kind not in kinds:
            kinds[kind] = character
            letters.append(character)
    return letters


@functools.lru_cache(maxsize=8192)
def expression_language(expression: str) -> Language:
    """The language of an RE2 expression under full match; raises UndecidableLanguage outside the subset."""
    return Language(f"regex {expression}", parse_expression(expression))
