"""Bodies of compiled Rego as chains of Python closures.

Each expression becomes a step that knows the step after it and calls that once per solution. Expressions
that can hold at most once are tests and run flat in a row; only what iterates nests a Python call. A step
returns True when whoever collects the solutions wants no more.

Unification is taken apart while compiling: every pair of sides becomes a comparison, a match of a value
against a pattern, or an iteration, in an order in which each finds its variables bound.
"""

from __future__ import annotations

from collections.abc import Callable

from policies.language import ast
from policies.language.builtins.registry import BUILTINS
from policies.language.evaluate_errors import ConflictError, EvaluationError, RefusedError
from policies.language.evaluate_terms import Evaluate, Frame, Step, TermCompiler, apply_builtin, item_of
from policies.language.evaluate_world import UNDEFINED, Mock, Result, World, replaced_at
from policies.language.source import Span
from policies.language.values import FALSE, Object, Set, Value, members

Test = Callable[[Frame], bool]
Match = Callable[[Frame, Value], bool]
"""Binds the variables of a pattern to the parts of a value; False when the value does not fit."""
Consume = Callable[[Frame, Value], bool]
"""Continues with a value that an iteration came to."""

_ROOTS = frozenset({"input", "data"})


def variables(term: ast.Term | ast.Expr) -> frozenset[str]:
    """The local variables that a term needs or binds: those inside comprehensions are not counted.

    Comprehension variables of the outside are bound before by the order of the body, hence of no interest
    here.
    """
    match term:
        case ast.Var(name=name):
            return frozenset() if name in _ROOTS else frozenset({name})
        case ast.Ref(head=head, operands=operands):
            return variables(head).union(*map(variables, operands))
        case ast.Array(items=items) | ast.Set(items=items):
            return frozenset().union(*map(variables, items))
        case ast.Object(entries=entries):
            return frozenset().union(*(variables(key) | variables(item) for key, item in entries))
        case ast.Call(arguments=arguments):
            return frozenset().union(*map(variables, arguments))
    return frozenset()


