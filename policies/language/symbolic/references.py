"""References: walking `input`, `data` and other values step by step, iterating where a step is unbound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from policies import formula as f
from policies.formula import FALSE, TRUE, Domain, Formula
from policies.language.compiler.compiled import RuleTree, Shape
from policies.language.source import NOWHERE, Span
from policies.language.symbolic.input import attribute_at
from policies.language.symbolic.machine import Environment, Machine, Scope, span_of
from policies.language.symbolic.memory import KNOWN, DataRead, lookup_path
from policies.language.symbolic.parts import without_implied
from policies.language.symbolic.relations import defined, equal
from policies.language.symbolic.values import (
    UNKNOWN,
    Choices,
    Derived,
    Node,
    Outcome,
    Replaced,
    Sequence,
    Symbolic,
    Unknown,
    changed,
    is_known,
    text_of,
)
from policies.language.syntax import ast
from policies.language.values import EMPTY_OBJECT, Object, Set, Value, members

Row = tuple[Environment, Formula, Symbolic]


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the tree of packages and data that is stepped through and is no value itself."""

    path: tuple[str, ...]


class References(Machine):
    """How a reference is followed."""

    __slots__ = ()

    def reference(self, reference: ast.Ref, environment: Environment, scope: Scope) -> Iterator[Row]:
        """Every value of a reference, with what its unbound variables are then."""
        head = reference.head
        name = head.name if isinstance(head, ast.Var) and head.name not in environment else ""
        starts: list[tuple[Formula, Symbolic | Place]]
        if name == "input":
            starts = [*_replaced((), scope.inputs)] or [(TRUE, Node((), scope.inputs))]
        elif name == "data":
            starts = [(TRUE, Place(()))]
        else:
            starts = list(self.term(head, environment, scope))
        for guard, start in starts:
            yield from self._walk(reference, 0, start, environment, guard, scope)

    def _walk(
        self,
        reference: ast.Ref,
        index: int,
        current: Symbolic | Place,
        environment: Environment,
        guard: Formula,
        scope: Scope,
    ) -> Iterator[Row]:
        if guard is FALSE:
            return
        self.count_step(reference.span)
        if isinstance(current, Place):
            entered = self._enter(current.path, scope, lambda: self._ahead(reference, index, environment))
            if entered is not None:
                for condition, value in entered:
                    yield from self._walk(reference, index, value, environment, guard & condition, scope)
                return
        if index == len(reference.operands):
            if isinstance(current, Place):
                current = self._document(current, reference.span)
            condition = self._exists(current, reference.span) if isinstance(current, Node) else TRUE
            attribute = attribute_at(current.path) if isinstance(current, Node) else None
            joined = without_implied(guard & condition, self.memory.parts)
            yield environment, joined, Unknown(attribute) if attribute else current
            return
        operand = reference.operands[index]
        if isinstance(operand, ast.Var) and operand.name not in environment:
            for condition, key, below in self._below(current, scope, span_of(operand)):
                bound = {**environment, operand.name: key}
                yield from self._walk(reference, index + 1, below, bound, guard & condition, scope)
            return
        for condition, key in self.term(operand, environment, scope):
            for selected, below in self._select(current, key, scope, span_of(operand)):
                joined = guard & condition & selected
                yield from self._walk(reference, index + 1, below, environment, joined, scope)

    # --- one step --------------------------------------------------------------------------------------

    def _select(
        self, current: Symbolic | Place, key: Symbolic, scope: Scope, span: Span
    ) -> list[tuple[Formula, Symbolic | Place]]:
        """What stands at `key` of a value."""
        if isinstance(current, Place):
            return self._select_place(current, key, scope, span)
        if isinstance(current, Node):
            return list(self._select_input(current, key, span))
        if isinstance(current, Unknown) and current.attribute.domain is not Domain.CLAIM:
            return []  # a text, number or flag has no members
        if isinstance(current, Unknown | Derived):
            inside = Derived("element", (current, key))
            return [(defined(inside, self.site(span)), inside)]
        if isinstance(current, Object) and _finds_text(current, key):
            raise self.refusal(
                span,
                "a number is looked up among texts, which OPA's store finds and other values don't",
                'write the key as a text: m["8080"], or m[format_int(port, 10)]',
            )
        if isinstance(current, tuple) and _finds_position(key):
            raise self.refusal(
                span,
                "an array is read at a text, which OPA's store takes for a number and other values don't",
                "write the position as a number: m[to_number(text)]",
            )
        if is_known(current) and is_known(key):
            found = _member(current, key)  # type: ignore[arg-type]  # both were just seen to be plain
            return [(TRUE, value) for value in found]
        return [
            (joined, value)
            for guard, own, value in self.elements(current, span)
            if (joined := guard & equal(own, key, self.site(span))) is not FALSE
        ]

    def elements(self, current: Symbolic, span: Span) -> list[tuple[Formula, Symbolic, Symbolic]]:
        """Guard, key and value of each member of a collection; a scalar has none."""
        if isinstance(current, Choices):
            return list(current.members)
        if isinstance(current, Sequence):
            return [(TRUE, index, item) for index, item in enumerate(current.items)]
        if isinstance(current, Unknown) and current.attribute.domain is not Domain.CLAIM:
            return []
        if isinstance(current, Unknown | Derived | Node):
            raise self.refusal(
                span,
                "this iterates over a part of the request, whose members aren't known yet",
                'name the member you want, or ask `"x" in …` of a claim',
            )
        return [(TRUE, key, value) for key, value in members(current)]

    def _below(
        self, current: Symbolic | Place, scope: Scope, span: Span
    ) -> list[tuple[Formula, Symbolic, Symbolic | Place]]:
        if not isinstance(current, Place):
            return list(self.elements(current, span))
        names: dict[str, None] = dict.fromkeys(self._children(current.path))
        base = self.read_data(current.path)
        if isinstance(base, Object):
            names.update(dict.fromkeys(key for key in base if isinstance(key, str)))
        depth = len(current.path)
        names.update(
            (place[depth], None) for place, _ in scope.data if place[:depth] == current.path != place
        )
        return [(TRUE, name, Place((*current.path, name))) for name in sorted(names)]

    # --- input -----------------------------------------------------------------------------------------

    def _exists(self, node: Node, span: Span) -> Formula:
        """Where a part of the input is there: an attribute is present, or an inner part not missing."""
        attribute = attribute_at(node.path)
        if attribute is not None:
            return f.present(attribute)
        if self.input.has(node) or any(place[: len(node.path)] == node.path for place, _ in node.replaced):
            self.reads.add(KNOWN)
            return TRUE
        self.reads.add(KNOWN)
        reason = f"{text_of(Node(node.path))} as a whole may be missing: ask for what is in it"
        asked = self.site(span).opaque("defined", (node,), reason)
        self.memory.parts[asked] = node.path
        return asked

    def _select_input(self, node: Node, key: Symbolic, span: Span) -> list[Outcome]:
        if not isinstance(key, str):
            if is_known(key):
                return []  # every key of the input is a text
            raise self.refusal(
                span,
                "the input is indexed by a value of the request",
                "compare the values in question one by one",
            )
        replaced = _replaced((*node.path, key), node.replaced)
        if replaced:
            return replaced
        found = self.input.step(node, key)
        if (*node.path, key) in self.input.elsewhere:
            self.reads.add(KNOWN)
        for value in found:
            if not isinstance(value, UNKNOWN):
                self.reads.add(KNOWN)
                return [(TRUE, self._with_changes(value, (*node.path, key), node.replaced, span))]
        if not found:
            self.reads.add(KNOWN)  # absent because this input is known to lack it
        return [(TRUE, value) for value in found]

    def _with_changes(self, value: Value, path: tuple[str, ...], replaced: Replaced, span: Span) -> Value:
        """A known value at a path with what `with` put below it."""
        for place, put in replaced:
            if place[: len(path)] == path:
                if isinstance(put, UNKNOWN):
                    raise self.refusal(
                        span, "`with` puts an unknown value into a known one", "replace the whole value"
                    )
                value = changed(value, place[len(path) :], put)
        return value

    # --- data ------------------------------------------------------------------------------------------

    def _select_place(
        self, place: Place, key: Symbolic, scope: Scope, span: Span
    ) -> list[tuple[Formula, Symbolic | Place]]:
        if isinstance(key, str):
            return [(TRUE, Place((*place.path, key)))]
        if is_known(key):
            base = self.read_data(place.path)
            return [(TRUE, value) for value in _member(base, key)] if base is not None else []  # type: ignore[arg-type]
        return [
            (joined, value)
            for _, name, value in self._below(place, scope, span)
            if (joined := equal(name, key, self.site(span))) is not FALSE
        ]

    def _enter(
        self, path: tuple[str, ...], scope: Scope, ahead: Callable[[], tuple[str, ...]]
    ) -> list[Outcome] | None:
        """The value at a place of `data`; None where the place is only on the way to rules below it.

        `ahead` are the known steps that follow: what is read of base data is what stands there.
        """
        for place, value in reversed(scope.data):
            if place == path:
                return [(TRUE, value)]
        node = self.modules.tree.at(path)
        if node is not None and node.group is not None and node.group.shape is not Shape.FUNCTION:
            return self.group(node.group, scope)
        below = [put for place, put in scope.data if place[: len(path)] == path]
        if node is not None or any(isinstance(put, UNKNOWN) for put in below):
            return None
        self.reads.add(DataRead((*path, *ahead())))
        base = lookup_path(self.memory.data, path) or ((EMPTY_OBJECT,) if below else ())
        return [(TRUE, self._with_changes(value, path, scope.data, NOWHERE)) for value in base]

    def _ahead(self, reference: ast.Ref, index: int, environment: Environment) -> tuple[str, ...]:
        """The steps of a reference from `index` on, as far as they are known texts."""
        found: list[str] = []
        for operand in reference.operands[index:]:
            value: object = operand.value if isinstance(operand, ast.String) else None
            if isinstance(operand, ast.Var):
                value = environment.get(operand.name)
            if not isinstance(value, str):
                break
            found.append(value)
        return tuple(found)

    def _document(self, place: Place, span: Span) -> Symbolic:
        node = self.modules.tree.at(place.path)
        if node is not None and not _has_rules(node):
            base = self.read_data(place.path)
            if base is not None:
                return base
        name = ".".join(("data", *place.path))
        raise self.refusal(span, f"{name} is a whole package, not a value", "name one of its rules")

    def _children(self, path: tuple[str, ...]) -> tuple[str, ...]:
        node = self.modules.tree.at(path)
        return tuple(node.children) if node is not None else ()


