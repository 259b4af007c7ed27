"""Runs conformance cases of Rego and says which end right, which are refused, and which are wrong.

A case is one JSON object a line: `id`, `query`, `modules`, `data`, `input` or `input_term`, and what is
wanted: `want_result` (a list of bindings, sets given as sorted arrays; with `sort_bindings` an array that is
bound counts by its members, in any order) or `want_error_code` (`strict_error`: only when errors of
built-ins are strict). A case is *right* when it ends as wanted;
*refused* when loading it or running it ends with an error that names a construct which is not implemented;
otherwise *wrong*.

    python -m policies.language.conformance CASES.jsonl --output json

Not here: reading files and the command line of the product, which call `run_cases`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from policies.language.builtins.registry import BUILTINS
from policies.language.compiler.compile import compile_modules, compile_query
from policies.language.concrete.evaluate import (
    UNDEFINED,
    EvaluationError,
    Evaluator,
    LimitExceededError,
    RefusedError,
)
from policies.language.concrete.world import Result
from policies.language.diagnostics import Diagnostics, ErrorCode
from policies.language.serial import JsonError, json_key, json_text, parse_json
from policies.language.syntax.parser import parse_module, parse_query
from policies.language.values import EMPTY_OBJECT, TRUE, Object, Set, Value, ordered

_NOW_NS = 1_795_000_000_000_000_000
"""The present moment of every case: November 2026."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one case ended; `construct` for a refused one, `detail` for a wrong one."""

    case: str
    kind: str
    construct: str = ""
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """The outcomes of all cases."""

    outcomes: tuple[Outcome, ...]

    def of(self, kind: str) -> list[Outcome]:
        """The outcomes of one kind: right, refused or wrong."""
        return [outcome for outcome in self.outcomes if outcome.kind == kind]

    def to_json(self) -> dict[str, Any]:
        """`right`, `refused` and `wrong`, each with `count` and `cases`."""
        right, refused, wrong = self.of("right"), self.of("refused"), self.of("wrong")
        return {
            "right": {"count": len(right), "cases": [outcome.case for outcome in right]},
            "refused": {
                "count": len(refused),
                "cases": [{"id": o.case, "construct": o.construct, "reason": o.detail} for o in refused],
            },
            "wrong": {"count": len(wrong), "cases": [{"id": o.case, "detail": o.detail} for o in wrong]},
        }


def run_cases(lines: Iterable[str], clock: Clock = lambda: 0.0) -> Report:
    """Runs every case; `clock` (seconds) only measures. ValueError for a line that is no case."""
    outcomes = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            case = parse_json(line)
        except JsonError as error:
            raise ValueError(f"line {number} is not JSON: {error}") from error
        if not isinstance(case, Object) or not isinstance(case.get("query"), str):
            raise ValueError(f"line {number} is not a conformance case: an object with a query was expected")
        for member in ("modules", "want_result"):
            if not isinstance(case.get(member, ()), tuple):
                raise ValueError(f"line {number} is not a conformance case: {member} is no list")
        started = clock()
        outcome = run_case(case)
        outcomes.append(
            Outcome(outcome.case, outcome.kind, outcome.construct, outcome.detail, clock() - started)
        )
    return Report(tuple(outcomes))


def run_case(case: Object) -> Outcome:
    """Compiles and evaluates one case and compares it with what is wanted."""
    name = str(case.get("id", case.get("note", "")))
    try:
        found = _results(case)
    except RefusedError as error:
        return Outcome(name, "refused", construct=error.construct, detail=str(error))
    except LimitExceededError as error:
        return Outcome(name, "refused", construct=f"limit {error.limit}", detail=str(error))
    except Diagnostics as error:
        refusal = _refusal(error)
        if refusal:
            return Outcome(name, "refused", construct=refusal, detail=str(error))
        return _wanted_error(case, name, "compile", str(error))
    except EvaluationError as error:
        return _wanted_error(case, name, error.code, str(error))
    if "want_error_code" in case or "want_error" in case:
        return Outcome(name, "wrong", detail=f"wanted an error, got {_shown(found)}")
    wanted = case.get("want_result", ())
    if _same_results(found, wanted, in_any_order=case.get("sort_bindings") is TRUE):
        return Outcome(name, "right")
    return Outcome(name, "wrong", detail=f"wanted {json_text(wanted)}, got {_shown(found)}")


