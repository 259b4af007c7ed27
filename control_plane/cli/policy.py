"""`gatehouse policy`: write Rego, see what it means, and get manifests that are proved to say the same.

Nothing here needs a server. Exit codes: 0 done; 1 the policy has errors, a test failed, or a proof did;
2 wrong usage; 3 a file is missing.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from control_plane.cli import printing
from control_plane.cli.options import Output, OutputFlag, group
from control_plane.cli.policy_envoy import import_envoy
from control_plane.cli.policy_explain import explain
from control_plane.cli.policy_files import (
    LIBRARY,
    FolderArgument,
    read_inventory,
    read_project,
    read_text,
    shipped,
    write_files,
    writing,
)
from control_plane.cli.policy_manifests import compile_policy, render
from control_plane.cli.policy_meaning import callers_of, diff, reachable_from
from control_plane.cli.remote import reported
from control_plane.cli.rollout import add_rollout
from control_plane.core.errors import AlreadyExists, InvalidInput, NotFound, ResourceExhausted, shown
from control_plane.runtime.output import escaped

app = group("Rego policies: check, test, compile, prove, render.")
app.command(name="compile")(compile_policy)
app.command()(render)
app.command()(explain)
app.command(name="import-envoy")(import_envoy)
app.command()(diff)
app.command(name="callers-of")(callers_of)
app.command(name="reachable-from")(reachable_from)
add_rollout(app)


@app.callback()
def policy() -> None:
    """Rego policies: check, test, compile, prove, render."""
    # A command makes millions of values that stay to its end and form no cycles: looking for cycles among
    # them would take up to half of its time.
    gc.freeze()
    gc.set_threshold(1_000_000, 20, 50)


_INVENTORY_SCHEMA = "inventory.schema.json"
_CAPABILITIES = "capabilities.json"


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A new folder.")], output: OutputFlag = Output.HUMAN
) -> None:
    """Makes a project to start from: policies of a small shop, with tests."""
    with reported(output):
        with writing(folder):
            if folder.exists() and any(folder.iterdir()):
                raise AlreadyExists(
                    f"making a project in {folder}: the folder isn't empty", hint="name a new one"
                )
        starter = shipped("starter").items()
        written = write_files(
            folder, {str(Path(name).relative_to("gatehouse/starter")): text for name, text in starter}
        )

    def human() -> None:
        for path in written:
            printing.line(path)
        printing.note(f"next: gatehouse policy test {folder}")

    printing.emit(output, {"written": written}, human)


@app.command()
def check(folder: FolderArgument, output: OutputFlag = Output.HUMAN) -> None:
    """Finds what is wrong with a policy, every error with its line, and what to write instead."""
    from policies.language.diagnostics import Diagnostics
    from policies.project import Project

    with reported(output):
        written = read_project(folder, with_library=False)
        try:
            found = Project.of(read_project(folder)).checked().warnings
        except Diagnostics as error:
            _print_findings(output, error.diagnostics, error.omitted)
            raise typer.Exit(1) from None
    # Of a library that was added, the author can mend nothing: what only it is warned of is not shown.
    _print_findings(output, [each for each in found if each.span.source.file in written], 0)


@app.command()
def test(
    folder: FolderArgument,
    threshold: Annotated[
        float, typer.Option(min=0, max=100, help="Fail below this coverage, in percent.")
    ] = 0.0,
    run: Annotated[str, typer.Option("--run", help="Only tests whose name holds this text.")] = "",
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Runs `test_…` rules and tells which lines no test reached."""
    from policies.project import Project
    from policies.testing import run_tests

    with reported(output):
        report = run_tests(Project.of(read_project(folder)))
    results = [one for one in report.results if run in f"{one.package}.{one.name}"]
    failed = [one for one in results if not one.passed and not one.skipped]
    answer = {
        "passed": sum(one.passed for one in results),
        "failed": len(failed),
        "skipped": sum(one.skipped for one in results),
        "coverage_percent": round(report.percent, 1),
        "tests": [
            {
                "package": one.package, "name": one.name, "location": one.place,
                "outcome": "passed" if one.passed else "skipped" if one.skipped else "failed",
                **({"error": one.error} if one.error else {}),
            }
            for one in results
        ],
        "files": {
            name: {"coverage_percent": round(one.percent, 1), "missed_lines": list(one.missed)}
            for name, one in report.coverage.items()
        },
    }  # fmt: skip

    def human() -> None:
        for one in failed:
            printing.line(f"failed  {one.place}  {one.package}.{one.name}  {one.error}".rstrip())
        for name, covered in report.coverage.items():
            if covered.missed:
                printing.line(f"not reached  {name}: lines {', '.join(map(str, covered.missed))}")
        if not results:
            wanted = (
                f"whose name holds {run!r}"
                if run and report.results
                else "named test_… in a file *_test.rego"
            )
            printing.line(f"there is no test: a rule {wanted}")
        printing.line(
            f"{answer['passed']} passed, {answer['failed']} failed, {answer['skipped']} skipped; "
            f"coverage {answer['coverage_percent']} %"
        )

    printing.emit(output, answer, human)
    if failed or not results or report.percent < threshold:
        raise typer.Exit(1)


