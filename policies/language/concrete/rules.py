"""The program: all rules of a compiled policy, and the `data` document that they and plain data make
together.

`Program` finds what a reference into `data` means: while compiling as far as its operands are constants,
while running for the rest. Rules win over plain data at the same path; packages are objects of their rules
and of the data beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from policies.language.builtins.registry import BUILTINS
from policies.language.compiler.compiled import CompiledModules, RuleGroup, RuleTree, Shape
from policies.language.concrete.builtin_calls import apply_builtin
from policies.language.concrete.errors import RefusedError
from policies.language.concrete.groups import Contribution, Group, assembled, base_at, stored_at
from policies.language.concrete.patterns import Consume, PatternCompiler, variables
from policies.language.concrete.scan import branches, deterministic, dotted, nodes, parts
from policies.language.concrete.terms import (
    Evaluate,
    Frame,
    Step,
    TermCompiler,
    item_of,
)
from policies.language.concrete.world import UNDEFINED, Mock, Path, Result, World
from policies.language.source import Span
from policies.language.syntax import ast
from policies.language.values import EMPTY_OBJECT, Object, Value, ordered

TreeWalk = Callable[[Frame, RuleTree | None, Result, Path], bool]
"""Goes on from a node of the tree and the plain data beside it."""


class Program:
    """Every rule by path, compiled when it is first needed."""

    def __init__(self, modules: CompiledModules, *, observed: bool = False) -> None:
        self.modules = modules
        self.tree = modules.tree
        self.observed = observed
        self.functions: dict[str, Path] = {
            dotted(path): path for path, group in modules.groups.items() if group.shape is Shape.FUNCTION
        }
        self.mockable: frozenset[str] = frozenset()
        self._groups: dict[Path, Group] = {}
        bodies = [
            term
            for group in modules.groups.values()
            for rule in branches(group.rules)
            for term in parts(rule)
        ]
        bodies += [
            term for group in modules.groups.values() if group.default for term in parts(group.default)
        ]
        self.admit(bodies)

    def admit(self, written: Sequence[ast.Term | ast.Expr]) -> None:
        """Makes sure that everything called is implemented; RefusedError names what is not, and where."""
        calls: list[ast.Call] = []
        targets: set[str] = set()
        replacements: set[str] = set()
        for part in written:
            for node in nodes(part):
                if isinstance(node, ast.Call):
                    calls.append(node)
                elif isinstance(node, ast.With):
                    targets.add(ast.dotted(node.target))
                    if isinstance(node.value, ast.Ref):
                        replacements.add(ast.dotted(node.value))
        mocked = frozenset(name for name in targets if name in self.functions or name in BUILTINS)
        if not mocked <= self.mockable:
            self.mockable |= mocked
            self._groups.clear()  # they were compiled as if nobody replaced these functions
        for call in calls:
            builtin = BUILTINS.get(call.name)
            if builtin is not None and builtin.function is None and call.name not in self.mockable:
                raise RefusedError(call.name, builtin.refusal, call.span)

    def references(self, group: RuleGroup) -> Iterator[tuple[Path | None, bool]]:
        """What the rules of a group read: constant paths of data, or of the input (None, True)."""
        rules = [*branches(group.rules), *([group.default] if group.default is not None else [])]
        for rule in rules:
            for part in parts(rule):
                for node in nodes(part, every=True):
                    if isinstance(node, ast.Var) and node.name == "input":
                        yield None, True
                    elif isinstance(node, ast.Call) and node.name in self.functions:
                        yield self.functions[node.name], False
                    elif isinstance(node, ast.Call) and not deterministic(node.name):
                        yield None, True  # it does not depend on data alone either
                    elif isinstance(node, ast.Ref) and node.head == ast.Var("data"):
                        constant: list[str] = []
                        for operand in node.operands:
                            if not isinstance(operand, ast.String):
                                break
                            constant.append(operand.value)
                        yield tuple(constant), False

    def arity_of(self, call: ast.Call) -> int:
        """How many arguments a call has without an output argument."""
        path = self.functions.get(call.name)
        if path is not None:
            return self.modules.groups[path].arity
        builtin = BUILTINS.get(call.name)
        if builtin is None:
            raise RefusedError(call.name, "no such function", call.span)
        return len(call.arguments) if builtin.signature.variadic else builtin.arity

    def group(self, path: Path) -> Group:
        """The rules at a path."""
        group = self._groups.get(path)
        if group is None:
            group = self._groups[path] = Group(self, self.modules.groups[path])
        return group

    # --- functions ---------------------------------------------------------------------------------

    def function_closure(self, name: str, call: ast.Call, arguments: list[Evaluate]) -> Evaluate:
        """A call of a function of the policy."""
        path = self.functions.get(name)
        if path is None:
            raise RefusedError(name, "no such function", call.span)
        group: Group | None = None

        def evaluate(frame: Frame) -> Result:
            nonlocal group
            operands = tuple([argument(frame) for argument in arguments])
            if UNDEFINED in operands:
                return UNDEFINED
            if group is None:
                group = self.group(path)
            return group.call(frame[0], operands)  # type: ignore[arg-type]

        return evaluate

    def mocked_call(
        self, world: World, name: str, mock: Mock, operands: tuple[Any, ...], span: Span
    ) -> Result:
        """A call of a function that `with` replaced; the replacement sees no replacements itself."""
        if not mock.function:
            return mock.value
        inner = world.without_mocks()
        path = self.functions.get(mock.function)
        if path is not None:
            return self.group(path).call(inner, operands)
        return apply_builtin(BUILTINS[mock.function], inner, operands, span)  # type: ignore[no-any-return]

    # --- the data document -------------------------------------------------------------------------

    def document(self, world: World, node: RuleTree | None, base: Result, path: Path) -> Result:
        """Rules and plain data below a node of the tree."""
        if node is None or (world.hidden and world.hides(path)):
            return base
        group = node.group if node.group is not None and node.group.shape is not Shape.FUNCTION else None
        if group is not None and not node.children:
            return self.group(path).value(world)
        if node.group is not None and group is None and not node.children:
            return base  # functions are no part of the document
        key = ("document", path)
        known = world.cache.get(key)
        if known is None and group is not None:
            # Rules with computed keys beside rules below them: all of them fill one object.
            known = world.cache[key] = assembled(self._contributions(world, node, path, ()))
        elif known is None:
            merged = dict(base) if isinstance(base, Object) else {}
            for name, child in node.children.items():
                below = base.get(name, UNDEFINED) if isinstance(base, Object) else UNDEFINED
                value = self.document(world, child, below, (*path, name))
                both_objects = isinstance(below, Object) and isinstance(value, Object)
                if value is not UNDEFINED and (below is UNDEFINED or both_objects):  # else plain data wins
                    merged[name] = value  # type: ignore[assignment]
            known = Object(merged) if merged else EMPTY_OBJECT
            world.cache[key] = known
        return known

    def _contributions(self, world: World, node: RuleTree, path: Path, keys: Path) -> list[Contribution]:
        """What each rule at a node and below it puts where, seen from the node where `keys` began."""
        found: list[Contribution] = []
        if node.group is not None and node.group.shape is not Shape.FUNCTION:
            found += [
                ((*keys, *at), value, is_set) for at, value, is_set in self.group(path).contributions(world)
            ]
        for name, child in node.children.items():
            if not (world.hidden and world.hides((*path, name))):
                found += self._contributions(world, child, (*path, name), (*keys, name))
        return found

    def lookup(self, world: World, keys: Sequence[Value]) -> Result:
        """What `data` holds at keys known only now."""
        node: RuleTree | None = self.tree
        base: Result = world.data
        path: Path = ()
        for position, key in enumerate(keys):
            if node is None or (world.hidden and world.hides(path)):
                return base_at(base, tuple(keys[position:]))
            if node.group is not None and node.group.shape is not Shape.FUNCTION:
                if not node.children:
                    return self.group(path).lookup(world, list(keys[position:]))
                return base_at(self.document(world, node, base, path), tuple(keys[position:]))
            base = stored_at(base, key) if base is not UNDEFINED else UNDEFINED
            node = node.children.get(key) if isinstance(key, str) else None
            path = (*path, key) if isinstance(key, str) else path
        return self.document(world, node, base, path)

    def document_closure(self, path: Path) -> Evaluate:
        """The whole document at a constant path."""
        return lambda frame: self.lookup(frame[0], path)

    def data_reference(
        self, compiler: TermCompiler, operands: tuple[ast.Term, ...], bound: frozenset[str]
    ) -> Evaluate:
        """A reference into `data` without unbound variables."""
        path, node = self._constant_prefix(operands)
        rest = [compiler.term(operand, bound) for operand in operands[len(path) :]]
        if node is None:
            return self._plain_reference(compiler, operands, bound)
        if node.group is not None and node.group.shape is not Shape.FUNCTION and not node.children:
            return self._rule_reference(path, rest)

        def evaluate(frame: Frame) -> Result:
            keys = [key(frame) for key in rest]
            return UNDEFINED if UNDEFINED in keys else self.lookup(frame[0], (*path, *keys))  # type: ignore[arg-type]

        return evaluate

    def _constant_prefix(self, operands: tuple[ast.Term, ...]) -> tuple[Path, RuleTree | None]:
        """How far constants lead into the tree of rules: up to a rule, out of the tree (None), or to a
        variable.
        """
        node: RuleTree | None = self.tree
        path: Path = ()
        for operand in operands:
            if node is None or (node.group is not None and node.group.shape is not Shape.FUNCTION):
                break
            if not isinstance(operand, ast.String):
                break
            node = node.children.get(operand.value)
            path = (*path, operand.value)
        return path, node

    def _plain_reference(
        self, compiler: TermCompiler, operands: tuple[ast.Term, ...], bound: frozenset[str]
    ) -> Evaluate:
        keys = [compiler.term(operand, bound) for operand in operands]

        def evaluate(frame: Frame) -> Result:
            value: Result = frame[0].data
            for key in keys:
                operand = key(frame)
                if operand is UNDEFINED:
                    return UNDEFINED
                value = stored_at(value, operand)  # type: ignore[arg-type]
                if value is UNDEFINED:
                    return UNDEFINED
            return value

        return evaluate

    def _rule_reference(self, path: Path, rest: list[Evaluate]) -> Evaluate:
        group: Group | None = None

        def evaluate(frame: Frame) -> Result:
            nonlocal group
            if group is None:
                group = self.group(path)
            return group.value(frame[0])

        def evaluate_below(frame: Frame) -> Result:
            nonlocal group
            keys = [key(frame) for key in rest]
            if UNDEFINED in keys:
                return UNDEFINED
            if group is None:
                group = self.group(path)
            return group.lookup(frame[0], keys)  # type: ignore[arg-type]

        return evaluate_below if rest else evaluate

    # --- iteration over data -----------------------------------------------------------------------

    def data_iteration(
        self,
        compiler: PatternCompiler,
        operands: tuple[ast.Term, ...],
        bound: frozenset[str],
        consume: Consume,
    ) -> Step:
        """Every value of a reference into `data` with unbound operands."""
        path, node = self._constant_prefix(operands)
        if node is None or (
            node.group is not None and node.group.shape is not Shape.FUNCTION and not node.children
        ):
            start = len(path)
            while variables(operands[start]) <= bound:
                start += 1
            value_of = self.data_reference(compiler, operands[:start], bound)
            walk = compiler.walk(operands[start:], bound, consume)

            def step(frame: Frame) -> bool:
                value = value_of(frame)
                return value is not UNDEFINED and walk(frame, value)  # type: ignore[arg-type]

            return step
        walk_tree = self._tree_walk(compiler, operands[len(path) :], bound, consume)

        def from_tree(frame: Frame) -> bool:
            return walk_tree(frame, node, base_at(frame[0].data, path), path)

        return from_tree

    def _tree_walk(
        self,
        compiler: PatternCompiler,
        operands: tuple[ast.Term, ...],
        bound: frozenset[str],
        consume: Consume,
    ) -> TreeWalk:
        """As `BodyCompiler.walk`, while operands still lead through packages."""
        if not operands:

            def at_end(frame: Frame, node: RuleTree | None, base: Result, path: Path) -> bool:
                value = self.document(frame[0], node, base, path)
                return value is not UNDEFINED and consume(frame, value)  # type: ignore[arg-type]

            return at_end
        outside = compiler.walk(operands, bound, consume)
        match, known = compiler.pattern(operands[0], bound)
        onward = self._tree_walk(compiler, operands[1:], known, consume)
        key_of = compiler.term(operands[0], bound) if known == bound else None

        def walk(frame: Frame, node: RuleTree | None, base: Result, path: Path) -> bool:
            world: World = frame[0]
            if (
                node is None
                or (node.group is not None and node.group.shape is not Shape.FUNCTION)
                or (world.hidden and world.hides(path))
            ):
                value = self.document(world, node, base, path)
                return value is not UNDEFINED and outside(frame, value)  # type: ignore[arg-type]
            if key_of is not None:
                key = key_of(frame)
                keys: list[Value] = [] if key is UNDEFINED else [key]  # type: ignore[list-item]
            else:
                keys = list(node.children)
                if isinstance(base, Object):
                    keys += [key for key in base if key not in node.children]
                keys = ordered(keys)
            run = world.run
            for key in keys:
                run.steps -= 1
                if run.steps < 0:
                    raise run.exhausted()
                if not match(frame, key):
                    continue
                child = node.children.get(key) if isinstance(key, str) else None
                below = item_of(base, key) if base is not UNDEFINED else UNDEFINED
                if child is None and below is UNDEFINED:
                    continue
                if onward(frame, child, below, (*path, key) if isinstance(key, str) else path):
                    return True
            return False

        return walk
