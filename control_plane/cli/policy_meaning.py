"""`gatehouse policy diff | callers-of | reachable-from`: what a policy means, for all requests at once."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from control_plane.cli import printing
from control_plane.cli.options import Output, OutputFlag
from control_plane.cli.policy_budget import MAX_MIB, MAX_SECONDS, MemoryFlag, SecondsFlag, Spending
from control_plane.cli.policy_files import (
    CacheFlag,
    FolderArgument,
    InventoryFlag,
    NoCacheFlag,
    read_inventory,
    read_project,
)
from control_plane.cli.remote import reported


class FailOn(StrEnum):
    """Which changes a gate refuses; what can't be decided counts as a gain."""

    GAINS = "gains"
    ANY = "any"
    NONE = "none"


def diff(
    old: Annotated[Path, typer.Argument(help="The policy as it is.")],
    new: Annotated[Path, typer.Argument(help="The policy as it would be.")],
    inventory: InventoryFlag,
    markdown: Annotated[bool, typer.Option("--markdown", help="A table for a pull request.")] = False,
    fail_on: Annotated[FailOn, typer.Option(help="Which changes exit with 1.")] = FailOn.GAINS,
    cache: CacheFlag = None,
    no_cache: NoCacheFlag = False,
    max_seconds: SecondsFlag = MAX_SECONDS,
    max_memory: MemoryFlag = MAX_MIB,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Tells who gains and who loses access, each with one request that shows it and the Rego lines."""
    from policies.diff import Direction
    from policies.diff import markdown as as_table
    from policies.kept.compilation import compare_kept
    from policies.project import Project

    with reported(output), _shelf(cache, no_cache) as shelf:
        versions = [Project.of(read_project(folder)) for folder in (old, new)]
        budget = Spending(max_seconds, max_memory)
        changes = compare_kept(versions[0], versions[1], read_inventory(inventory), shelf, budget)
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
            known = what_is_asked(one.request, with_caller=not one.caller) if one.request else one.reason
            printing.paragraph(known, 4)
            for side, origins in (("before", one.before), ("after", one.after)):
                printing.line(f"    {side}: {one.question} {', '.join(map(str, origins)) or 'no rule'}")
        if not changes:
            printing.line("no request gains or loses access")

    printing.emit(output, {"changes": answer}, human)
    counted = changes if fail_on is FailOn.ANY else [c for c in changes if c.direction is not Direction.LOSES]
    if counted and fail_on is not FailOn.NONE:
        raise typer.Exit(1)


def callers_of(
    folder: FolderArgument,
    workload: Annotated[str, typer.Argument(help="namespace/name, as in the inventory.")],
    inventory: InventoryFlag,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Tells everybody who can reach a workload, each with one request and the Rego lines that admit it."""
    from policies import reach

    with reported(output):
        known, policies = _questions(folder, inventory, workload)
        found = reach.callers_of(policies, known, workload)
    _print_access(output, found)


def reachable_from(
    folder: FolderArgument,
    caller: Annotated[str, typer.Argument(help="namespace/name, as in the inventory, or a SPIFFE ID.")],
    inventory: InventoryFlag,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Tells every workload that an identity can reach, each with one request that shows it."""
    from control_plane.core.spiffe_id import SpiffeId
    from policies import reach

    with reported(output):
        known, policies = _questions(folder, inventory)
        workload = known.by_key.get(caller)
        identity = str(SpiffeId.parse(caller)) if workload is None else workload.spiffe_id
        found = reach.reachable_from(policies, known, identity)
    _print_access(output, found)


def _shelf(cache: Path | None, no_cache: bool) -> AbstractContextManager[Any]:
    from control_plane.cli.policy_cache import kept_between_runs
    from policies.kept.shelf import MemoryStore, Shelf

    # What one version was evaluated to serves the other in any case.
    return nullcontext(Shelf("", MemoryStore())) if no_cache else kept_between_runs(cache)


def _questions(folder: Path, inventory: Path, only: str | None = None) -> tuple[Any, Any]:
    """The inventory, and the policy as questions about its workloads, or about one of them."""
    from policies.formula import PolicySet
    from policies.project import Project
    from policies.questions import Questions

    known = read_inventory(inventory)
    project = Project.of(read_project(folder))
    questions = Questions.of(project.checked().compiled, known, project.data)
    if only is None:
        return known, questions.all(project.digest)
    asked = [questions.workload(one) for one in known.workloads if one.key == only]
    return known, PolicySet.of(project.digest, *asked)


def _print_access(output: Output, found: Any) -> None:
    answer = [
        {
            "caller": one.caller, "workload": one.workload, "request": one.request.document(),
            "origins": [str(origin) for origin in one.origins],
        }
        for one in found
    ]  # fmt: skip

    def human() -> None:
        for one in found:
            printing.line(f"{one.caller or 'callers outside the inventory'} → {one.workload}")
            asked = what_is_asked(one.request, with_caller=not one.caller)
            printing.paragraph(f"{asked}  ({', '.join(map(str, one.origins))})", 4)
        if not found:
            printing.line("nobody")

    printing.emit(output, {"access": answer}, human)


def what_is_asked(request: Any, *, with_caller: bool = True) -> str:
    """A request without what the workload's name and the caller's identity say already.

    `with_caller` shows that identity, for where it isn't printed beside the request.
    """
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
        if with_caller or attribute.name != "source.spiffe_id"
    }
    return str(Request.of(kept))
