"""Static types of compiled policies: calls with arguments that can't fit, comparisons that can't hold,
attributes that do not exist.

As in OPA, a finding means that no value at all would do. Types flow along the evaluation order of a body:
a variable has the type of what it was first unified with. What is not known is `any`.

Not here: values (a regular expression that does not parse: constants).
"""

from collections.abc import Mapping

from policies.language.compiler.calls import BuiltinDeclaration, DeclaredShape
from policies.language.compiler.compiled import CompiledModules, CompiledRule, RuleGroup, Shape
from policies.language.compiler.graph import Path, branches
from policies.language.compiler.terms import data_path
from policies.language.diagnostics import Diagnostic, ErrorCode, did_you_mean, nearest
from policies.language.schema import ENVOY_FIELDS
from policies.language.syntax import ast
from policies.language.syntax.ast import Body, Call, Expr, Ref, String, Term, Var
from policies.language.types import (
    ANY,
    ANY_OBJECT,
    BOOLEAN,
    NULL,
    NUMBER,
    STRING,
    Any,
    ArrayOf,
    ObjectOf,
    SetOf,
    Type,
    compatible,
    union,
)
from policies.language.types_parts import element_of, keys_of, part_of

_PRIMITIVES: dict[str, Type] = {
    "null": NULL, "boolean": BOOLEAN, "number": NUMBER, "string": STRING, "any": ANY,
}  # fmt: skip
_COMPARISONS = {"neq": "!=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_MAX_CHAIN = 30
"""Rules whose types are followed one into the other; further ones count as any."""
_MAX_STATIC = 50
"""Literals with more parts than this are typed by their union."""


def check_types(
    compiled: CompiledModules, builtins: Mapping[str, BuiltinDeclaration], input_type: Type = ANY
) -> list[Diagnostic]:
    """The type errors of compiled modules; `input_type` is what the schema of `input` says."""
    return _Checker(compiled, builtins, input_type).run()


def check_comparisons(
    compiled: CompiledModules, builtins: Mapping[str, BuiltinDeclaration], input_type: Type = ANY
) -> list[Diagnostic]:
    """`!=`, `<` and their like between values that can't have a type in common: accepted by OPA."""
    checker = _Checker(compiled, builtins, input_type)
    checker.run()
    return list(dict.fromkeys(checker.comparisons))


def type_of_shape(shape: DeclaredShape) -> Type:
    """A built-in's declared type."""
    if shape.kind in _PRIMITIVES:
        return _PRIMITIVES[shape.kind]
    parts = tuple(type_of_shape(part) for part in shape.of)
    if shape.kind == "array":
        return ArrayOf((), parts[0] if parts else ANY)
    if shape.kind == "tuple":
        return ArrayOf(parts)
    if shape.kind == "set":
        return SetOf(parts[0] if parts else ANY)
    if shape.kind == "object":
        return ObjectOf((), (parts[0], parts[1])) if len(parts) == 2 else ANY_OBJECT
    return union(*parts) if parts else ANY


Environment = dict[str, Type]


class _Checker:
    """One run; `rule_types` remembers the types of rules."""

    def __init__(
        self, compiled: CompiledModules, builtins: Mapping[str, BuiltinDeclaration], input_type: Type
    ) -> None:
        self.compiled = compiled
        self.builtins = builtins
        self.input_type = input_type
        self.found: list[Diagnostic] = []
        self.comparisons: list[Diagnostic] = []  # what OPA lets pass: != and < across types
        self.rule_types: dict[Path, Type] = {}
        self.depth = 0
        self.shapes: dict[str, tuple[Type, ...]] = {}
        self.results: dict[str, Type] = {}

    def run(self) -> list[Diagnostic]:
        for group in self.compiled.groups.values():
            for rule in (*group.rules, *((group.default,) if group.default else ())):
                for branch in branches(rule):
                    self.branch(branch)
        return list(dict.fromkeys(self.found))

    def branch(self, rule: CompiledRule) -> Environment:
        """Checks a branch and gives the types of its variables."""
        environment: Environment = {}
        self.body(rule.body, environment)
        for term in (*rule.keys, rule.member, rule.value):
            if term is not None:
                self.type_of(term, environment)
        return environment

    def body(self, body: Body, environment: Environment) -> None:
        for expression in body:
            self.statement(expression, environment)

    def statement(self, expression: Expr, environment: Environment) -> None:
        node = expression.node
        for modifier in expression.modifiers:
            if ast.dotted(modifier.target).split(".")[0] in ("input", "data"):
                self.type_of(modifier.value, environment)  # the value may be the name of a function otherwise
        # Under `with` the documents are not what the rules and the schema say.
        checker = _Blind(self, expression.modifiers) if expression.modifiers else self
        if isinstance(node, ast.Every):
            domain = checker.type_of(node.domain, environment)
            key, value = element_of(domain)
            inner = {**environment, node.value.name: value}
            if node.key is not None:
                inner[node.key.name] = key
            checker.body(node.body, inner)
        elif isinstance(node, ast.Not):
            checker.body(node.body, dict(environment))
        elif isinstance(node, Call) and node.name == "eq" and len(node.arguments) == 2:
            checker.unify(node, environment)
        else:
            assert not isinstance(node, ast.Some | ast.SomeIn)
            checker.type_of(node, environment)

    def unify(self, node: Call, environment: Environment) -> None:
        """`left = right`: the types must meet; variables without a type get one."""
        left, right = node.arguments
        first, second = self.type_of(left, environment), self.type_of(right, environment)
        if not compatible(first, second):
            self.found.append(
                Diagnostic(
                    node.span, ErrorCode.TYPE,
                    f"match error: {_shown(left)} is {first}, {_shown(right)} is {second}",
                    hint=_mismatch_hint(first, second),
                )
            )  # fmt: skip
            return
        _learn(left, second, environment)
        _learn(right, first, environment)

    def type_of(self, term: Term, environment: Environment) -> Type:
        """The type of a term; its parts are checked on the way."""
        if isinstance(term, String):
            return STRING
        if isinstance(term, ast.Number):
            return NUMBER
        if isinstance(term, ast.Boolean):
            return BOOLEAN
        if isinstance(term, ast.Null):
            return NULL
        if isinstance(term, Var):
            return self.input_type if term.name == "input" else environment.get(term.name, ANY)
        if isinstance(term, Ref):
            return self.reference(term, environment)
        if isinstance(term, Call):
            return self.call(term, environment)
        if isinstance(term, ast.Array):
            items = tuple(self.type_of(item, environment) for item in term.items)
            return ArrayOf(items) if len(items) <= _MAX_STATIC else ArrayOf((), union(*items))
        if isinstance(term, ast.Set):
            return SetOf(
                union(*(self.type_of(item, environment) for item in term.items)) if term.items else ANY
            )
        if isinstance(term, ast.Object):
            return self.object(term, environment)
        if isinstance(term, ast.ArrayComprehension | ast.SetComprehension):
            inner = dict(environment)
            self.body(term.body, inner)
            item = self.type_of(term.term, inner)
            return ArrayOf((), item) if isinstance(term, ast.ArrayComprehension) else SetOf(item)
        if isinstance(term, ast.ObjectComprehension):
            inner = dict(environment)
            self.body(term.body, inner)
            return ObjectOf((), (self.type_of(term.key, inner), self.type_of(term.value, inner)))
        return STRING

    def object(self, term: ast.Object, environment: Environment) -> Type:
        pairs = [
            (key, self.type_of(key, environment), self.type_of(value, environment))
            for key, value in term.entries
        ]
        if len(pairs) <= _MAX_STATIC and all(isinstance(key, String) for key, _, _ in pairs):
            static = tuple((key.value, value) for key, _, value in pairs if isinstance(key, String))
            return ObjectOf(static)
        return ObjectOf((), (union(*(k for _, k, _ in pairs)), union(*(v for _, _, v in pairs))))

    def call(self, call: Call, environment: Environment) -> Type:
        name = call.name
        arguments = [self.type_of(argument, environment) for argument in call.arguments]
        builtin = self.builtins.get(name)
        if builtin is None:
            return self.function_result(call)
        if name not in self.shapes:
            self.shapes[name] = tuple(type_of_shape(shape) for shape in builtin.signature.arguments)
            result = builtin.signature.result
            self.results[name] = type_of_shape(result) if result is not None else ANY
        for position, (given, wanted) in enumerate(zip(arguments, self.shapes[name], strict=False), 1):
            if not compatible(given, wanted):
                argument = call.arguments[position - 1]
                self.found.append(
                    Diagnostic(
                        argument.span, ErrorCode.TYPE,
                        f"{name}: invalid argument(s): argument {position} is {given}",
                        expected=f"{wanted}", hint=f"{name}({', '.join(map(str, self.shapes[name]))})",
                    )
                )  # fmt: skip
        if name in _COMPARISONS and len(arguments) == 2 and not compatible(arguments[0], arguments[1]):
            self.comparisons.append(
                Diagnostic(
                    call.span, ErrorCode.LINT,
                    f"{_COMPARISONS[name]} compares {arguments[0]} with {arguments[1]}",
                    hint="values of different types are always unequal and ordered by type: "
                    "null < boolean < number < string < array < object < set",
                )
            )  # fmt: skip
        return self.results[name]

    def function_result(self, call: Call) -> Type:
        """The type of what an own function gives, whatever its arguments."""
        path = data_path(call.operator)
        group = self.compiled.groups.get(path) if path is not None else None
        return self.group_type(group) if group is not None else ANY

    def reference(self, reference: Ref, environment: Environment) -> Type:
        for operand in reference.operands:
            if not isinstance(operand, String | Var):
                self.type_of(operand, environment)
        head = reference.head
        if not isinstance(head, Var):
            return ANY
        if head.name == "data":
            return self.document(reference, environment)
        start = self.input_type if head.name == "input" else environment.get(head.name, ANY)
        return self.select(reference, start, 0, environment)

    def select(self, reference: Ref, start: Type, first: int, environment: Environment) -> Type:
        """The type of what the operands from `first` on pick out of `start`."""
        current = start
        for index in range(first, len(reference.operands)):
            operand = reference.operands[index]
            following = part_of(
                current, operand, environment.get(operand.name) if isinstance(operand, Var) else None
            )
            if following is None:
                self.undefined(reference, index, current)
                return ANY
            if isinstance(operand, Var) and operand.name not in environment:
                environment[operand.name] = element_of(current)[0]
            current = following
        return current

    def undefined(self, reference: Ref, index: int, current: Type) -> None:
        """No value of the type has such a part."""
        operand = reference.operands[index]
        known = keys_of(current)
        name = operand.value if isinstance(operand, String) else _shown(operand)
        message = f"undefined ref: {_shown(Ref(reference.head, reference.operands[: index + 1]))}"
        expected, hint = f"{current}", ""
        if known:
            expected = "one of " + ", ".join(known)
            near = nearest(name, known)
            hint = did_you_mean(name, known) or ""
            if near is None:
                hint = f"{name} is no attribute here"
            if reference.head == Var("input") and index == 0 and name in ENVOY_FIELDS:
                hint = "that is the input of OPA's Envoy plugin: `gatehouse policy import-envoy` rewrites it"
        self.found.append(Diagnostic(operand.span, ErrorCode.TYPE, message, expected[:300], hint))

    def document(self, reference: Ref, environment: Environment) -> Type:
        """The type of a rule's document as far as the reference goes into it."""
        for operand in reference.operands:
            if isinstance(operand, Var):
                environment.setdefault(operand.name, ANY)
        path: list[str] = []
        for index, operand in enumerate(reference.operands):
            if not isinstance(operand, String):
                return ANY
            path.append(operand.value)
            group = self.compiled.groups.get(tuple(path))
            if group is not None and _simple(group):
                node = self.compiled.tree.at(tuple(path))
                if node is not None and node.children:
                    return ANY
                return self.select(reference, self.group_type(group), index + 1, environment)
        return ANY

    def group_type(self, group: RuleGroup) -> Type:
        """The type of a complete rule or set: the union over its rules."""
        if self.depth > _MAX_CHAIN:
            return ANY
        if group.path not in self.rule_types:
            self.depth += 1
            self.rule_types[group.path] = ANY  # while it is being worked out
            silent, self.found = self.found, []
            options: list[Type] = []
            for rule in (*group.rules, *((group.default,) if group.default else ())):
                for branch in branches(rule):
                    environment = self.branch(branch)
                    term = branch.member if group.shape is Shape.SET else branch.value
                    options.append(self.type_of(term, environment) if term is not None else ANY)
            self.found = silent
            self.depth -= 1
            combined = union(*options) if options else ANY
            self.rule_types[group.path] = SetOf(combined) if group.shape is Shape.SET else combined
        return self.rule_types[group.path]


class _Blind(_Checker):
    """Checks a statement whose `with` replaces documents: their types say nothing here."""

    def __init__(self, checker: _Checker, modifiers: tuple[ast.With, ...]) -> None:
        super().__init__(checker.compiled, checker.builtins, ANY)
        self.replaced = {ast.dotted(modifier.target) for modifier in modifiers}
        self.found = checker.found
        self.comparisons = checker.comparisons

    def document(self, reference: Ref, environment: Environment) -> Type:
        for operand in reference.operands:
            if isinstance(operand, Var):
                environment.setdefault(operand.name, ANY)
        return ANY

    def call(self, call: Call, environment: Environment) -> Type:
        if call.name not in self.replaced:
            return super().call(call, environment)
        for argument in call.arguments:
            self.type_of(argument, environment)
        return ANY

    def function_result(self, call: Call) -> Type:
        return ANY


def _simple(group: RuleGroup) -> bool:
    return group.shape is not Shape.FUNCTION and not any(rule.keys for rule in group.rules)


def _learn(pattern: Term, other: Type, environment: Environment) -> None:
    """Variables of a pattern take the type of what they are matched with."""
    if isinstance(pattern, Var):
        if pattern.name not in ("input", "data") and isinstance(environment.get(pattern.name, ANY), Any):
            environment[pattern.name] = other
    elif isinstance(pattern, ast.Array):
        for index, item in enumerate(pattern.items):
            _learn(item, part_of(other, ast.Number(str(index)), None) or ANY, environment)
    elif isinstance(pattern, ast.Object):
        for key, value in pattern.entries:
            _learn(value, part_of(other, key, None) or ANY, environment)


def _shown(term: Term) -> str:
    if term.span.text and not (isinstance(term, Var) and "~" in term.name):
        return " ".join(term.span.text.split())[:80]
    if isinstance(term, Ref):
        return ast.dotted(term)
    return "this value"


def _mismatch_hint(first: Type, second: Type) -> str:
    pair = {str(first), str(second)}
    if pair == {"string", "number"}:
        return "a number and its text are different values: use to_number, or format_int, or fix the literal"
    if isinstance(first, SetOf) or isinstance(second, SetOf):
        return "to ask whether a set holds a value write `value in set`"
    return "the two can never be equal"