@app.command()
def fmt(
    paths: Annotated[list[Path], typer.Argument(help="Rego files, or folders of them.")],
    only_list: Annotated[
        bool, typer.Option("--list", "-l", help="Only name files that would change.")
    ] = False,
    fail: Annotated[bool, typer.Option("--fail", help="Exit with 1 where a file would change.")] = False,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Formats Rego as `opa fmt` does, in place."""
    from policies.language.layout.format import format_text

    changed = []
    with reported(output):
        for path in paths:
            if not path.exists():
                hint = "name Rego files, or folders of them"
                raise NotFound(f"formatting {path}: it doesn't exist", hint=hint)
            for file in [path] if path.is_file() else sorted(path.rglob("*.rego")):
                text = read_text(file)
                formatted = format_text(text, str(file))
                if formatted != text:
                    changed.append(str(file))
                    if not (only_list or fail):
                        write_files(file.parent, {file.name: formatted})

    def human() -> None:
        for name in changed:
            printing.line(name)

    printing.emit(output, {"changed": changed}, human)
    if fail and changed:
        raise typer.Exit(1)


@app.command()
def schema(
    folder: Annotated[Path, typer.Argument(help="Where to put the files; ours there are replaced.")],
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Writes schemas, capabilities and our library, so that editors and `opa check` know what we know."""
    import json
    from importlib.resources import files

    from policies.files import is_test
    from policies.language.builtins.registry import BUILTINS
    from policies.language.schema import INPUT_SCHEMA_FILE, input_schema
    from policies.language.schema.capabilities import capabilities

    made = {
        INPUT_SCHEMA_FILE: json.dumps(input_schema(), indent=2) + "\n",
        _INVENTORY_SCHEMA: (files("policies") / _INVENTORY_SCHEMA).read_text(encoding="utf-8"),
        _CAPABILITIES: json.dumps(capabilities(BUILTINS), indent=2) + "\n",
    }
    library = {
        f"{LIBRARY}/{Path(name).name}": text for name, text in shipped(LIBRARY).items() if not is_test(name)
    }
    with reported(output):
        written = write_files(folder, made | library)

    def human() -> None:
        for path in written:
            printing.line(path)
        given = f"--schema {folder / INPUT_SCHEMA_FILE} --capabilities {folder / _CAPABILITIES}"
        printing.note(f"next: opa check --strict {given} {folder / LIBRARY} POLICY")

    printing.emit(output, {"written": written}, human)


@app.command(name="eval")
def evaluate(
    folder: FolderArgument,
    query: Annotated[
        str, typer.Option("--query", "-q", help="A Rego query, such as data.gatehouse.authz.allow.")
    ],
    input_file: Annotated[
        Path | None, typer.Option("--input", "-i", help="The input document, JSON.")
    ] = None,
    inventory: Annotated[Path | None, typer.Option("--inventory", help="Becomes data.inventory.")] = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Evaluates a query for one input, as the agent would."""
    from policies.language.builtins.registry import BUILTINS
    from policies.language.compiler.compile import compile_query
    from policies.language.concrete.evaluate import (
        UNDEFINED,
        EvaluationError,
        Evaluator,
        LimitExceededError,
    )
    from policies.language.serial import json_text, parse_json
    from policies.language.syntax.ast import Call, Ref, Var
    from policies.language.syntax.parser import parse_query
    from policies.language.values import from_python
    from policies.project import Project

    with reported(output):
        project = Project.of(read_project(folder))
        compiled = project.compiled()
        data = {**project.data, **({"inventory": _inventory_data(inventory)} if inventory else {})}
        given = _parsed(read_text(input_file), str(input_file), parse_json) if input_file else UNDEFINED
        body = parse_query(query)
        if len(body) == 1 and isinstance(body[0].node, Ref | Var | Call) and not _binds(body[0].node):
            compile_query(body, compiled, BUILTINS)  # what is wrong with it is told where it was written
            # One term: its value is what is asked for, even where false.
            body = parse_query(f"value = {query}")
        asked = compile_query(body, compiled, BUILTINS)
        try:
            found = Evaluator(compiled).query(asked, input_document=given, data=from_python(data))
        except LimitExceededError as error:
            raise ResourceExhausted(f"evaluating {shown(query)}: {error}") from error
        except EvaluationError as error:
            raise InvalidInput(f"evaluating {shown(query)}: {error}") from error
        results = from_python([dict(bindings) for bindings in found])

    # Written by our own serialiser: Rego's numbers are exact, and Python's json would round them.
    if output is Output.JSON:
        printing.document(json_text(from_python({"results": results}), indent="  "))
        return
    for bindings in found:
        printing.line(json_text(from_python(dict(bindings))) if bindings else "true")
    if not found:
        printing.line("undefined")
        if hint := _misspelt(query, compiled.groups):
            printing.note(hint)


def _misspelt(query: str, groups: Mapping[tuple[str, ...], object]) -> str:
    """What to say of a query that is a path of `data` where no rule is; nothing where there is one."""
    from policies.language.diagnostics import did_you_mean

    first, *steps = query.strip().partition("[")[0].split(".")
    path = tuple(steps)
    if first != "data" or any(path[: len(one)] == one or one[: len(path)] == path for one in groups):
        return ""
    near = did_you_mean(query.strip(), (".".join(("data", *one)) for one in groups))
    return f"no rule is at {query.strip()}" + (f": {near}" if near else "")


@app.command()
def conformance(
    cases: Annotated[Path, typer.Argument(help="Cases, one JSON object a line.")],
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Runs published Rego cases and counts what is right, refused with a reason, and wrong."""
    from policies.language.conformance import run_cases

    with reported(output):
        hint = "one case a line is expected, as JSON"
        report = _parsed(read_text(cases), str(cases), lambda text: run_cases(text.split("\n")), hint)
        answer = report.to_json()

    def human() -> None:
        for name in ("right", "refused", "wrong"):
            printing.line(f"{name:8} {answer[name]['count']}")

    printing.emit(output, answer, human)
    if answer["wrong"]["count"]:
        raise typer.Exit(1)


def _print_findings(output: Output, findings: Any, omitted: int) -> None:
    def human() -> None:
        for finding in findings:
            printing.document(escaped_lines(finding.render()))
        if omitted:
            printing.line(f"… and {omitted} more")
        if not findings:
            printing.line("no errors, no warnings")

    printing.emit(
        output, {"findings": [finding.to_json() for finding in findings], "omitted": omitted}, human
    )


def escaped_lines(text: str) -> str:
    """Several lines, each made safe for a terminal."""
    return "\n".join(map(escaped, text.splitlines()))


def _inventory_data(path: Path) -> dict[str, object]:
    from policies.questions import inventory_document

    return inventory_document(read_inventory(path))


def _binds(node: Any) -> bool:
    from policies.language.syntax.ast import Call

    return isinstance(node, Call) and node.name in ("assign", "eq")


def _parsed(text: str, what: str, parse: Any, hint: str = "one JSON document is expected") -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise InvalidInput(f"reading {what}: {error}", hint=hint) from error
