"""`gatehouse quarantine add | authority | release | list`: who is cut off, at once and everywhere.

`gatehouse quarantine SPIFFE-ID --reason …` is short for `add`. What has no `://` is an authority's ID.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from control_plane.cli import printing
from control_plane.cli.asking import Asking
from control_plane.cli.caller import BreakGlassFlag, ReasonFlag, TokenFileFlag
from control_plane.cli.options import DataDirFlag, Output, OutputFlag, group
from control_plane.cli.remote import fail
from control_plane.core.errors import InvalidInput, NotFound
from control_plane.core.spiffe_id import SpiffeId, is_agent_id


class _ShortForAdd(TyperGroup):
    """Takes what is no command as the identity to cut off."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["add", *args]
        return super().resolve_command(ctx, args)


KINDS = ("x509", "jwt")

app = group("Cut an identity off, and let it back in.")
app.info.cls = _ShortForAdd

WhoArgument = Annotated[
    str,
    typer.Argument(
        metavar="SPIFFE-ID", help="A workload's identity, or an agent's (spiffe://…/spire/agent/…)."
    ),
]


@app.command()
def add(
    who: WhoArgument,
    reason: ReasonFlag,
    break_glass: BreakGlassFlag = False,
    token_file: TokenFileFlag = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Stops issue and renewal for an identity and has it denied as caller and as callee everywhere."""
    server = Asking(token_file, data_dir, output, break_glass=break_glass)
    if "://" not in who:
        fail(
            InvalidInput(
                f"quarantine of {who!a}: expected a SPIFFE ID",
                hint=f"an authority is cut off by gatehouse quarantine authority {who}",
            ),
            output,
        )
    answer = server.post("/v1/quarantine", {"spiffe_id": who, "reason": reason})

    def human() -> None:
        told = "is cut off" if answer["changed"] else "was cut off already"
        printing.line(f"{answer['spiffe_id']} {told}; {_effect(answer['spiffe_id'], answer['entries'])}")
        printing.note(f"to let it back in: gatehouse quarantine release {answer['spiffe_id']} --reason …")

    printing.emit(output, answer, human)


@app.command()
def authority(
    authority_id: Annotated[
        str, typer.Argument(metavar="AUTHORITY-ID", help="Of an X.509 or a JWT authority.")
    ],
    reason: ReasonFlag,
    force: Annotated[
        bool, typer.Option("--force", help="If none is prepared, make one that signs at once.")
    ] = False,
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Refuse what it signed now, not after half a minute.")
    ] = False,
    break_glass: BreakGlassFlag = False,
    token_file: TokenFileFlag = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Has another authority sign, and what this one signed replaced and, half a minute later, refused.

    A release lets what it signed count again, but it does not sign again, and what was replaced meanwhile
    stays replaced. An agent that was away in that half minute, or has none with --at-once, and attested by a
    join token, needs a new token.
    """
    server = Asking(token_file, data_dir, output, break_glass=break_glass)
    kind = _kind_of(server, authority_id)
    body = {"authority_id": authority_id, "reason": reason, "force": force, "at_once": at_once}
    answer = server.post(f"/v1/authority/{kind}/quarantine", body)

    def human() -> None:
        told = "is cut off" if answer["changed"] else "was cut off already"
        printing.line(f"{kind} authority {authority_id} {told}; {answer['signing_now']} signs")
        if answer["quarantine"]["withheld"]:
            printing.line("what it signed is refused from now on")
        else:
            printing.line("agents replace what it signed; half a minute from now, that is refused")
        printing.note(f"to let it count again: gatehouse quarantine release {authority_id} --reason …")

    printing.emit(output, answer, human)


@app.command()
def release(
    who: WhoArgument,
    reason: ReasonFlag,
    break_glass: BreakGlassFlag = False,
    token_file: TokenFileFlag = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Lets an identity back in, or an authority count again."""
    server = Asking(token_file, data_dir, output, break_glass=break_glass)
    if "://" in who:
        answer = server.post("/v1/quarantine/release", {"spiffe_id": who, "reason": reason})
    else:
        body = {"authority_id": who, "reason": reason}
        answer = server.post(f"/v1/authority/{_kind_of(server, who)}/release", body)

    def human() -> None:
        told = "is let in again" if answer["changed"] else "wasn't cut off"
        printing.line(f"{who} {told}")
        if answer["changed"] and "://" not in who:
            printing.line(f"what it signed and is still valid counts again; {answer['signing_now']} signs on")

    printing.emit(output, answer, human)


@app.command("list")
def list_members(
    token_file: TokenFileFlag = None, data_dir: DataDirFlag = None, output: OutputFlag = Output.HUMAN
) -> None:
    """Lists who is cut off, with why, since when and by whom."""
    server = Asking(token_file, data_dir, output)
    authorities = [one for one in _authorities(server) if one["quarantine"]]
    answer = {**server.whole("/v1/quarantine", "quarantined"), "authorities": authorities}

    def human() -> None:
        rows = [
            (one["spiffe_id"], printing.moment(one["quarantined_at"]), one["by"], one["reason"])
            for one in answer["quarantined"]
        ]
        rows += [_authority_row(one) for one in authorities]
        printing.table(("identity", "since", "by", "reason"), rows, empty="nobody is cut off")

    printing.emit(output, answer, human)


def _effect(who: str, entries: int) -> str:
    """What it means for an identity, of which so many entries are."""
    if is_agent_id(SpiffeId.parse(who)):
        return "the server refuses this agent until it is released"
    if not entries:
        return "no entry gives it an SVID, and every agent denies it"
    return f"{entries} {'entry gives' if entries == 1 else 'entries give'} no SVID any more"


def _authority_row(one: dict[str, Any]) -> tuple[str, str, str, str]:
    cut = one["quarantine"]
    name = f"{one['kind']} authority {one['authority_id']}"
    return name, printing.moment(cut["quarantined_at"]), cut["by"], cut["reason"]


def _authorities(server: Asking) -> list[dict[str, Any]]:
    """All authorities, each with its kind."""
    return [
        {"kind": kind, **one}
        for kind in KINDS
        for one in server.whole(f"/v1/authority/{kind}", "authorities")["authorities"]
    ]


def _kind_of(server: Asking, authority_id: str) -> str:
    """Of which kind an authority is; ends the command if there is none."""
    found = [one["kind"] for one in _authorities(server) if one["authority_id"] == authority_id]
    if not found:
        fail(
            NotFound(
                f"authority {authority_id!a}: there is none of this ID",
                hint="gatehouse authority x509 show and gatehouse authority jwt show list them",
            ),
            server.output,
        )
    return str(found[0])
