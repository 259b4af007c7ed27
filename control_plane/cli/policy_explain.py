"""`gatehouse policy explain`: why one request is allowed or denied, rule by rule, with the values."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from control_plane.cli import printing
from control_plane.cli.options import Output, OutputFlag
from control_plane.cli.policy_files import FolderArgument, read_inventory, read_project, read_text
from control_plane.cli.policy_trace import print_explanation
from control_plane.cli.remote import reported
from control_plane.core.errors import InvalidInput, ResourceExhausted

if TYPE_CHECKING:
    pass

MAX_INPUT_CHARACTERS = 16 << 20


def explain(
    folder: FolderArgument,
    input_file: Annotated[
        str, typer.Option("--input", "-i", help="The input document, a JSON file, or - for standard input.")
    ] = "",
    source: Annotated[
        str, typer.Option(help="Who calls: a SPIFFE ID, or namespace/name of the inventory.")
    ] = "",
    destination: Annotated[str, typer.Option(help="Who is called: namespace/name of the inventory.")] = "",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port that the workload listens on.")] = 0,
    method: Annotated[str, typer.Option(help="The request's method, such as GET.")] = "",
    path: Annotated[str, typer.Option(help="The request's path, without a query.")] = "",
    host: Annotated[str, typer.Option(help="The host that is asked for.")] = "",
    header: Annotated[list[str] | None, typer.Option("--header", help="name: value; repeatable.")] = None,
    source_ip: Annotated[str, typer.Option("--source-ip", help="The caller's address.")] = "",
    rule: Annotated[
        str, typer.Option("--rule", help="Another document, such as data.gatehouse.authz.deny.")
    ] = "",
    inventory: Annotated[
        Path | None, typer.Option("--inventory", help="Becomes data.inventory, and knows labels.")
    ] = None,
    every_rule: Annotated[bool, typer.Option("--all", help="Show every rule, not only the nearest.")] = False,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Tells why a request is allowed or denied: which rules, which condition failed first, by what values."""
    from policies.explain import explain as explained
    from policies.explain import explanation_document
    from policies.explain.question import Described
    from policies.language.serial import json_text
    from policies.language.values import from_python
    from policies.project import Project
    from policies.questions import inventory_document

    described = Described(source, destination, port, method, path, host, _headers(header or []), source_ip)
    with reported(output):
        project = Project.of(read_project(folder))
        known = read_inventory(inventory) if inventory is not None else None
        if input_file and described != Described():
            raise InvalidInput(
                "explaining a request: --input came with other flags", hint="say it in one way"
            )
        given = _read(input_file) if input_file else from_python(described.document(known))
        data = from_python({**project.data, **({"inventory": inventory_document(known)} if known else {})})
        found = explained(project.compiled(), given, data, rule=_path(rule))
        document = explanation_document(found)
    if output is Output.JSON:  # by our own serialiser, since Rego's numbers are exact
        printing.document(json_text(from_python({**document, "input": _plain(given)}), indent="  "))
        return
    print_explanation(found, every_rule=every_rule)


def _headers(lines: list[str]) -> dict[str, str]:
    found = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise typer.BadParameter(f"{line!r} isn't `name: value`", param_hint="--header")
        found[name.strip()] = value.strip()
    return found


def _read(name: str) -> Any:
    """The input document of a file, or of standard input."""
    from policies.language.serial import parse_json

    text = sys.stdin.read(MAX_INPUT_CHARACTERS + 1) if name == "-" else read_text(Path(name))
    if len(text) > MAX_INPUT_CHARACTERS:
        raise ResourceExhausted(f"reading the input: more than {MAX_INPUT_CHARACTERS} characters")
    try:
        return parse_json(text)
    except ValueError as error:
        raise InvalidInput(
            f"reading the input {name}: {error}", hint="one JSON document is expected"
        ) from error


def _path(rule: str) -> tuple[str, ...]:
    """The path below `data` of `data.a.b`, or nothing."""
    from policies.language.syntax.ast import Ref, String
    from policies.language.syntax.parser import parse_query

    if not rule:
        return ()
    body = parse_query(rule)
    node = body[0].node
    if len(body) == 1 and isinstance(node, Ref) and rule.startswith("data."):
        names = tuple(operand.value for operand in node.operands if isinstance(operand, String))
        if len(names) == len(node.operands):
            return names
    raise InvalidInput(
        f"explaining {rule}: that is no rule's path", hint="such as data.gatehouse.authz.allow"
    )


def _plain(value: Any) -> Any:
    from policies.language.values import to_python

    return to_python(value)