def _refusal(error: Diagnostics) -> str:
    """What is not supported, when that is what the compiler found."""
    for diagnostic in error.diagnostics:
        unknown_function = diagnostic.message.startswith("undefined function ")
        if unknown_function or diagnostic.code in (ErrorCode.UNSUPPORTED, ErrorCode.LIMIT):
            return diagnostic.span.text or diagnostic.message
    return ""


def _wanted_error(case: Object, name: str, code: str, message: str) -> Outcome:
    wanted = case.get("want_error_code")
    named = code in str(case.get("want_error", "")) if wanted is None else wanted == code
    return Outcome(name, "right") if named else Outcome(name, "wrong", detail=f"{code}: {message}")


def _results(case: Object) -> list[dict[str, Value]]:
    sources = case.get("modules", ())
    assert isinstance(sources, tuple)
    modules = [parse_module(str(text), f"module{index}.rego") for index, text in enumerate(sources)]
    compiled = compile_modules(modules, BUILTINS)
    query = compile_query(parse_query(str(case["query"])), compiled, BUILTINS)
    data = case.get("data", EMPTY_OBJECT)
    evaluator = Evaluator(compiled)
    strict = case.get("strict_error") is TRUE or "want_error_code" in case
    found = evaluator.query(
        query,
        input_document=_input(case),
        data=EMPTY_OBJECT if data is None else data,
        strict=strict,
        now_ns=_NOW_NS,
    )
    return [dict(bindings) for bindings in found]


def _input(case: Object) -> Result:
    if "input_term" in case:
        nothing = compile_modules([], BUILTINS)
        query = compile_query(parse_query(f"x = {case['input_term']}"), nothing, BUILTINS)
        (bindings,) = Evaluator(nothing).query(query)
        return bindings["x"]
    return case.get("input", UNDEFINED)


def _same_results(found: list[dict[str, Value]], wanted: Value, *, in_any_order: bool) -> bool:
    """Whether the results are equal as JSON, in whatever order they were found."""
    assert isinstance(wanted, tuple)
    results = [_as_json(Object(bindings)) for bindings in found]
    if in_any_order:
        return Counter(map(_sorted_bindings, results)) == Counter(map(_sorted_bindings, wanted))
    return Counter(results) == Counter(wanted)


def _sorted_bindings(result: Value) -> Value:
    """A result with the arrays that its variables are bound to sorted."""
    assert isinstance(result, Object)
    return Object(
        {name: tuple(ordered(value)) if isinstance(value, tuple) else value for name, value in result.items()}
    )


def _as_json(value: Value) -> Value:
    """The value with sets as arrays, sorted after their members became JSON."""
    if isinstance(value, Set):
        return tuple(ordered(map(_as_json, value)))
    if isinstance(value, tuple):
        return tuple(map(_as_json, value))
    if isinstance(value, Object):
        return Object({json_key(key): _as_json(item) for key, item in value.items()})
    return value


def _shown(found: list[dict[str, Value]]) -> str:
    return ", ".join(json_text(Object(bindings)) for bindings in found)[:2_000] or "no result"


def main(arguments: list[str] | None = None) -> int:
    """`FILE [--output json]`: prints the report; 1 when a case is wrong."""
    import sys
    import timeit
    from pathlib import Path

    given = sys.argv[1:] if arguments is None else arguments
    files = [argument for argument in given if not argument.startswith("--") and argument != "json"]
    report = run_cases(Path(files[0]).read_text("utf-8").splitlines(), timeit.default_timer)
    if "--output" in given:
        sys.stdout.write(json.dumps(report.to_json(), indent=2) + "\n")
    else:
        slowest = max(report.outcomes, key=lambda outcome: outcome.seconds)
        for kind in ("right", "refused", "wrong"):
            sys.stdout.write(f"{kind}: {len(report.of(kind))}\n")
        for outcome in report.of("wrong"):
            sys.stdout.write(f"wrong {outcome.case}: {outcome.detail}\n")
        total = sum(outcome.seconds for outcome in report.outcomes)
        sys.stdout.write(f"{total:.1f} s in all, slowest {slowest.case}: {slowest.seconds:.2f} s\n")
    return 1 if report.of("wrong") else 0


if __name__ == "__main__":
    raise SystemExit(main())
