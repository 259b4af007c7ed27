"""`gatehouse policy import-envoy`: policies of OPA's Envoy plugin, rewritten to our input, with a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from control_plane.cli import printing
from control_plane.cli.options import Output, OutputFlag
from control_plane.cli.policy_files import FolderArgument, read_project, write_files, writing
from control_plane.cli.remote import reported
from control_plane.core.errors import AlreadyExists, InvalidInput

if TYPE_CHECKING:
    from policies.envoy_input import Remark, Rewrite


def import_envoy(
    folder: FolderArgument,
    out: Annotated[Path, typer.Option("--out", help="A new folder for the rewritten policies.")],
    decision: Annotated[
        str,
        typer.Option(
            help="The plugin's `path`, such as envoy/authz/allow.", show_default="envoy/authz or istio/authz"
        ),
    ] = "",
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Rewrites policies for OPA's Envoy plugin, and tells each line that means something else afterwards.

    Writes nothing and exits with 1 where a line reads what has no counterpart.
    """
    from policies.envoy_input import rewrite_modules
    from policies.files import is_test

    with reported(output):
        files = read_project(folder, with_library=False)
        texts = {name: text for name, text in files.items() if name.endswith(".rego") and not is_test(name)}
        tests = sorted(name for name in files if is_test(name))
        if not texts:
            raise InvalidInput(f"rewriting {folder}: there is no .rego file in it")
        rewrite = rewrite_modules(texts, decision=_package(decision))
        written: list[str] = []
        if rewrite.accepted:
            data = {name: text for name, text in files.items() if not name.endswith(".rego")}
            written = _write(out, {**rewrite.modules, **data})
    _print(output, rewrite, written, tests)
    if not rewrite.accepted:
        raise typer.Exit(1)


def _package(decision: str) -> tuple[str, ...] | None:
    """The package of a rule's path in the plugin's notation."""
    if not decision:
        return None
    *package, rule = decision.removeprefix("data.").replace(".", "/").strip("/").split("/")
    if rule != "allow" or not package:
        raise InvalidInput(
            f"rewriting: {decision} isn't a decision that we have",
            hint="it ends in `/allow`; rename the rule",
        )
    return tuple(package)


def _write(out: Path, files: dict[str, str]) -> list[str]:
    with writing(out):
        if out.exists() and any(out.iterdir()):
            raise AlreadyExists(
                f"writing rewritten policies to {out}: it isn't empty", hint="name a new folder"
            )
    return write_files(out, files)


def _print(output: Output, rewrite: Rewrite, written: list[str], tests: list[str]) -> None:
    answer: dict[str, Any] = {
        "accepted": rewrite.accepted,
        "remarks": [remark.to_json() for remark in rewrite.remarks],
        "assumptions": [str(one) for one in rewrite.assumptions],
        "tests_left_out": tests,
        "written": written,
    }

    def human() -> None:
        _remarks(rewrite, "refused", "no counterpart")
        _remarks(rewrite, "differs", "rewritten, and different for some requests")
        same = sum(str(one.kind) == "same" for one in rewrite.remarks)
        printing.line(
            f"{printing.counted(same, 'reference')} {'means' if same == 1 else 'mean'} the same"
            + (", assuming" if rewrite.assumptions else "")
        )
        for one in rewrite.assumptions:
            printing.line(f"  {one}")
        for name in tests:
            printing.line(f"left out: {name}, whose inputs are Envoy's")
        if written:
            printing.line(f"wrote {printing.counted(len(written), 'file')}")
            printing.note(f"next: gatehouse policy check {Path(written[0]).parent}")
        else:
            printing.line("nothing is written: rewrite the lines without a counterpart first")

    printing.emit(output, answer, human)


def _remarks(rewrite: Rewrite, kind: str, title: str) -> None:
    """Remarks of one kind, by what they say, each with its lines."""
    by_text: dict[str, list[Remark]] = {}
    for remark in rewrite.remarks:
        if str(remark.kind) == kind:
            by_text.setdefault(remark.text, []).append(remark)
    if by_text:
        printing.line(f"{title}:")
    for text, remarks in by_text.items():
        printing.line(f"  {text}")
        for remark in remarks:
            became = f"  →  {remark.became}" if remark.became else ""
            printing.line(f"    {remark.span.source.file}:{remark.span.row}  {remark.was}{became}")
