"""Unification, taken apart while compiling.

Every pair of sides becomes a comparison, a match of a value against a pattern, or an iteration, in an order
in which each finds its variables bound.
"""

from __future__ import annotations

from collections.abc import Callable

from policies.language.concrete.errors import RefusedError
from policies.language.concrete.patterns import (
    PatternCompiler,
    SingleTest,
    Test,
    in_a_row,
    matching,
    variables,
)
from policies.language.concrete.terms import Frame, Step
from policies.language.source import Span
from policies.language.syntax import ast
from policies.language.values import Value


class UnificationCompiler(PatternCompiler):
    """Adds `=`."""

    def iterates(self, term: ast.Term, bound: frozenset[str]) -> bool:
        return isinstance(term, ast.Ref) and not variables(term) <= bound

    def unify(
        self,
        pairs: list[tuple[ast.Term, ast.Term]],
        bound: frozenset[str],
        rest: Callable[[frozenset[str]], Step],
        span: Span,
    ) -> SingleTest | Step:
        """The pairs in an order in which each can be decided, then the rest of the body."""
        pairs = [simple for pair in pairs for simple in taken_apart(*pair)]
        tests: list[Test] = []
        start = bound
        while pairs:
            chosen = self._choose(pairs, bound)
            if chosen is None:
                raise RefusedError("unification", "neither side is bound when it is reached", span)
            left, right = pairs.pop(chosen)
            if isinstance(left, ast.Ref) and self.iterates(left, bound):
                remaining, now = pairs, bound

                def go_on(known: frozenset[str]) -> Step:
                    if not remaining:  # noqa: B023 - both are read before the loop moves on
                        return rest(known)
                    step = self.unify(remaining, known, rest, span)  # noqa: B023
                    return (
                        in_a_row([step.test], rest(known | step.binds))
                        if isinstance(step, SingleTest)
                        else step
                    )

                return in_a_row(tests, self._iterate_pair(left, right, now, go_on, span))
            value_of = self.term(left, bound)
            match, bound = self.pattern(right, bound)
            tests.append(matching(value_of, match))
        binds = bound - start
        if len(tests) == 1:
            return SingleTest(tests[0], binds)
        return SingleTest(lambda frame: all(test(frame) for test in tests), binds)

    def _choose(self, pairs: list[tuple[ast.Term, ast.Term]], bound: frozenset[str]) -> int | None:
        """A pair that can be decided now, cheapest first; the side with the value is moved to the left."""
        for at, (left, right) in enumerate(pairs):
            for value, pattern in ((left, right), (right, left)):
                if variables(value) <= bound and not self.iterates(pattern, bound):
                    pairs[at] = (value, pattern)
                    return at
        for at, (left, right) in enumerate(pairs):
            for value, pattern in ((left, right), (right, left)):
                if self.iterates(value, bound) and self._head_is_bound(value, bound):
                    pairs[at] = (value, pattern)
                    return at
        return None

    def _head_is_bound(self, term: ast.Term, bound: frozenset[str]) -> bool:
        return isinstance(term, ast.Ref) and variables(term.head) <= bound

    def _iterate_pair(
        self,
        ref: ast.Ref,
        other: ast.Term,
        bound: frozenset[str],
        rest: Callable[[frozenset[str]], Step],
        span: Span,
    ) -> Step:
        after_ref = bound | variables(ref)
        if isinstance(other, ast.Ref) and self.iterates(other, after_ref):
            # Both sides iterate: keep the left value, go through the right side, compare.
            slot = self.temporary()
            after = rest(after_ref | variables(other))
            inner = self.iterate(other, after_ref, lambda frame, value: frame[slot] == value and after(frame))

            def keep(frame: Frame, value: Value) -> bool:
                frame[slot] = value
                return inner(frame)

            return self.iterate(ref, bound, keep)
        match, known = self.pattern(other, after_ref)
        after_match = rest(known)
        return self.iterate(ref, bound, lambda frame, value: match(frame, value) and after_match(frame))


def taken_apart(left: ast.Term, right: ast.Term) -> list[tuple[ast.Term, ast.Term]]:
    """Two literals of the same form as pairs of their parts, else the pair itself."""
    if isinstance(left, ast.Array) and isinstance(right, ast.Array) and len(left.items) == len(right.items):
        return [pair for sides in zip(left.items, right.items, strict=True) for pair in taken_apart(*sides)]
    if isinstance(left, ast.Object) and isinstance(right, ast.Object):
        ours = {key: item for key, item in left.entries if isinstance(key, ast.String)}
        theirs = {key: item for key, item in right.entries if isinstance(key, ast.String)}
        constant = len(ours) == len(left.entries) and len(theirs) == len(right.entries)
        if constant and ours.keys() == theirs.keys():
            return [pair for key in ours for pair in taken_apart(ours[key], theirs[key])]
    return [(left, right)]
