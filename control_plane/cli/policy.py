"""`gatehouse policy`: write Rego, see what it means, and get manifests that are proved to say the same.

Nothing here needs a server. Exit codes: 0 done; 1 the policy has errors, a test failed, or a proof did;
2 wrong usage; 3 a file is missing.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from control_plane.cli import printing
from control_plane.cli.options import Output, OutputFlag, group
from control_plane.cli.policy_files import read_project, read_text, shipped
from control_plane.cli.remote import reported
from control_plane.core.errors import AlreadyExists, InvalidInput
from control_plane.runtime.output import escaped

app = group("Rego policies: check, test, compile, prove, render.")

FolderArgument = Annotated[Path, typer.Argument(help="Folder with Rego and data, or one file.")]
InventoryFlag = Annotated[Path, typer.Option("--inventory", help="What exists: workloads, services, labels.")]
TargetFlag = Annotated[str, typer.Option("--target", help="What the manifests are for.")]
ExactFlag = Annotated[bool, typer.Option("--exact-only", help="Refuse what the target can't say exactly.")]
CustomFlag = Annotated[
    str,
    typer.Option(
        "--custom-provider", help="Name of the agent's ext_authz provider; lets it decide the rest."
    ),
]


class FailOn(StrEnum):
    """Which changes a gate refuses; what can't be decided counts as a gain."""

    GAINS = "gains"
    ANY = "any"
    NONE = "none"


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A new folder.")], output: OutputFlag = Output.HUMAN
) -> None:
    """Makes a project to start from: policies of a small shop, with tests."""
    with reported(output):
        if folder.exists() and any(folder.iterdir()):
            raise AlreadyExists(
                f"making a project in {folder}: the folder isn't empty", hint="name a new one"
            )
        written = []
        for name, text in shipped("starter").items():
            path = folder / Path(name).relative_to("gatehouse/starter")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            written.append(str(path))

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
        files = read_project(folder)
        try:
            warnings = Project.of(files).checked().warnings
        except Diagnostics as error:
            _print_findings(output, error.diagnostics, error.omitted)
            raise typer.Exit(1) from None
    _print_findings(output, warnings, 0)


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
    from policies.language.format import format_text

    changed = []
    with reported(output):
        for path in paths:
            for file in [path] if path.is_file() else sorted(path.rglob("*.rego")):
                text = read_text(file)
                formatted = format_text(text, str(file))
                if formatted != text:
                    changed.append(str(file))
                    if not (only_list or fail):
                        file.write_text(formatted, encoding="utf-8")

    def human() -> None:
        for name in changed:
            printing.line(name)

    printing.emit(output, {"changed": changed}, human)
    if fail and changed:
        raise typer.Exit(1)


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
    from policies.language.ast import Call, Ref, Var
    from policies.language.builtins.registry import BUILTINS
    from policies.language.compile import compile_query
    from policies.language.evaluate import UNDEFINED, Evaluator
    from policies.language.parser import parse_query
    from policies.language.serial import json_text, parse_json
    from policies.language.values import from_python
    from policies.project import Project

    with reported(output):
        project = Project.of(read_project(folder))
        compiled = project.compiled()
        data = {**project.data, **({"inventory": _inventory_data(inventory)} if inventory else {})}
        given = _parsed(read_text(input_file), str(input_file), parse_json) if input_file else UNDEFINED
        body = parse_query(query)
        if len(body) == 1 and isinstance(body[0].node, Ref | Var | Call) and not _binds(body[0].node):
            body = parse_query(
                f"value = {query}"
            )  # one term: its value is what is asked for, even where false
        asked = compile_query(body, compiled, BUILTINS)
        found = Evaluator(compiled).query(asked, input_document=given, data=from_python(data))
        results = from_python([dict(bindings) for bindings in found])

    # Written by our own serialiser: Rego's numbers are exact, and Python's json would round them.
    if output is Output.JSON:
        printing.document(json_text(from_python({"results": results}), indent="  "))
        return
    for bindings in found:
        printing.line(json_text(from_python(dict(bindings))) if bindings else "true")
    if not found:
        printing.line("undefined")


