"""`gatehouse explain`: which entries would match these selectors, and which miss by how little.

Asks the server, from the entries that it has. What one process on a node really has, and what its agent last
heard, tells `gatehouse-agent explain --pid`.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from control_plane.cli import printing, wire
from control_plane.cli.options import DataDirFlag, Output, OutputFlag, command
from control_plane.cli.remote import Exit, rest

app = command()


@app.command()
def explain(
    selector: Annotated[
        list[str], typer.Option("--selector", help="type:value that the process has; repeatable.")
    ],
    agent_id: Annotated[
        str | None, typer.Option("--agent-id", help="Entries that this agent may serve.")
    ] = None,
    parent_id: Annotated[str | None, typer.Option("--parent-id", help="Entries below this parent.")] = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Which identity would these selectors get, and why not another? Ends with 3 when none matches."""
    wire.selectors(selector)
    body: dict[str, Any] = {"selectors": selector}
    body |= {name: value for name, value in (("agent_id", agent_id), ("parent_id", parent_id)) if value}
    answer = rest("POST", "/v1/explain", data_dir=data_dir, output=output, body=body)
    printing.emit(output, answer, lambda: _print(answer))
    if not answer.get("matches"):
        raise typer.Exit(Exit.NOT_FOUND)


def _print(answer: dict[str, Any]) -> None:
    """Matches first, then what is one selector away."""
    matches = answer.get("matches", [])
    rows = [
        (each.get("spiffe_id"), each.get("entry_id"), each.get("hint"), each.get("is_default"))
        for each in matches
    ]
    printing.table(("would get", "by entry", "hint", "default"), rows, empty="no entry matches")
    for each in matches:
        if each.get("quarantined"):
            printing.line(f"quarantined: {each.get('spiffe_id')} gets no SVID: {each['quarantined']}")
    for each in answer.get("near", []):
        missing = ", ".join(each.get("missing", []))
        printing.line(f"near: {each.get('spiffe_id')} (entry {each.get('entry_id')}) misses {missing}")
    for each in answer.get("elsewhere", []):
        named = f"{each.get('spiffe_id')} (entry {each.get('entry_id')})"
        printing.line(f"elsewhere: {named} would match below {each.get('parent_id')}")