def _replaced(path: tuple[str, ...], by: Replaced) -> list[Outcome]:
    """What `with` put at a path below `input`; nothing where nothing was put."""
    return next(([(TRUE, value)] for place, value in reversed(by) if place == path), [])


def _has_rules(node: RuleTree) -> bool:
    return node.group is not None or any(_has_rules(child) for child in node.children.values())


def _finds_text(collection: Object, key: Symbolic) -> bool:
    """Whether a key that is no text, or may be none, meets keys that are texts of numbers."""
    if isinstance(key, int):
        return key not in collection and str(key) in collection
    if not isinstance(key, Unknown) or key.attribute.domain is not Domain.NUMBER:
        return False
    return any(isinstance(name, str) and name.isdecimal() for name in collection)


def _finds_position(key: Symbolic) -> bool:
    """Whether a key is a text that spells a number, or may be one."""
    if isinstance(key, str):
        return key.isdecimal()
    return isinstance(key, Unknown) and key.attribute.domain is not Domain.NUMBER


def _member(collection: Value, key: Value) -> tuple[Value, ...]:
    if isinstance(collection, Object):
        return (collection[key],) if key in collection else ()
    if isinstance(collection, Set):
        return (key,) if key in collection else ()
    if isinstance(collection, tuple) and isinstance(key, int):
        return (collection[key],) if 0 <= key < len(collection) else ()
    return ()