class BodyCompiler(TermCompiler):
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
            if isinstance(compiled, _Test):
                tests.append(self._observed(compiled.test, expression))
                bound |= compiled.binds
            else:
                return _in_a_row(tests, self._observed_step(compiled, expression))
        return _in_a_row(tests, final(bound))

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
    ) -> _Test | Step:
        if expression.modifiers:
            return self._with(expression, bound, rest)
        node = expression.node
        match node:
            case ast.Not(body=body):
                return _Test(_negated(self.exists(body, bound)))
            case ast.Every():
                return _Test(self._every(node, bound))
            case ast.Some() | ast.SomeIn():
                raise RefusedError(
                    type(node).__name__, "must be rewritten before evaluation", expression.span
                )
            case ast.Call(name="eq", arguments=(left, right)) if "eq" not in self.program.mockable:
                for call, other in ((left, right), (right, left)):
                    if isinstance(call, ast.Call) and self._is_relation(call):
                        return self._relation(call, call.arguments, other, bound, rest)
                return self._unify([(left, right)], bound, rest, expression.span)
            case ast.Call():
                return self._call_expression(node, bound, rest)
            case ast.Ref() if self._iterates(node, bound):
                binds = variables(node)
                after = rest(bound | binds)
                return self.iterate(node, bound, lambda frame, value: value is not FALSE and after(frame))
        value_of = self.term(node, bound)

        def holds_true(frame: Frame) -> bool:
            value = value_of(frame)
            return value is not FALSE and value is not UNDEFINED

        return _Test(holds_true)

    def exists(self, body: ast.Body, bound: frozenset[str]) -> Test:
        """Whether the body has a solution."""
        return self.body(body, bound, lambda _frame: True)

    def _is_relation(self, call: ast.Call) -> bool:
        builtin = BUILTINS.get(call.name)
        return builtin is not None and builtin.relation

    # --- calls as expressions -----------------------------------------------------------------------

    def _call_expression(
        self, call: ast.Call, bound: frozenset[str], rest: Callable[[frozenset[str]], Step]
    ) -> _Test | Step:
        arity = self.program.arity_of(call)
        builtin = BUILTINS.get(call.name)
        output = call.arguments[arity] if len(call.arguments) > arity else None
        inputs = call.arguments[:arity]
        if builtin is not None and builtin.relation:
            return self._relation(call, inputs, output, bound, rest)
        plain = ast.Call(call.operator, inputs, span=call.span)
        if output is not None:
            return self._unify([(plain, output)], bound, rest, call.span)
        value_of = self.call(plain, bound)
        if builtin is not None and builtin.result is None:  # print: says nothing about the body
            return _Test(lambda frame: (value_of(frame), True)[1])

        def holds(frame: Frame) -> bool:
            value = value_of(frame)
            return value is not FALSE and value is not UNDEFINED

        return _Test(holds)

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
                results = apply_builtin(builtin, world, operands, span)  # type: ignore[arg-type]
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

    # --- unification --------------------------------------------------------------------------------

    def _iterates(self, term: ast.Term, bound: frozenset[str]) -> bool:
        return isinstance(term, ast.Ref) and not variables(term) <= bound

    def _unify(
        self,
        pairs: list[tuple[ast.Term, ast.Term]],
        bound: frozenset[str],
        rest: Callable[[frozenset[str]], Step],
        span: Span,
    ) -> _Test | Step:
        """The pairs in an order in which each can be decided, then the rest of the body."""
        pairs = [simple for pair in pairs for simple in _taken_apart(*pair)]
        tests: list[Test] = []
        start = bound
        while pairs:
            chosen = self._choose(pairs, bound)
            if chosen is None:
                raise RefusedError("unification", "neither side is bound when it is reached", span)
            left, right = pairs.pop(chosen)
            if isinstance(left, ast.Ref) and self._iterates(left, bound):
                remaining, now = pairs, bound

                def go_on(known: frozenset[str]) -> Step:
                    if not remaining:  # noqa: B023 - both are read before the loop moves on
                        return rest(known)
                    step = self._unify(remaining, known, rest, span)  # noqa: B023
                    return (
                        _in_a_row([step.test], rest(known | step.binds)) if isinstance(step, _Test) else step
                    )

                return _in_a_row(tests, self._iterate_pair(left, right, now, go_on, span))
            value_of = self.term(left, bound)
            match, bound = self.pattern(right, bound)
            tests.append(_matching(value_of, match))
        return _Test(lambda frame: all(test(frame) for test in tests) if len(tests) != 1 else tests[0](frame),
                     bound - start) if len(tests) != 1 else _Test(tests[0], bound - start)  # fmt: skip

    def _choose(self, pairs: list[tuple[ast.Term, ast.Term]], bound: frozenset[str]) -> int | None:
        """A pair that can be decided now, cheapest first; the side with the value is moved to the left."""
        for at, (left, right) in enumerate(pairs):
            for value, pattern in ((left, right), (right, left)):
                if variables(value) <= bound and not self._iterates(pattern, bound):
                    pairs[at] = (value, pattern)
                    return at
        for at, (left, right) in enumerate(pairs):
            for value, pattern in ((left, right), (right, left)):
                if self._iterates(value, bound) and self._head_is_bound(value, bound):
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
        if isinstance(other, ast.Ref) and self._iterates(other, after_ref):
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

    def pattern(self, term: ast.Term, bound: frozenset[str]) -> tuple[Match, frozenset[str]]:
        """The match of a value against a term, and the variables bound after it."""
        if isinstance(term, ast.Var) and term.name not in _ROOTS and term.name not in bound:
            slot = self.slot(term.name)

            def bind(frame: Frame, value: Value) -> bool:
                frame[slot] = value
                return True

            return bind, bound | {term.name}
        if variables(term) <= bound:
            value_of = self.term(term, bound)
            return (lambda frame, value: value_of(frame) == value), bound
        if isinstance(term, ast.Array):
            return self._array_pattern(term, bound)
        if isinstance(term, ast.Object):
            return self._object_pattern(term, bound)
        raise RefusedError(
            type(term).__name__, "can't be matched while it holds unbound variables", term.span
        )

    def _array_pattern(self, term: ast.Array, bound: frozenset[str]) -> tuple[Match, frozenset[str]]:
        # Parts that need a variable which a later part binds are matched after it: [f(x), x].
        parts: list[tuple[int, Match]] = []
        waiting = list(enumerate(term.items))
        while waiting:
            at = next((i for i, (_, item) in enumerate(waiting) if _matchable(item, bound)), 0)
            position, item = waiting.pop(at)
            match, bound = self.pattern(item, bound)
            parts.append((position, match))
        size = len(term.items)

        def fits(frame: Frame, value: Value) -> bool:
            if type(value) is not tuple or len(value) != size:
                return False
            return all(match(frame, value[position]) for position, match in parts)

        return fits, bound

    def _object_pattern(self, term: ast.Object, bound: frozenset[str]) -> tuple[Match, frozenset[str]]:
        entries: list[tuple[Evaluate, Match]] = []
        for key, item in term.entries:
            key_of = self.term(key, bound)
            match, bound = self.pattern(item, bound)
            entries.append((key_of, match))
        size = len(entries)

        def fits(frame: Frame, value: Value) -> bool:
            if type(value) is not Object or len(value) != size:
                return False
            for key_of, match in entries:
                item = value.get(key_of(frame), UNDEFINED)  # type: ignore[arg-type]
                if item is UNDEFINED or not match(frame, item):  # type: ignore[arg-type]
                    return False
            return True

        return fits, bound

    # --- iteration ----------------------------------------------------------------------------------

    def iterate(self, ref: ast.Ref, bound: frozenset[str], consume: Consume) -> Step:
        """A step that gives every value of a reference with unbound operands to `consume`."""
        if isinstance(ref.head, ast.Var) and ref.head.name == "data":
            return self.program.data_iteration(self, ref.operands, bound, consume)
        ground = 0
        while variables(ref.operands[ground]) <= bound:
            ground += 1
        start = self.term(ast.Ref(ref.head, ref.operands[:ground]) if ground else ref.head, bound)
        walk = self.walk(ref.operands[ground:], bound, consume)

        def step(frame: Frame) -> bool:
            value = start(frame)
            return value is not UNDEFINED and walk(frame, value)  # type: ignore[arg-type]

        return step

    def walk(self, operands: tuple[ast.Term, ...], bound: frozenset[str], consume: Consume) -> Consume:
        """Goes from a value along operands, bound or not, to every value at their end."""
        if not operands:
            return consume
        operand, below = operands[0], operands[1:]
        if variables(operand) <= bound:
            key_of = self.term(operand, bound)
            onward = self.walk(below, bound, consume)

            def direct(frame: Frame, value: Value) -> bool:
                key = key_of(frame)
                if key is UNDEFINED:
                    return False
                item = item_of(value, key)  # type: ignore[arg-type]
                return item is not UNDEFINED and onward(frame, item)  # type: ignore[arg-type]

            return direct
        match, bound = self.pattern(operand, bound)
        onward = self.walk(below, bound, consume)

        def each(frame: Frame, value: Value) -> bool:
            run = frame[0].run
            for key, item in members(value):
                run.steps -= 1
                if run.steps < 0:
                    raise run.exhausted()
                if match(frame, key) and onward(frame, item):
                    return True
            return False

        return each

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

        step = self._head_after_body(term.body, head, bound, final)
        build = Set if isinstance(term, ast.SetComprehension) else tuple

        def evaluate(frame: Frame) -> Result:
            found: list[Value] = []
            frame[collected] = found
            step(frame)
            return frame[0].run.weighed(build(found))  # type: ignore[return-value]

        return evaluate

    def _head_after_body(
        self, body: ast.Body, _head: ast.Term, bound: frozenset[str], final: Callable[[frozenset[str]], Step]
    ) -> Step:
        return self.body_then(body, bound, final)

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
        if isinstance(compiled, _Test):
            compiled = _in_a_row([compiled.test], resume(bound | compiled.binds))
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

    def _modifier(self, modifier: ast.With, bound: frozenset[str]) -> _Change:
        target = modifier.target
        name = ast.dotted(target)
        root = target.head.name if isinstance(target.head, ast.Var) else ""
        if name in self.program.functions or (root not in _ROOTS and name in BUILTINS):
            replacement = ast.dotted(modifier.value) if isinstance(modifier.value, ast.Ref) else ""
            if isinstance(modifier.value, ast.Var):
                replacement = modifier.value.name
            if replacement in self.program.functions or replacement in BUILTINS:
                return _Change(lambda _frame: None, mocked=name, replacement=replacement)
            return _Change(self.term(modifier.value, bound), mocked=name)
        path = [self.constant(operand) for operand in target.operands]
        if root not in _ROOTS or UNDEFINED in path:
            raise RefusedError(
                f"with {name}", "the target must be a constant path of input or data", target.span
            )
        return _Change(self.term(modifier.value, bound), root=root, path=tuple(path))  # type: ignore[arg-type]


