"""Running the tests of a policy: every rule named `test_…` must be true. `todo_test_…` is skipped.

A test rule with a key (`test_cases[note] if …`) is one test a key. Coverage counts, in files that aren't
tests, the lines of heads and expressions that held in some test, as `opa test --coverage` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from policies.files import LIBRARY_FILES, is_test
from policies.language.compiler.compiled import CompiledModules, CompiledRule
from policies.language.concrete.evaluate import UNDEFINED, EvaluationError, Evaluator
from policies.language.concrete.world import Observer
from policies.language.source import Span
from policies.language.syntax import ast
from policies.language.values import TRUE, Object, Value, from_python
from policies.project import Project


@dataclass(frozen=True, slots=True)
class TestResult:
    """One test: `error` is why its evaluation ended, where it did."""

    package: str
    name: str
    place: str
    passed: bool
    skipped: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Lines of one file that hold a head or an expression, and those of them that no test reached."""

    lines: tuple[int, ...]
    missed: tuple[int, ...]

    @property
    def percent(self) -> float:
        """100 for a file without rules."""
        return 100.0 if not self.lines else 100.0 * (len(self.lines) - len(self.missed)) / len(self.lines)


@dataclass(frozen=True, slots=True)
class Report:
    """All tests in order, and the coverage of each file."""

    results: tuple[TestResult, ...]
    coverage: Mapping[str, Coverage]

    @property
    def failed(self) -> tuple[TestResult, ...]:
        """What didn't pass and wasn't skipped."""
        return tuple(one for one in self.results if not one.passed and not one.skipped)

    @property
    def percent(self) -> float:
        """Coverage of all files together."""
        lines = sum(len(one.lines) for one in self.coverage.values())
        missed = sum(len(one.missed) for one in self.coverage.values())
        return 100.0 if not lines else 100.0 * (lines - missed) / lines


def run_tests(project: Project) -> Report:
    """Runs every test of a project. Raises Diagnostics where it doesn't compile."""
    compiled = project.compiled(with_tests=True)
    data = from_python(project.data)
    reached: set[tuple[str, int]] = set()

    def mark(span: Span) -> None:
        reached.add((span.source.file, span.row))

    observer = Observer(lambda span, _value: mark(span), lambda rule, _value: mark(rule.span))
    evaluator = Evaluator(compiled, observed=True)
    results = tuple(
        result
        for path, rule in sorted(_tests(compiled), key=lambda found: found[0])
        for result in _run(evaluator, path, rule, data, observer)
    )
    return Report(results, dict(_coverage(project, reached)))


def _tests(compiled: CompiledModules) -> Iterator[tuple[tuple[str, ...], CompiledRule]]:
    for path, group in compiled.groups.items():
        if (
            path[-1].startswith(("test_", "todo_test_"))
            and group.rules
            and is_test(group.rules[0].span.source.file)
        ):
            yield path, group.rules[0]


def _run(
    evaluator: Evaluator, path: tuple[str, ...], rule: CompiledRule, data: Value, observer: Observer
) -> Iterator[TestResult]:
    package, name, place = (
        ".".join(("data", *path[:-1])),
        path[-1],
        f"{rule.span.source.file}:{rule.span.row}",
    )
    if name.startswith("todo_"):
        yield TestResult(package, name, place, passed=False, skipped=True)
        return
    try:
        value = evaluator.document(path, data=data, observer=observer)
    except EvaluationError as error:
        yield TestResult(package, name, place, passed=False, error=str(error))
        return
    if rule.keys and isinstance(value, Object) and value:
        for key, one in value.ordered_items():
            yield TestResult(package, f"{name}/{key}", place, passed=one is TRUE)
    else:
        yield TestResult(package, name, place, passed=value is not UNDEFINED and value is TRUE)


def _coverage(project: Project, reached: set[tuple[str, int]]) -> Iterator[tuple[str, Coverage]]:
    for module in project.modules:
        file = module.source.file
        if file.startswith(LIBRARY_FILES):
            continue  # ours, and tested by us
        lines = sorted({span.row for rule in module.rules for span in _spans(rule)})
        missed = [row for row in lines if (file, row) not in reached]
        yield file, Coverage(tuple(lines), tuple(missed))


def _spans(rule: ast.Rule) -> Iterator[Span]:
    branch: ast.Rule | None = rule
    while branch is not None:
        if (
            not branch.is_default
        ):  # a default is what holds when nothing was decided; there is nothing to reach
            yield branch.head.span if branch is rule else branch.span
            for expression in branch.body:
                yield expression.span
        branch = branch.otherwise
