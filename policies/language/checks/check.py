"""Everything that `gatehouse policy check` asks of a policy, in one call.

Errors of the compile stage stop the rest; after it all checks run and are reported together. Errors are
raised, warnings returned with the compiled policy.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from policies.language.checks.constants import check_constants
from policies.language.checks.mistakes import check_mistakes
from policies.language.checks.reach import check_conflicts, check_never_holds, check_unasked, check_unreached
from policies.language.checks.requests import check_requests
from policies.language.checks.types import check_comparisons, check_types
from policies.language.compiler.calls import BuiltinDeclaration
from policies.language.compiler.compile import compile_modules
from policies.language.compiler.compiled import CompiledModules
from policies.language.compiler.graph import Path
from policies.language.diagnostics import Diagnostic, Diagnostics, Severity
from policies.language.schema import input_type
from policies.language.syntax.ast import Module
from policies.language.syntax.parser import parse_module
from policies.language.types import ANY, Type


@dataclass(frozen=True, slots=True)
class Checked:
    """A policy without errors, and the warnings about it."""

    compiled: CompiledModules
    warnings: tuple[Diagnostic, ...]


def parse_modules(texts: Mapping[str, str]) -> list[Module]:
    """Modules by file name. Raises Diagnostics with the errors of all files."""
    modules: list[Module] = []
    found: list[Diagnostic] = []
    for file, text in texts.items():
        try:
            modules.append(parse_module(text, file))
        except Diagnostics as error:
            found.extend(error.diagnostics)
    if found:
        raise Diagnostics(found)
    return modules


def check_modules(
    modules: Sequence[Module],
    builtins: Mapping[str, BuiltinDeclaration],
    *,
    schema: Type | None = None,
    entrypoints: Iterable[Path] = (),
) -> Checked:
    """Compiles and checks modules against the input schema (ours unless given). Raises Diagnostics.

    A module whose package annotation gives `input` a schema of its own (admission reviews, calls of our
    API) decides about another kind of input; ours isn't held against it.
    """
    compiled = compile_modules(modules, builtins)
    schema = input_type() if schema is None else schema
    foreign = {module.source.file for module in modules if _has_own_input(module)}
    found = [
        *compiled.findings,
        *_typed(compiled, builtins, schema, foreign),
        *check_constants(compiled),
        *check_mistakes(modules, builtins),
        *check_requests(module for module in modules if module.source.file not in foreign),
        *check_conflicts(compiled),
        *check_never_holds(compiled),
        *check_unreached(compiled, entrypoints),
        *check_unasked(compiled, foreign),
    ]
    errors = [diagnostic for diagnostic in found if diagnostic.severity is Severity.ERROR]
    if errors:
        raise Diagnostics(sorted(errors, key=_place))
    return Checked(compiled, tuple(sorted(dict.fromkeys(found), key=_place)))


def _has_own_input(module: Module) -> bool:
    return any(path == "input" for annotation in module.annotations for path, _ in annotation.schemas)


def _typed(
    compiled: CompiledModules, builtins: Mapping[str, BuiltinDeclaration], schema: Type, foreign: Set[str]
) -> list[Diagnostic]:
    """Findings about types; in files with another input, those that hold whatever the input is."""
    found: list[Diagnostic] = []
    for input_schema, of_foreign in ((schema, False), (ANY, True)):
        if of_foreign and not foreign:
            continue
        for check in (check_types, check_comparisons):
            diagnostics = check(compiled, builtins, input_schema)
            found.extend(d for d in diagnostics if (d.span.source.file in foreign) is of_foreign)
    return found


def _place(diagnostic: Diagnostic) -> tuple[str, int]:
    return diagnostic.span.source.file, diagnostic.span.start