class _Test:
    """An expression that holds at most once, and what it binds."""

    __slots__ = ("binds", "test")

    def __init__(self, test: Test, binds: frozenset[str] = frozenset()) -> None:
        self.test = test
        self.binds = binds


class _Change:
    """One `with` modifier."""

    __slots__ = ("_mocked", "_path", "_replacement", "_root", "value_of")

    def __init__(
        self,
        value_of: Evaluate,
        *,
        root: str = "",
        path: tuple[Value, ...] = (),
        mocked: str = "",
        replacement: str = "",
    ) -> None:
        self.value_of = value_of
        self._root, self._path, self._mocked, self._replacement = root, path, mocked, replacement

    def apply(self, world: World, value: Result) -> World:
        """The world with the change made."""
        if self._mocked:
            mock = Mock(function=self._replacement) if self._replacement else Mock(value=value)
            return World(
                world.run, world.input, world.data, {**world.mocks, self._mocked: mock}, world.hidden
            )
        if self._root == "input":
            changed = replaced_at(world.input, self._path, value)  # type: ignore[arg-type]
            return World(world.run, changed, world.data, world.mocks, world.hidden)
        data = replaced_at(world.data, self._path, value)  # type: ignore[arg-type]
        hidden = (*world.hidden, self._path)
        return World(world.run, world.input, data, world.mocks, hidden)  # type: ignore[arg-type]


