"""Bodies of compiled Rego as chains of Python closures.

Each expression becomes a step that knows the step after it and calls that once per solution. Expressions
that can hold at most once are tests and run flat in a row; only what iterates nests a Python call. A step
returns True when whoever collects the solutions wants no more.

Not here: `=` (`evaluate_unify`), patterns and references that iterate (`evaluate_patterns`).
"""

from __future__ import annotations

from collections.abc import Callable

from policies.language.builtins.registry import BUILTINS
from policies.language.concrete.builtin_calls import apply_builtin
from policies.language.concrete.errors import ConflictError, RefusedError
from policies.language.concrete.patterns import ROOTS, Match, SingleTest, Test, in_a_row, variables
from policies.language.concrete.replacements import Change
from policies.language.concrete.terms import Evaluate, Frame, Step
from policies.language.concrete.unify import UnificationCompiler
from policies.language.concrete.world import UNDEFINED, Result, World
from policies.language.syntax import ast
from policies.language.values import FALSE, Object, Set, Value, members


class BodyCompiler(UnificationCompiler):
    """Adds bodies, unification and everything that iterates."""

    # --- bodies -------------------------------------------------------------------------------------

    def body(self, body: ast.Body, bound: frozenset[str], final: Step) -> Step:
        """A step that calls `final` for every solution of the body."""
        return self._from(body, 0, bound, lambda _bound: final)

    def body_then(
        self, body: ast.Body, bound: frozenset[str], final: Callable[[frozenset[str]], Step]
    ) -> Step:
        """As `body`, where the last step needs to know which variables are bound by then."""
        return self._from(body, 0, bound, final)

    def _rest(
        self, body: ast.Body, index: int, final: Callable[[frozenset[str]], Step]
    ) -> Callable[[frozenset[str]], Step]:
        return lambda bound: self._from(body, index, bound, final)

    def _from(
        self, body: ast.Body, index: int, bound: frozenset[str], final: Callable[[frozenset[str]], Step]
    ) -> Step:
        tests: list[Test] = []
        while index < len(body):
            expression = body[index]
            index += 1
            compiled = self._expression(expression, bound, self._rest(body, index, final))
            if isinstance(compiled, SingleTest):
                tests.append(self._observed(compiled.test, expression))
                bound |= compiled.binds
            else:
                return in_a_row(tests, self._observed_step(compiled, expression))
        return in_a_row(tests, final(bound))

    def _observed(self, test: Test, expression: ast.Expr) -> Test:
        if not self.program.observed:
            return test
        span = expression.span

        def observed(frame: Frame) -> bool:
            if not test(frame):
                return False
            observer = frame[0].run.observer
            if observer is not None and observer.on_expression is not None:
                observer.on_expression(span, frame)
            return True

        return observed

    def _observed_step(self, step: Step, expression: ast.Expr) -> Step:
        if not self.program.observed:
            return step
        span = expression.span

        def observed(frame: Frame) -> bool:
            observer = frame[0].run.observer
            if observer is not None and observer.on_expression is not None:
                observer.on_expression(span, frame)
            return step(frame)

        return observed

    def _expression(
        self, expression: ast.Expr, bound: frozenset[str], rest: Callable[[frozenset[str]], Step]
    ) -> SingleTest | Step:
        if expression.modifiers:
            return self._with(expression, bound, rest)
        node = expression.node
        match node:
            case ast.Not(body=body):
                return SingleTest(_negated(self.exists(body, bound)))
            case ast.Every():
                return SingleTest(self._every(node, bound))
            case ast.Some() | ast.SomeIn():
                raise RefusedError(
                    type(node).__name__, "must be rewritten before evaluation", expression.span
                )
            case ast.Call(name="eq", arguments=(left, right)) if "eq" not in self.program.mockable:
                for call, other in ((left, right), (right, left)):
                    if isinstance(call, ast.Call) and self._is_relation(call):
                        return self._relation(call, call.arguments, other, bound, rest)
                return self.unify([(left, right)], bound, rest, expression.span)
            case ast.Call():
                return self._call_expression(node, bound, rest)
            case ast.Ref() if self.iterates(node, bound):
                binds = variables(node)
                after = rest(bound | binds)
                return self.iterate(node, bound, lambda frame, value: value is not FALSE and after(frame))
        value_of = self.term(node, bound)

        def holds_true(frame: Frame) -> bool:
            value = value_of(frame)
            return value is not FALSE and value is not UNDEFINED

        return SingleTest(holds_true)

    def exists(self, body: ast.Body, bound: frozenset[str]) -> Test:
        """Whether the body has a solution."""
        return self.body(body, bound, lambda _frame: True)

    def _is_relation(self, call: ast.Call) -> bool:
        builtin = BUILTINS.get(call.name)
        return builtin is not None and builtin.relation

    # --- calls as expressions -----------------------------------------------------------------------

    def _call_expression(
        self, call: ast.Call, bound: frozenset[str], rest: Callable[[frozenset[str]], Step]
    ) -> SingleTest | Step:
        arity = self.program.arity_of(call)
        builtin = BUILTINS.get(call.name)
        output = call.arguments[arity] if len(call.arguments) > arity else None
        inputs = call.arguments[:arity]
        if builtin is not None and builtin.relation:
            return self._relation(call, inputs, output, bound, rest)
        plain = ast.Call(call.operator, inputs, span=call.span)
        if output is not None:
            return self.unify([(plain, output)], bound, rest, call.span)
        value_of = self.call(plain, bound)
        if builtin is not None and builtin.result is None:  # print: says nothing about the body
            return SingleTest(lambda frame: (value_of(frame), True)[1])

        def holds(frame: Frame) -> bool:
            value = value_of(frame)
            return value is not FALSE and value is not UNDEFINED

        return SingleTest(holds)

    def _relation(
        self,
        call: ast.Call,
        inputs: tuple[ast.Term, ...],
        output: ast.Term | None,
        bound: frozenset[str],
        rest: Callable[[frozenset[str]], Step],
    ) -> Step:
        arguments = [self.term(argument, bound) for argument in inputs]
        match_output: Match = lambda _frame, _value: True  # noqa: E731
        if output is not None:
            match_output, bound = self.pattern(output, bound)
        after = rest(bound)
        builtin, span, mockable = BUILTINS[call.name], call.span, call.name in self.program.mockable

        def step(frame: Frame) -> bool:
            operands = tuple([argument(frame) for argument in arguments])
            if UNDEFINED in operands:
                return False
            world: World = frame[0]
            mock = world.mocks.get(builtin.name) if mockable else None
            if mock is not None:
                value = self.program.mocked_call(world, builtin.name, mock, operands, span)
                results = () if value is UNDEFINED else (value,)
            else:
                results = apply_builtin(builtin, world, operands, span)
                if results is UNDEFINED:
                    return False
            run = world.run
            for value in results:
                run.steps -= 1
                if run.steps < 0:
                    raise run.exhausted()
                if match_output(frame, value) and after(frame):  # type: ignore[arg-type]
                    return True
            return False

        return step

    # --- every, comprehensions, with ----------------------------------------------------------------

    def _every(self, every: ast.Every, bound: frozenset[str]) -> Test:
        domain_of = self.term(every.domain, bound)
        key_slot = self.slot(every.key.name) if every.key is not None else self.temporary()
        value_slot = self.slot(every.value.name)
        inner = bound | {every.value.name} | ({every.key.name} if every.key is not None else set())
        holds = self.exists(every.body, inner)

        def all_hold(frame: Frame) -> bool:
            domain = domain_of(frame)
            if type(domain) not in (tuple, Object, Set):
                return False
            run = frame[0].run
            for key, item in members(domain):  # type: ignore[arg-type]
                run.steps -= 1
                if run.steps < 0:
                    raise run.exhausted()
                frame[key_slot] = key
                frame[value_slot] = item
                if not holds(frame):
                    return False
            return True

        return all_hold

    def comprehension(self, term: ast.Comprehension, bound: frozenset[str]) -> Evaluate:
        collected = self.temporary()
        if isinstance(term, ast.ObjectComprehension):
            return self._object_comprehension(term, bound, collected)
        head = term.term

        def final(known: frozenset[str]) -> Step:
            value_of = self.term(head, known)

            def collect(frame: Frame) -> bool:
                value = value_of(frame)
                if value is not UNDEFINED:
                    run = frame[0].run
                    run.steps -= 1
                    if run.steps < 0:
                        raise run.exhausted()
                    frame[collected].append(value)
                return False

            return collect

        step = self.body_then(term.body, bound, final)
        build = Set if isinstance(term, ast.SetComprehension) else tuple

        def evaluate(frame: Frame) -> Result:
            found: list[Value] = []
            frame[collected] = found
            step(frame)
            made: Value = frame[0].run.weighed(build(found))
            return made

        return evaluate

    def _object_comprehension(
        self, term: ast.ObjectComprehension, bound: frozenset[str], collected: int
    ) -> Evaluate:
        def final(known: frozenset[str]) -> Step:
            key_of, value_of = self.term(term.key, known), self.term(term.value, known)

            def collect(frame: Frame) -> bool:
                key, value = key_of(frame), value_of(frame)
                if key is UNDEFINED or value is UNDEFINED:
                    return False
                run = frame[0].run
                run.steps -= 1
                if run.steps < 0:
                    raise run.exhausted()
                if frame[collected].setdefault(key, value) != value:
                    raise ConflictError("object keys must be unique", term.span)
                return False

            return collect

        step = self.body_then(term.body, bound, final)

        def evaluate(frame: Frame) -> Result:
            found: dict[Value, Value] = {}
            frame[collected] = found
            step(frame)
            return frame[0].run.weighed(Object(found))  # type: ignore[no-any-return]

        return evaluate

    def _with(
        self, expression: ast.Expr, bound: frozenset[str], rest: Callable[[frozenset[str]], Step]
    ) -> Step:
        """The expression in a world of its own; the rest of the body in the one before."""
        outer, inner = self.temporary(), self.temporary()
        plain = ast.Expr(expression.node, (), expression.span, expression.generated)
        changes = [self._modifier(modifier, bound) for modifier in expression.modifiers]

        def resume(known: frozenset[str]) -> Step:
            after = rest(known)

            def back(frame: Frame) -> bool:
                frame[0] = frame[outer]
                try:
                    return after(frame)
                finally:
                    frame[0] = frame[inner]

            return back

        compiled = self._expression(plain, bound, resume)
        if isinstance(compiled, SingleTest):
            compiled = in_a_row([compiled.test], resume(bound | compiled.binds))
        step = compiled

        def changed(frame: Frame) -> bool:
            world: World = frame[0]
            # Every value is worked out in the world before the first change.
            values = [change.value_of(frame) for change in changes]
            if UNDEFINED in values:
                return False
            for change, value in zip(changes, values, strict=True):
                world = change.apply(world, value)
            frame[outer], frame[inner] = frame[0], world
            frame[0] = world
            try:
                return step(frame)
            finally:
                frame[0] = frame[outer]

        return changed

    def _modifier(self, modifier: ast.With, bound: frozenset[str]) -> Change:
        target = modifier.target
        name = ast.dotted(target)
        root = target.head.name if isinstance(target.head, ast.Var) else ""
        if name in self.program.functions or (root not in ROOTS and name in BUILTINS):
            replacement = ast.dotted(modifier.value) if isinstance(modifier.value, ast.Ref) else ""
            if isinstance(modifier.value, ast.Var):
                replacement = modifier.value.name
            if replacement in self.program.functions or replacement in BUILTINS:
                return Change(lambda _frame: None, mocked=name, replacement=replacement)
            return Change(self.term(modifier.value, bound), mocked=name)
        path = [self.constant(operand) for operand in target.operands]
        if root not in ROOTS or UNDEFINED in path:
            raise RefusedError(
                f"with {name}", "the target must be a constant path of input or data", target.span
            )
        return Change(self.term(modifier.value, bound), root=root, path=tuple(path))  # type: ignore[arg-type]


def _negated(test: Test) -> Test:
    return lambda frame: not test(frame)
