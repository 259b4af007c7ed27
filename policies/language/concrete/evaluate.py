"""The concrete evaluator: what a compiled policy says about given input and data.

    evaluator = Evaluator(compiled_modules)
    evaluator.query(compiled_query, input_document=…, data=…)   -> results, each a mapping of variables to
    values evaluator.document(("gatehouse", "authz", "allow"), …)      -> the value of one document, or
    UNDEFINED

Values are those of `values`; use `serial.parse_json` or `values.from_python` to make them. Everything an
evaluation may cost is bounded by `Limits`; the time of day is an argument. Constructs that are not
implemented are refused when the evaluator is made, by name and place.

Not here: parsing and checking (`compile`), several requests per second (`closure`), unknown inputs
(`symbolic`).
"""

from __future__ import annotations

from collections.abc import Mapping

from policies.language.compiler.compiled import CompiledModules, CompiledQuery
from policies.language.concrete.bodies import BodyCompiler
from policies.language.concrete.errors import (
    BuiltinFailedError,
    ConflictError,
    EvaluationError,
    LimitExceededError,
    RefusedError,
)
from policies.language.concrete.rules import Program
from policies.language.concrete.terms import Frame, Step
from policies.language.concrete.world import (
    UNDEFINED,
    Limits,
    Observer,
    Result,
    Run,
    Undefined,
    World,
)
from policies.language.numbers import NumberLimitExceededError
from policies.language.values import EMPTY_OBJECT, Value

Bindings = Mapping[str, Value]


class Evaluator:
    """A policy ready to answer. Not changed by answering, hence safe to share between threads."""

    def __init__(
        self, modules: CompiledModules, *, limits: Limits | None = None, observed: bool = False
    ) -> None:
        """RefusedError when the policy calls what is not implemented; `observed` allows an Observer."""
        self._limits = limits or Limits()
        self.program = Program(modules, observed=observed)

    def query(
        self,
        query: CompiledQuery,
        *,
        input_document: Result = UNDEFINED,
        data: Value = EMPTY_OBJECT,
        strict: bool = False,
        now_ns: int | None = None,
        observer: Observer | None = None,
    ) -> list[Bindings]:
        """All results of a query, in the order in which they are found. Raises EvaluationError."""
        self.program.admit(query.body)
        compiler = BodyCompiler(self.program)
        results: list[Bindings] = []
        names = [(name, compiler.slot(internal)) for name, internal in query.variables]

        def final(_known: frozenset[str]) -> Step:
            def collect(frame: Frame) -> bool:
                run = frame[0].run
                run.steps -= 1
                if run.steps < 0:
                    raise run.exhausted()
                results.append({name: frame[slot] for name, slot in names})
                return False

            return collect

        world = self._world(input_document, data, strict, now_ns, observer)
        with Translated():
            step = compiler.body_then(query.body, frozenset(), final)
            frame: Frame = [UNDEFINED] * compiler.size
            frame[0] = world
            step(frame)
        return results

    def document(
        self,
        path: tuple[str, ...],
        *,
        input_document: Result = UNDEFINED,
        data: Value = EMPTY_OBJECT,
        strict: bool = False,
        now_ns: int | None = None,
        observer: Observer | None = None,
    ) -> Result:
        """The document at a path below `data`, or UNDEFINED. Raises EvaluationError."""
        world = self._world(input_document, data, strict, now_ns, observer)
        with Translated():
            return self.program.lookup(world, path)

    def program_lookup(self, keys: tuple[Value, ...], data: Value) -> Result:
        """What `data` holds at any keys, without input. Raises EvaluationError."""
        with Translated():
            return self.program.lookup(self._world(UNDEFINED, data, False, None, None), keys)

    def _world(
        self, input_document: Result, data: Value, strict: bool, now_ns: int | None, observer: Observer | None
    ) -> World:
        run = Run(self._limits, strict=strict, now_ns=now_ns, observer=observer)
        return World(run, input_document, data)


class Translated:
    """Turns what the machine itself reports (recursion, number size) into named limits."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, RecursionError):
            raise LimitExceededError("nesting", "rules, bodies or values are nested too deeply") from error
        if isinstance(error, NumberLimitExceededError):
            raise LimitExceededError("number", str(error)) from error


__all__ = [
    "UNDEFINED",
    "BuiltinFailedError",
    "ConflictError",
    "EvaluationError",
    "Evaluator",
    "LimitExceededError",
    "Limits",
    "Observer",
    "RefusedError",
    "Undefined",
]