@app.command(name="compile")
def compile_command(
    folder: FolderArgument,
    inventory: InventoryFlag,
    target: TargetFlag = "istio-sidecar",
    exact_only: ExactFlag = False,
    custom_provider: CustomFlag = "",
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Compiles a policy for a target and proves that the manifests admit nothing that Rego refuses."""
    with reported(output):
        compiled = _compiled(folder, inventory, target, exact_only, custom_provider)
    _print_compilation(output, compiled, [])
    if not compiled.accepted:
        raise typer.Exit(1)


@app.command()
def render(
    folder: FolderArgument,
    inventory: InventoryFlag,
    out: Annotated[Path, typer.Option("--out", help="A folder; one file an object, and a kustomization.")],
    target: TargetFlag = "istio-sidecar",
    exact_only: ExactFlag = False,
    custom_provider: CustomFlag = "",
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Writes the proved manifests for GitOps; files of an earlier render that are no longer meant go."""
    with reported(output):
        compiled = _compiled(folder, inventory, target, exact_only, custom_provider)
        if not compiled.accepted:
            _print_compilation(output, compiled, [])
            raise typer.Exit(1)
        written = _write(out, compiled.files())
    _print_compilation(output, compiled, written)


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="The policy as it is.")],
    new: Annotated[Path, typer.Argument(help="The policy as it would be.")],
    inventory: InventoryFlag,
    markdown: Annotated[bool, typer.Option("--markdown", help="A table for a pull request.")] = False,
    fail_on: Annotated[FailOn, typer.Option(help="Which changes exit with 1.")] = FailOn.GAINS,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Tells who gains and who loses access, each with one request that shows it and the Rego lines."""
    from policies.diff import Direction, compare_policies
    from policies.diff import markdown as as_table
    from policies.inventory_file import parse_inventory
    from policies.project import Project
    from policies.questions import Questions

    with reported(output):
        known = parse_inventory(read_text(inventory))
        before, after = (
            Questions.of(project.checked().compiled, known, project.data).all(project.digest)
            for project in (Project.of(read_project(old)), Project.of(read_project(new)))
        )
        changes = compare_policies(before, after, known)
    answer = [
        {
            "direction": str(one.direction), "workload": one.workload, "question": one.question,
            "caller": one.caller, "request": one.request.document() if one.request else None,
            "before": [str(origin) for origin in one.before], "after": [str(origin) for origin in one.after],
            "reason": one.reason,
        }
        for one in changes
    ]  # fmt: skip

    def human() -> None:
        if markdown:
            printing.document(as_table(changes))
            return
        for one in changes:
            printing.line(
                f"{one.direction}  {one.caller or 'callers outside the inventory'} → {one.workload}"
            )
            printing.line(f"    {_what_is_asked(one.request) if one.request else one.reason}")
            for side, origins in (("before", one.before), ("after", one.after)):
                printing.line(f"    {side}: {one.question} {', '.join(map(str, origins)) or 'no rule'}")
        if not changes:
            printing.line("no request gains or loses access")

    printing.emit(output, {"changes": answer}, human)
    counted = changes if fail_on is FailOn.ANY else [c for c in changes if c.direction is not Direction.LOSES]
    if counted and fail_on is not FailOn.NONE:
        raise typer.Exit(1)


@app.command()
def conformance(
    cases: Annotated[Path, typer.Argument(help="Cases, one JSON object a line.")],
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Runs published Rego cases and counts what is right, refused with a reason, and wrong."""
    from policies.language.conformance import run_cases

    with reported(output):
        report = run_cases(read_text(cases).splitlines())
        answer = report.to_json()

    def human() -> None:
        for name in ("right", "refused", "wrong"):
            printing.line(f"{name:8} {answer[name]['count']}")

    printing.emit(output, answer, human)
    if answer["wrong"]["count"]:
        raise typer.Exit(1)


def _compiled(folder: Path, inventory: Path, target: str, exact_only: bool, custom_provider: str) -> Any:
    from policies.compilation import compile_project
    from policies.inventory_file import parse_inventory
    from policies.project import Project
    from policies.targets.emission import Options

    project = Project.of(read_project(folder))
    options = Options(exact_only=exact_only, custom_provider=custom_provider)
    return compile_project(project, parse_inventory(read_text(inventory)), target, options)


