"""What the rules at one path make: a value, a set, an object with computed keys, a function.

A group is compiled when it is first asked for, and its value is worked out once per world. Two values
where there may be one are a `ConflictError`; in objects with computed keys it is raised only when that
place is looked at, so that a lookup of another key is not disturbed (as in OPA, which evaluates just
the key that is asked for).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from policies.language.compiler.compiled import CompiledRule, RuleGroup, Shape
from policies.language.concrete.bodies import BodyCompiler
from policies.language.concrete.errors import ConflictError
from policies.language.concrete.patterns import IteratedRules, Match
from policies.language.concrete.terms import Evaluate, Frame, Step, item_of
from policies.language.concrete.world import UNDEFINED, Path, Result, World
from policies.language.syntax import ast
from policies.language.values import Object, Set, Value

Contribution = tuple[tuple[Value, ...], Value, bool]
"""Keys below a path, the value there, and whether it is (a part of) a set."""
Branch = Callable[[World, tuple[Value, ...]], Result]


_POSITION = re.compile("[+-]?[0-9]{1,18}")


def base_at(document: Result, path: tuple[Value, ...]) -> Result:
    """What plain data holds at a path."""
    for key in path:
        if document is UNDEFINED:
            return UNDEFINED
        document = stored_at(document, key)
    return document


def stored_at(document: Result, key: Value) -> Result:
    """What stored data holds at a key: a number finds what stands under its text, as in OPA's store, and a
    text the position that it spells."""
    found = item_of(document, key)
    if found is not UNDEFINED:
        return found
    if type(key) is int and type(document) is Object:
        return document.get(str(key), UNDEFINED)
    if type(key) is str and type(document) is tuple and _POSITION.fullmatch(key):
        return item_of(document, int(key))
    return UNDEFINED


class Group:
    """The rules of one path, ready to run."""

    def __init__(self, program: IteratedRules, group: RuleGroup) -> None:
        self.program = program
        self.path: Path = group.path
        self.span = group.rules[0].span if group.rules else group.default.span if group.default else None
        self.is_function = group.shape is Shape.FUNCTION
        self.is_partial = group.shape is Shape.SET or any(rule.keys for rule in group.rules)
        self._is_set = group.shape is Shape.SET
        self._keyed = any(rule.keys for rule in group.rules)
        if self.is_partial:
            self._collectors = [self._collector(rule) for rule in group.rules]
        else:
            self._branches = [self._branch(rule) for rule in group.rules]
            self._default = self._branch(group.default) if group.default is not None else None
            self._same = self._one_constant(group)

    def _one_constant(self, group: RuleGroup) -> bool:
        """Whether every rule gives the same constant: then the first that holds decides."""
        compiler = BodyCompiler(self.program)
        found: list[Result] = []
        for rule in group.rules:
            branch: CompiledRule | None = rule
            while branch is not None:
                value = compiler.constant(branch.value) if branch.value is not None else UNDEFINED
                if value is UNDEFINED:
                    return False
                found.append(value)
                branch = branch.otherwise
        return all(value == found[0] for value in found)

    # --- complete rules and functions ---------------------------------------------------------------

    def value(self, world: World) -> Result:
        """The document that the rules make; UNDEFINED when none holds."""
        if world.hidden and world.hides(self.path):
            return base_at(world.data, self.path)
        known = world.cache.get(self.path)
        if known is None:
            known = self._partial(world) if self.is_partial else self._complete(world, ())
            world.cache[self.path] = known if known is not None else _NULL
            return self._checked(known)
        return None if known is _NULL else self._checked(known)

    def call(self, world: World, operands: tuple[Value, ...]) -> Result:
        """The function's result for operands, remembered for equal ones."""
        if not world.run.is_light(operands):
            return self._complete(world, operands)
        key = (self.path, operands)
        known = world.cache.get(key)
        if known is None:
            known = self._complete(world, operands)
            world.cache[key] = known if known is not None else _NULL
            return known
        return None if known is _NULL else known

    def _complete(self, world: World, operands: tuple[Value, ...]) -> Result:
        run = world.run
        run.steps -= 1
        if run.steps < 0:
            raise run.exhausted()
        result: Result = UNDEFINED
        for branch in self._branches:
            value = branch(world, operands)
            if value is UNDEFINED:
                continue
            if result is UNDEFINED:
                result = value
                if self._same:
                    break
            elif result != value:
                raise self._conflict()
        if result is UNDEFINED and self._default is not None:
            return self._default(world, operands)
        return result

    def _conflict(self) -> ConflictError:
        name = "data." + ".".join(self.path)
        if self.is_function:
            return ConflictError(
                f"functions must not produce multiple outputs for same inputs: {name}", *self._at()
            )
        return ConflictError(f"complete rules must not produce multiple outputs: {name}", *self._at())

    def _at(self) -> tuple[Any, ...]:
        return () if self.span is None else (self.span,)

    def _branch(self, rule: CompiledRule) -> Branch:
        compiler = BodyCompiler(self.program)
        matches: list[Match] = []
        bound: frozenset[str] = frozenset()
        for argument in rule.arguments:
            match, bound = compiler.pattern(argument, bound)
            matches.append(match)
        result = compiler.temporary()
        term = rule.value if rule.value is not None else ast.Boolean(True)
        constant = compiler.constant(term) is not UNDEFINED

        def final(known: frozenset[str]) -> Step:
            value_of = compiler.term(term, known)

            def found(frame: Frame) -> bool:
                value = value_of(frame)
                if value is UNDEFINED:
                    return False
                if frame[result] is UNDEFINED:
                    frame[result] = value
                    return constant
                if frame[result] != value:
                    raise self._conflict()
                return False

            return found

        step = compiler.body_then(rule.body, bound, final)
        otherwise = self._branch(rule.otherwise) if rule.otherwise is not None else None
        empty = [UNDEFINED] * compiler.size
        observed = self.program.observed

        def run(world: World, operands: tuple[Value, ...]) -> Result:
            frame: Frame = empty.copy()
            frame[0] = world
            for match, operand in zip(matches, operands, strict=True):
                if not match(frame, operand):
                    break
            else:
                step(frame)
            value: Result = frame[result]
            if value is UNDEFINED:
                return otherwise(world, operands) if otherwise is not None else UNDEFINED
            if observed:
                _tell(world, rule, value)
            return value

        return run

    # --- sets and objects with computed keys --------------------------------------------------------

    def lookup(self, world: World, keys: list[Value]) -> Result:
        """The value below the document at keys, without asking for the rest of it."""
        if not self.is_partial or (world.hidden and world.hides(self.path)):
            return base_at(self.value(world), tuple(keys))
        known = world.cache.get(self.path)
        if known is None:
            known = world.cache[self.path] = self._partial(world)
        if isinstance(known, _Torn):
            known.check(tuple(keys))
            known = known.document
        return base_at(known, tuple(keys))

    def _checked(self, known: Any) -> Result:
        if isinstance(known, _Torn):
            raise known.error
        return known  # type: ignore[no-any-return]

    def _partial(self, world: World) -> Any:
        run = world.run
        run.steps -= 1
        if run.steps < 0:
            raise run.exhausted()
        found = self._found(world)
        if self._is_set:
            return run.weighed(self._as_sets(found))
        made = self._as_objects(found)
        run.weighed(made.document if isinstance(made, _Torn) else made)
        return made

    def _found(self, world: World) -> list[tuple[tuple[Value, ...], Value]]:
        found: list[tuple[tuple[Value, ...], Value]] = []
        for collect in self._collectors:
            collect(world, found)
        return found

    def contributions(self, world: World) -> list[Contribution]:
        """Where below the path the rules put what, before it is put together."""
        if not self.is_partial:
            value = self.value(world)
            return [] if value is UNDEFINED else [((), value, False)]  # type: ignore[list-item]
        if not self._is_set:
            return [(keys, value, False) for keys, value in self._found(world)]
        found = self._found(world)
        if not found and not self._keyed:
            return [((), Set(), True)]
        return [(keys, Set((value,)), True) for keys, value in found]

    def _as_sets(self, found: list[tuple[tuple[Value, ...], Value]]) -> Any:
        if not self._keyed:
            return Set([member for _, member in found])
        tree: dict[Value, Any] = {}
        for keys, member in found:
            node = tree
            for key in keys[:-1]:
                node = node.setdefault(key, {})
            node.setdefault(keys[-1], set()).add(member)
        return _frozen(tree)

    def _as_objects(self, found: list[tuple[tuple[Value, ...], Value]]) -> Any:
        tree: dict[Value, Any] = {}
        torn: list[tuple[Value, ...]] = []
        for keys, value in found:
            if not _inserted(tree, keys, value):
                torn.append(keys)
        document = _frozen(tree)
        if torn:
            assert isinstance(document, Object)  # a tree of several places is one
            return _Torn(document, torn, ConflictError("object keys must be unique", *self._at()))
        return document

    def _collector(
        self, rule: CompiledRule
    ) -> Callable[[World, list[tuple[tuple[Value, ...], Value]]], None]:
        compiler = BodyCompiler(self.program)
        slot = compiler.temporary()
        last = rule.member if self._is_set else rule.value
        term: ast.Term = last if last is not None else ast.Boolean(True)
        observed = self.program.observed

        def final(known: frozenset[str]) -> Step:
            keys_of: list[Evaluate] = [compiler.term(key, known) for key in rule.keys]
            value_of = compiler.term(term, known)

            def collect(frame: Frame) -> bool:
                keys = tuple([key(frame) for key in keys_of])
                value = value_of(frame)
                if value is UNDEFINED or UNDEFINED in keys:
                    return False
                run = frame[0].run
                run.steps -= 1
                if run.steps < 0:
                    raise run.exhausted()
                frame[slot].append((keys, value))
                if observed:
                    _tell(frame[0], rule, value)
                return False

            return collect

        step = compiler.body_then(rule.body, frozenset(), final)
        empty = [UNDEFINED] * compiler.size

        def run(world: World, found: list[tuple[tuple[Value, ...], Value]]) -> None:
            frame: Frame = empty.copy()
            frame[0] = world
            frame[slot] = found
            step(frame)

        return run


