"""`gatehouse policy push | plan | approve | reject | withdraw | apply | status | history | rollback`.

The life of a policy on a running server. Without a version the newest one is meant that waits for the step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from control_plane.cli import printing
from control_plane.cli.asking import Asking
from control_plane.cli.caller import BreakGlassFlag, ReasonFlag, TokenFileFlag
from control_plane.cli.options import DataDirFlag, Output, OutputFlag
from control_plane.cli.policy_files import FolderArgument, read_project, read_text
from control_plane.cli.remote import Exit, reported
from control_plane.cli.rollout_printing import (
    print_history,
    print_plan,
    print_status,
    print_version,
)
from control_plane.core.errors import NotFound

PUSH_SECONDS = 330.0
PLAN_SECONDS = 430.0

VersionArgument = Annotated[
    int | None, typer.Argument(min=1, help="Number of the version.", show_default="the newest that fits")
]
InventoryFlag = Annotated[
    Path | None,
    typer.Option(
        "--inventory",
        help="What exists: workloads, services, labels.",
        show_default="inventory.yaml in the folder, else that of the last version",
    ),
]


def push(
    folder: FolderArgument,
    inventory: InventoryFlag = None,
    reason: ReasonFlag = "",
    token_file: TokenFileFlag = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Sends a policy to the server, which checks, compiles and proves it and keeps it as a new version."""
    server = _Policies(token_file, data_dir, output)
    with reported(output):
        files = read_project(folder)
        known = inventory or next(
            (one for one in (folder / "inventory.yaml", folder / "inventory.json") if one.is_file()), None
        )
        text = read_text(known) if known is not None else None
    body = {
        "files": files,
        "inventory": server.last_inventory() if text is None else text,
        "reason": reason or f"pushed from {folder}",
        "wait_seconds": 300,
    }
    answer = server.post("/v1/policy/versions", body, timeout_seconds=PUSH_SECONDS)
    printing.emit(output, answer, lambda: print_version(answer))
    if answer["state"] == "refused":
        raise typer.Exit(1)