def _print_compilation(output: Output, compiled: Any, written: list[str]) -> None:
    answer = {
        "target": compiled.proved.target,
        "bundle_digest": compiled.policies.bundle_digest,
        "accepted": compiled.accepted,
        "exact": compiled.exact,
        "objects": len(compiled.proved.emission.manifests),
        "verdicts": [
            {
                "workload": one.workload, "layer": one.layer, "outcome": str(one.outcome),
                "witness": one.witness.document() if one.witness else None,
                "origins": [str(origin) for origin in one.origins],
                "reason": one.reason, "assumptions": list(one.assumptions),
            }
            for one in compiled.proved.verdicts
        ],
        "shortfalls": [
            {
                "workload": one.workload, "step": str(one.step), "reason": one.reason,
                "origins": [str(origin) for origin in one.origins],
            }
            for one in compiled.proved.emission.shortfalls
        ],
        "warnings": [warning.to_json() for warning in compiled.warnings],
        "written": written,
    }  # fmt: skip

    def human() -> None:
        for warning in compiled.warnings:
            printing.note(warning.render())
        rows = [
            (one.workload, one.layer, one.outcome, ", ".join(map(str, one.origins)))
            for one in compiled.proved.verdicts
        ]
        printing.table(["workload", "guard", "outcome", "rego"], rows, empty="no workload is governed")
        for one in compiled.proved.verdicts:
            if one.witness is not None:
                verb = (
                    "is refused, though Rego allows"
                    if one.accepted
                    else "is let through, though Rego refuses"
                )
                printing.line(f"{one.workload}: {verb}: {_what_is_asked(one.witness)}")
            elif one.reason:
                printing.line(f"{one.workload}: {one.reason}")
        for one in compiled.proved.emission.shortfalls:
            printing.line(str(one))
        said = (
            "refused"
            if not compiled.accepted
            else "exact"
            if compiled.exact
            else "accepted, narrower than Rego"
        )
        printing.line(f"{compiled.proved.target}: {len(compiled.proved.emission.manifests)} objects, {said}")
        if written:
            printing.line(f"wrote {len(written)} files")

    printing.emit(output, answer, human)


def _what_is_asked(request: Any) -> str:
    """A request without what the workload's name and the caller's identity say already."""
    from policies.formula import Request

    said = (
        "destination.",
        "connection.mtls",
        "source.labels",
        "source.namespace",
        "source.service_account",
        "source.trust",
    )
    kept = {
        attribute: value
        for attribute, value in request.values.items()
        if attribute.name == "destination.port" or not attribute.name.startswith(said)
    }
    return str(Request.of(kept))


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


def _write(folder: Path, files: Any) -> list[str]:
    """Writes a render; removes only what an earlier render listed in its kustomization."""
    from policies.documents import read_document

    folder.mkdir(parents=True, exist_ok=True)
    listing = folder / "kustomization.yaml"
    if listing.exists():
        earlier = read_document(read_text(listing), str(listing))
        resources = earlier.get("resources", []) if isinstance(earlier, dict) else []
        for name in resources if isinstance(resources, list) else []:
            if isinstance(name, str) and name not in files and Path(name).name == name:
                (folder / name).unlink(missing_ok=True)
    elif any(folder.iterdir()):
        raise AlreadyExists(
            f"writing manifests to {folder}: it holds other files",
            hint="name an empty folder or an earlier render",
        )
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [str(folder / name) for name in files]


def _inventory_data(path: Path) -> dict[str, object]:
    from policies.inventory_file import parse_inventory
    from policies.questions import inventory_document

    return inventory_document(parse_inventory(read_text(path)))


def _binds(node: Any) -> bool:
    from policies.language.ast import Call

    return isinstance(node, Call) and node.name in ("assign", "eq")


def _parsed(text: str, what: str, parse: Any) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise InvalidInput(f"reading {what}: {error}", hint="one JSON document is expected") from error