_NULL = object()
"""Stands for a null result in the cache, where None means unknown."""


class _Torn:
    """An object in which some places have two values."""

    __slots__ = ("document", "error", "places")

    def __init__(self, document: Object, places: list[tuple[Value, ...]], error: ConflictError) -> None:
        self.document, self.places, self.error = document, places, error

    def check(self, keys: tuple[Value, ...]) -> None:
        """Raises when the keys lead to or past a place with two values."""
        for place in self.places:
            shared = min(len(place), len(keys))
            if place[:shared] == keys[:shared]:
                raise self.error


def _tell(world: World, rule: CompiledRule, value: Any) -> None:
    observer = world.run.observer
    if observer is not None and observer.on_rule is not None:
        observer.on_rule(rule, value)


def _inserted(tree: dict[Value, Any], keys: tuple[Value, ...], value: Value) -> bool:
    """Puts a value into nested dicts; False when another one is there already."""
    node = tree
    for key in keys[:-1]:
        below = node.setdefault(key, {})
        if not isinstance(below, dict) or isinstance(below, Object):
            return False
        node = below
    present = node.setdefault(keys[-1], value)
    return present is value or (not _is_branch(present) and present == value)


def _is_branch(node: Any) -> bool:
    return isinstance(node, dict) and not isinstance(node, Object)


def _frozen(node: Any) -> Value:
    if _is_branch(node):
        return Object({key: _frozen(item) for key, item in node.items()})
    if isinstance(node, set):
        return Set(node)
    return node  # type: ignore[no-any-return]


def assembled(contributions: list[Contribution]) -> Value:
    """One document of what several groups contribute; ConflictError where two disagree."""
    tree: dict[Value, Any] = {}
    for keys, value, is_set in contributions:
        if not keys:
            continue
        if not is_set:
            if not _inserted(tree, keys, value):
                raise ConflictError("object keys must be unique")
            continue
        node: Any = tree
        for key in keys[:-1]:
            node = node.setdefault(key, {}) if _is_branch(node) else None
        members = node.setdefault(keys[-1], set()) if _is_branch(node) else None
        if type(members) is not set:
            raise ConflictError("object keys must be unique")
        members.update(value)  # type: ignore[arg-type] # a set's contribution is a set
    return _frozen(tree)