def plan(
    version: VersionArgument = None,
    every: Annotated[bool, typer.Option("--all", help="Show every change, not only the first ones.")] = False,
    token_file: TokenFileFlag = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Tells who would gain and who would lose access, against what is in force now."""
    server = _Policies(token_file, data_dir, output)
    number = server.meant(version, ("proved", "planned", "approved"), "plan", "push one first")
    answer = server.post(f"/v1/policy/versions/{number}/plan", {}, timeout_seconds=PLAN_SECONDS)
    printing.emit(output, answer, lambda: print_plan(answer, every=every))


def approve(
    reason: ReasonFlag,
    version: VersionArgument = None,
    break_glass: BreakGlassFlag = False,
    token_file: TokenFileFlag = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Agrees to the latest plan of a version. Nobody approves what they wrote."""
    server = _Policies(token_file, data_dir, output, break_glass=break_glass)
    number = server.meant(version, ("planned",), "approve", "plan one first: gatehouse policy plan")
    answer = server.post(f"/v1/policy/versions/{number}/approve", {"reason": reason})
    printing.emit(output, answer, lambda: print_version(answer))


def _close(how: str, about: str) -> Callable[..., None]:
    def close(
        version: Annotated[int, typer.Argument(min=1, help="Number of the version.")],
        reason: ReasonFlag,
        token_file: TokenFileFlag = None,
        data_dir: DataDirFlag = None,
        output: OutputFlag = Output.HUMAN,
    ) -> None:
        server = _Policies(token_file, data_dir, output)
        answer = server.post(f"/v1/policy/versions/{version}/{how}", {"reason": reason})
        printing.emit(output, answer, lambda: print_version(answer))

    close.__doc__ = about
    return close


def apply(
    version: VersionArgument = None,
    percent: Annotated[
        int, typer.Option("--percent", min=1, max=100, help="Share of the agents; below 100 it is a canary.")
    ] = 100,
    reason: ReasonFlag = "as approved",
    break_glass: BreakGlassFlag = False,
    token_file: TokenFileFlag = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Brings an approved version into force, or lets its canary grow. Agents have it within a second."""
    server = _Policies(token_file, data_dir, output, break_glass=break_glass)
    number = version or server.canary() or server.meant(None, ("approved",), "apply", "have one approved")
    answer = server.post(f"/v1/policy/versions/{number}/apply", {"reason": reason, "percent": percent})
    printing.emit(output, answer, lambda: print_version(answer))


def status(
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on and tell what happens, until Ctrl-C.")
    ] = False,
    token_file: TokenFileFlag = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Shows what is in force, the canary, and what waits for whom."""
    server = _Policies(token_file, data_dir, output)
    _show_status(server, output)
    if not watch:
        return
    from control_plane.cli.watching import follow, print_event  # few commands need HTTP that goes on

    with contextlib.suppress(KeyboardInterrupt):
        for seen in follow(
            ("policy", "quarantine"), data_dir=data_dir, output=output, headers=server.headers
        ):
            print_event(seen, output)
            if seen.kind in ("policy.in-force", "missed"):
                try:
                    _show_status(server, output)
                except typer.Exit as ended:
                    if ended.exit_code != Exit.UNREACHABLE:
                        raise  # else it has just gone away again, and is waited for


def _show_status(server: _Policies, output: Output) -> None:
    answer = server.get("/v1/policy/status")
    waiting = [one for one in server.versions(20) if one["state"] in ("proved", "planned", "approved")]
    printing.emit(output, {**answer, "waiting": waiting}, lambda: print_status(answer, waiting))


def history(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many.")] = 20,
    version: Annotated[
        int | None, typer.Option("--version", min=1, help="Every step of one version.")
    ] = None,
    token_file: TokenFileFlag = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Shows what was ever in force, when, why and by whom; or all that became of one version."""
    server = _Policies(token_file, data_dir, output)
    if version is not None:
        answer = server.get(f"/v1/policy/versions/{version}")
        printing.emit(output, answer, lambda: print_version(answer))
        return
    assignments = server.get("/v1/policy/assignments", limit=limit)["assignments"]
    versions = server.versions(limit)
    answer = {"versions": versions, "assignments": assignments}
    printing.emit(output, answer, lambda: print_history(versions, assignments))


def rollback(
    reason: ReasonFlag,
    to: Annotated[
        int | None,
        typer.Option("--to", min=1, help="A version that was in force before.", show_default="ends a canary"),
    ] = None,
    break_glass: BreakGlassFlag = False,
    token_file: TokenFileFlag = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Brings back a version that was in force before, for all agents, at once."""
    server = _Policies(token_file, data_dir, output, break_glass=break_glass)
    body = {"reason": reason, **({} if to is None else {"to": to})}
    answer = server.post("/v1/policy/rollback", body)
    printing.emit(output, answer, lambda: print_version(answer))


def add_rollout(app: typer.Typer) -> None:
    """Adds the commands to a group."""
    for command in (push, plan, approve, apply, status, history, rollback):
        app.command()(command)
    app.command("reject")(_close("reject", "Ends a version that isn't in force, as an approver."))
    app.command("withdraw")(_close("withdraw", "Takes your own version back."))


class _Policies(Asking):
    """The policies of the running server, for one command."""

    def versions(self, limit: int) -> list[dict[str, Any]]:
        """The newest versions."""
        found: list[dict[str, Any]] = self.get("/v1/policy/versions", limit=limit)["versions"]
        return found

    def meant(self, given: int | None, states: tuple[str, ...], what: str, hint: str) -> int:
        """The version that a command is for."""
        if given is not None:
            return given
        newest = next((one["version"] for one in self.versions(20) if one["state"] in states), None)
        with reported(self.output):
            if newest is None:
                raise NotFound(f"policy {what}: no version waits for it", hint=hint)
        return int(newest)

    def canary(self) -> int | None:
        """The version of the running canary."""
        canary = self.get("/v1/policy/status")["canary"]
        return None if canary is None else int(canary["version"])

    def last_inventory(self) -> str:
        """The inventory of the newest version."""
        newest = self.versions(1)
        with reported(self.output):
            if not newest:
                raise NotFound(
                    "policy push: there is no inventory",
                    hint="name it with --inventory, or put inventory.yaml into the folder",
                )
        return str(self.get(f"/v1/policy/versions/{newest[0]['version']}/files")["inventory"])
