"""Turns the rules of a policy into tests of the input, as far as they are inside the fragment.

What does not depend on the input is worked out by the evaluator; see `closure` for what the fragment is and
what happens outside of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from policies.language.builtins.registry import BUILTINS
from policies.language.closures.calls import called
from policies.language.closures.conditions import (
    FAILS,
    HOLDS,
    MISSING,
    Known,
    Test,
    Unknown,
    all_of,
    any_of,
    compared,
    defined,
    lookup_table,
    negated,
    path_reader,
)
from policies.language.compiler.compiled import CompiledModules, CompiledRule, RuleGroup, Shape
from policies.language.concrete.evaluate import UNDEFINED, Evaluator
from policies.language.concrete.patterns import variables
from policies.language.concrete.terms import TermCompiler, item_of
from policies.language.concrete.world import Path
from policies.language.source import Span
from policies.language.syntax import ast
from policies.language.values import FALSE, TRUE, Object, Set, Value, members

MAX_CASES = 20_000
"""Most cases that known data may be expanded into, over the whole policy."""
MAX_INLINED = 64
"""Deepest nesting of rules and functions put into one another."""

Term = Known | Unknown
Environment = Mapping[str, Term]


_WHOLE = re.compile("0|[1-9][0-9]{0,17}")


class OutsideError(Exception):
    """The policy is outside the fragment; the text says why."""


class Specialiser:
    """Turns rules into tests of the input."""

    def __init__(self, modules: CompiledModules, evaluator: Evaluator, data: Value) -> None:
        self._modules = modules
        self._evaluator = evaluator
        self._stored: set[str] = set()  # names of cases that are parts of stored data
        self._known_data = data
        self._cases = 0
        self._depends: dict[Path, bool] = {}
        self._documents: dict[Path, Test] = {}
        self._depth = 0
        self._constants = TermCompiler(evaluator.program)
        self._fresh = 0

    # --- documents ---------------------------------------------------------------------------------

    def document(self, path: Path) -> Test:
        """Whether the complete rules at a path give true."""
        known = self._documents.get(path)
        if known is not None:
            return known
        group = self._modules.groups.get(path)
        if group is None or group.shape is not Shape.VALUE or any(rule.keys for rule in group.rules):
            raise OutsideError(f"data.{'.'.join(path)} is no complete rule")
        if not self._depends_on_input(path):
            test: Test = HOLDS if self._known_document(path) == Known(TRUE) else FAILS
        else:
            self._check_values(group)
            test = any_of([self._rule(rule, {}) for rule in group.rules])
        self._documents[path] = test
        return test

    def rules(self, path: Path) -> list[tuple[Span, Test]]:
        """For each rule at a path, its place and whether it makes the document hold: true, or not empty."""
        group = self._modules.groups.get(path)
        if group is None:
            return []
        if any(rule.keys for rule in group.rules) or group.shape is Shape.FUNCTION:
            raise OutsideError(f"data.{'.'.join(path)} is neither a complete rule nor a plain set")
        if group.shape is Shape.SET:
            return [(rule.span, self._member(rule)) for rule in group.rules]
        self._check_values(group)
        return [(rule.span, self._rule(rule, {})) for rule in group.rules]

    def _member(self, rule: CompiledRule) -> Test:
        """Whether a rule of a set adds something: its body holds, and what it adds is defined."""
        if rule.member is None or not isinstance(rule.member, ast.String):
            raise OutsideError(f"the member at {rule.span.row} is no constant text")
        return self._rule(rule, {})

    def _check_values(self, group: RuleGroup) -> None:
        """Only rules that say true, with at most a default of false: no conflict can arise."""
        for rule in group.rules:
            if rule.otherwise is not None or self._constant(rule.value) != Known(TRUE):
                raise OutsideError(f"data.{'.'.join(group.path)} has values other than true, or else")
        if group.default is not None and self._constant(group.default.value) != Known(FALSE):
            raise OutsideError(f"data.{'.'.join(group.path)} has a default that is not false")

    def _constant(self, term: ast.Term | None) -> Known | None:
        if term is None:
            return Known(TRUE)
        value = self._constants.constant(term)
        return None if value is UNDEFINED else Known(value)

    def _rule(self, rule: CompiledRule, environment: Environment) -> Test:
        self._depth += 1
        if self._depth > MAX_INLINED:
            raise OutsideError("rules are nested too deeply")
        try:
            return self._body(rule.body, 0, environment)
        finally:
            self._depth -= 1

    def _known_document(self, path: Path) -> Term:
        value = self._evaluator.document(path, data=self._known_data)
        return Known(MISSING if value is UNDEFINED else value)

    def _depends_on_input(self, path: Path) -> bool:
        """Whether the rules at, above or below a path read the input, themselves or through others."""
        if path not in self._depends:
            self._depends[path] = False  # rules don't recurse; while asking, assume not
            groups = [
                group
                for other, group in self._modules.groups.items()
                if other[: len(path)] == path or path[: len(other)] == other
            ]
            self._depends[path] = any(self._group_depends(group) for group in groups)
        return self._depends[path]

    def _group_depends(self, group: RuleGroup) -> bool:
        for path, reads_input in self._evaluator.program.references(group):
            if reads_input or (path is not None and self._depends_on_input(path)):
                return True
        return False

    # --- bodies ------------------------------------------------------------------------------------

    def _body(self, body: ast.Body, index: int, environment: Environment) -> Test:
        """All expressions from an index on."""
        tests: list[Test] = []
        while index < len(body):
            expression = body[index]
            if expression.modifiers:
                raise OutsideError(f"{expression.span.row}: with")
            split = self._split(body, index, environment)
            if split is not None:
                return all_of([*tests, split])
            test, environment = self._expression(body, index, environment)
            if test is FAILS:
                return FAILS
            tests.append(test)
            index += 1
        return all_of(tests)

    def _expression(self, body: ast.Body, index: int, environment: Environment) -> tuple[Test, Environment]:
        node = body[index].node
        match node:
            case ast.Not(body=inner):
                return negated(self._body(inner, 0, environment)), environment
            case ast.Call(name="eq", arguments=(left, right)):
                return self._equality(left, right, body[index + 1 :], environment)
            case ast.Call() if node.name.startswith("data."):
                return self._function(node, environment), environment
            case ast.Every() | ast.Some() | ast.SomeIn():
                raise OutsideError(type(node).__name__)
            case ast.Ref(head=ast.Var(name="data"), operands=operands) if self._boolean_rule(operands):
                return self.document(_constant_path(operands)), environment
        return defined(self._term(node, environment)), environment

    def _boolean_rule(self, operands: tuple[ast.Term, ...]) -> bool:
        if not all(isinstance(operand, ast.String) for operand in operands):
            return False
        path = _constant_path(operands)
        return path in self._modules.groups and self._depends_on_input(path)

    def _equality(
        self, left: ast.Term, right: ast.Term, rest: ast.Body, environment: Environment
    ) -> tuple[Test, Environment]:
        for variable, other in ((left, right), (right, left)):
            if _is_new(variable, environment):
                assert isinstance(variable, ast.Var)  # _is_new accepts variables only
                value = self._term(other, environment)
                bound = {**environment, variable.name: value}
                if isinstance(value, Known):
                    return (FAILS if value.value is MISSING else HOLDS), bound
                # A later condition on the variable fails by itself when the value is missing.
                present = HOLDS if _is_needed(variable.name, rest) else defined(value, false_too=True)
                return present, bound
        return compared(self._term(left, environment), self._term(right, environment)), environment

    def _function(self, call: ast.Call, environment: Environment) -> Test:
        """A function of the policy whose result only has to be true."""
        path = self._evaluator.program.functions.get(call.name)
        group = self._modules.groups.get(path) if path is not None else None
        if group is None or len(call.arguments) != group.arity:
            raise OutsideError(f"the call of {call.name}")
        self._check_values(group)
        arguments = [self._term(argument, environment) for argument in call.arguments]
        tests: list[Test] = []
        for rule in group.rules:
            inner: dict[str, Term] = {}
            conditions = [defined(a, false_too=True) for a in arguments if isinstance(a, Unknown)]
            for pattern, argument in zip(rule.arguments, arguments, strict=True):
                if isinstance(pattern, ast.Var) and pattern.name not in inner:
                    inner[pattern.name] = argument
                else:
                    conditions.append(compared(self._term(pattern, inner), argument))
            tests.append(all_of([*conditions, self._rule(rule, inner)]))
        if any(isinstance(a, Known) and a.value is MISSING for a in arguments):
            return FAILS
        return any_of(tests)

    # --- known collections -------------------------------------------------------------------------

    def _split(self, body: ast.Body, index: int, environment: Environment) -> Test | None:
        """The rest of a body by cases, where an expression looks into known data by what is not known."""
        node = body[index].node
        sides: tuple[ast.ExprNode, ...] = (node,)
        if isinstance(node, ast.Call) and not node.name.startswith("data."):
            sides = node.arguments
        for side in sides:
            # Only a bare reference and the operands of a built-in can be split: where one of them is
            # undefined, the expression is.
            if not isinstance(side, ast.Ref):
                continue
            found = self._open_operand(side, environment)
            if found is None:
                continue
            position, container = found
            self._fresh += 1
            name = f"case {self._fresh}"  # a blank: no variable of a policy has this name
            stored = self._is_stored(side, position)
            if stored:
                self._stored.add(name)

            def case(
                key: Value, item: Value, side: ast.Ref = side, at: int = position, name: str = name
            ) -> Test:
                self._cases += 1
                if self._cases > MAX_CASES:
                    raise OutsideError(f"more than {MAX_CASES} cases of known data")
                operand = side.operands[at]
                inner = {**environment, name: Known(item)}
                if isinstance(operand, ast.Var) and operand.name not in environment:
                    inner[operand.name] = Known(key)
                replaced = ast.Ref(ast.Var(name), side.operands[at + 1 :], side.span)
                term: ast.Term = replaced if replaced.operands else ast.Var(name)
                return self._body((_replaced(body[index], side, term), *body[index + 1 :]), 0, inner)

            operand = side.operands[position]
            if variables(operand) <= environment.keys():
                key = self._term(operand, environment)
                assert isinstance(key, Unknown)  # a known key leaves nothing open
                if not isinstance(container, Object):
                    raise OutsideError("an array or set read at a position that the input gives")
                cases = {k: case(k, item) for k, item in container.items()}
                if stored:
                    cases |= {number: cases[str(number)] for number in _numbers(container)}
                return lookup_table(key, cases)
            return any_of([case(key, item) for key, item in members(container)])
        return None

    def _is_stored(self, ref: ast.Ref, position: int) -> bool:
        """Whether the collection that an operand looks into is stored data, not what a rule made of it."""
        assert isinstance(ref.head, ast.Var)  # `_open_operand` found it so
        if ref.head.name != "data":
            return ref.head.name in self._stored
        path = tuple(operand.value for operand in ref.operands[:position] if isinstance(operand, ast.String))
        return not any(path[: size + 1] in self._modules.groups for size in range(len(path)))

    def _open_operand(self, ref: ast.Ref, environment: Environment) -> tuple[int, Value] | None:
        """The first operand that is not known, and the known collection it looks into."""
        if not isinstance(ref.head, ast.Var) or ref.head.name == "input":
            return None
        container: Any = None
        for position, operand in enumerate(ref.operands):
            new = _is_new(operand, environment)
            if not new and not variables(operand) <= environment.keys():
                raise OutsideError("a pattern in a reference")
            if new or isinstance(self._term(operand, environment), Unknown):
                head = ast.Ref(ref.head, ref.operands[:position]) if position else ref.head
                base = self._term(head, environment)
                if isinstance(base, Unknown):
                    raise OutsideError("iteration over the input")
                container = base.value
                return position, (() if container is MISSING else container)
        return None

    # --- terms -------------------------------------------------------------------------------------

    def _term(self, term: ast.Term, environment: Environment) -> Term:
        constant = self._constant(term)
        if constant is not None:
            return constant
        match term:
            case ast.Var(name="input"):
                return Unknown(lambda document: document, ())
            case ast.Var(name=name) if name in environment:
                return environment[name]
            case ast.Ref():
                return self._reference(term, environment)
            case ast.Call(arguments=arguments) if not term.name.startswith("data."):
                return self._builtin(term.name, [self._term(argument, environment) for argument in arguments])
            case ast.Array(items=items) | ast.Set(items=items):
                values = [self._term(item, environment) for item in items]
                if all(isinstance(value, Known) for value in values):
                    plain = [value.value for value in values if isinstance(value, Known)]
                    if MISSING in plain:
                        return Known(MISSING)
                    return Known(tuple(plain) if isinstance(term, ast.Array) else Set(plain))
        raise OutsideError(f"{type(term).__name__} at {term.span.row}:{term.span.column}")

    def _reference(self, ref: ast.Ref, environment: Environment) -> Term:
        keys = [self._term(operand, environment) for operand in ref.operands]
        known = [key.value for key in keys if isinstance(key, Known)]
        if len(known) != len(keys) or not isinstance(ref.head, ast.Var):
            raise OutsideError("a reference by a key that is not known")
        if ref.head.name == "data":
            return self._data(known)
        head = self._term(ref.head, environment)
        if isinstance(head, Known):
            value = head.value
            for key in known:
                value = MISSING if value is MISSING else item_of(value, key)
                value = MISSING if value is UNDEFINED else value
            return Known(value)
        if not all(isinstance(key, str) for key in known) or head.path is None:
            raise OutsideError("a field of the input that is no string")
        path = (*head.path, *known)
        return Unknown(path_reader(path), path)

    def _data(self, keys: list[Any]) -> Term:
        path = tuple(keys)
        rule = next(
            (path[:size] for size in range(len(path) + 1) if path[:size] in self._modules.groups), path
        )
        if all(isinstance(key, str) for key in rule) and self._depends_on_input(rule):
            raise OutsideError(f"the value of data.{'.'.join(map(str, path))} depends on the input")
        value = self._evaluator.program_lookup(path, self._known_data)
        return Known(MISSING if value is UNDEFINED else value)

    def _builtin(self, name: str, operands: list[Term]) -> Term:
        builtin = BUILTINS.get(name)
        if builtin is None or builtin.function is None or builtin.contextual or builtin.relation:
            raise OutsideError(f"the built-in {name}")
        if len(operands) != builtin.arity:
            raise OutsideError(f"a call of {name} with an output argument")
        return called(builtin, operands)


def _constant_path(operands: tuple[ast.Term, ...]) -> Path:
    return tuple(operand.value for operand in operands if isinstance(operand, ast.String))


def _numbers(container: Object) -> list[int]:
    """The numbers that find something in stored data under their text."""
    return [
        int(key)
        for key in container
        if isinstance(key, str) and _WHOLE.fullmatch(key) and int(key) not in container
    ]


def _is_new(term: ast.Term, environment: Environment) -> bool:
    return isinstance(term, ast.Var) and term.name not in ("input", "data") and term.name not in environment


def _is_needed(name: str, rest: ast.Body) -> bool:
    """Whether a plain condition later in the body fails when the variable is missing."""
    return any(
        not isinstance(expression.node, ast.Not | ast.Every | ast.Some | ast.SomeIn)
        and not expression.modifiers
        and name in variables(expression.node)
        for expression in rest
    )


def _replaced(expression: ast.Expr, old: ast.Ref, new: ast.Term) -> ast.Expr:
    """The expression with one of its sides replaced."""
    node = expression.node
    if node is old:
        return ast.Expr(new, (), expression.span)
    assert isinstance(node, ast.Call)  # a side of a built-in
    sides = tuple(new if side is old else side for side in node.arguments)
    return ast.Expr(ast.Call(node.operator, sides, node.span), (), expression.span)