def _matchable(term: ast.Term, bound: frozenset[str]) -> bool:
    if isinstance(term, ast.Var) or variables(term) <= bound:
        return True
    if isinstance(term, ast.Array):
        return True
    if isinstance(term, ast.Object):
        return all(variables(key) <= bound for key, _ in term.entries)
    return False


def _taken_apart(left: ast.Term, right: ast.Term) -> list[tuple[ast.Term, ast.Term]]:
    """Two literals of the same form as pairs of their parts, else the pair itself."""
    if isinstance(left, ast.Array) and isinstance(right, ast.Array) and len(left.items) == len(right.items):
        return [pair for sides in zip(left.items, right.items, strict=True) for pair in _taken_apart(*sides)]
    if isinstance(left, ast.Object) and isinstance(right, ast.Object):
        ours = {key: item for key, item in left.entries if isinstance(key, ast.String)}
        theirs = {key: item for key, item in right.entries if isinstance(key, ast.String)}
        constant = len(ours) == len(left.entries) and len(theirs) == len(right.entries)
        if constant and ours.keys() == theirs.keys():
            return [pair for key in ours for pair in _taken_apart(ours[key], theirs[key])]
    return [(left, right)]


def _negated(test: Test) -> Test:
    return lambda frame: not test(frame)


def _matching(value_of: Evaluate, match: Match) -> Test:
    def test(frame: Frame) -> bool:
        value = value_of(frame)
        return value is not UNDEFINED and match(frame, value)  # type: ignore[arg-type]

    return test


def _in_a_row(tests: list[Test], last: Step) -> Step:
    """All tests, then the step."""
    if not tests:
        return last
    if len(tests) == 1:
        only = tests[0]
        return lambda frame: only(frame) and last(frame)
    if len(tests) == 2:
        first, second = tests
        return lambda frame: first(frame) and second(frame) and last(frame)

    def run(frame: Frame) -> bool:
        for test in tests:
            if not test(frame):
                return False
        return last(frame)

    return run


__all__ = ["BodyCompiler", "EvaluationError", "variables"]
