"""`gatehouse authority`: forced rotation of what signs, by hand and in steps.

`prepare` makes the next authority and publishes it in the bundle; `activate` lets it sign; `taint` marks an
old one, so that agents replace what it signed; `revoke` takes it out of the bundle. Without these commands
the server does the first two by itself in time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from control_plane.cli import printing, vault
from control_plane.cli.authority_status import status
from control_plane.cli.options import DataDirFlag, Output, OutputFlag, group
from control_plane.cli.remote import rest

AuthorityIdFlag = Annotated[str, typer.Option("--authority-id", help="As `show` prints it.")]
WhyFlag = Annotated[
    str,
    typer.Option("--reason", "-m", help="Why, for the ledger.", show_default="that it is done by hand"),
]

ABOUT = {
    "x509": "The authority that signs X509-SVIDs.",
    "jwt": "The key that signs JWT-SVIDs.",
}


def _commands(kind: str) -> typer.Typer:
    """The five commands for one kind of authority."""
    made = group(ABOUT[kind])

    @made.command()
    def show(data_dir: DataDirFlag = None, output: OutputFlag = Output.HUMAN) -> None:
        """Shows the authorities: active, prepared and old."""
        answer = rest("GET", f"/v1/authority/{kind}", data_dir=data_dir, output=output)
        printing.emit(output, answer, lambda: _print(answer))

    @made.command()
    def prepare(
        reason: WhyFlag = "", data_dir: DataDirFlag = None, output: OutputFlag = Output.HUMAN
    ) -> None:
        """Makes the next authority and publishes it; it does not sign yet."""
        _act(kind, "prepare", None, reason, data_dir, output)

    @made.command()
    def activate(
        authority_id: AuthorityIdFlag = "",
        reason: WhyFlag = "",
        data_dir: DataDirFlag = None,
        output: OutputFlag = Output.HUMAN,
    ) -> None:
        """Lets the prepared authority sign from now on."""
        _act(kind, "activate", authority_id or None, reason, data_dir, output)

    @made.command()
    def taint(
        authority_id: AuthorityIdFlag,
        reason: WhyFlag = "",
        data_dir: DataDirFlag = None,
        output: OutputFlag = Output.HUMAN,
    ) -> None:
        """Marks an old authority: agents replace at once what it signed."""
        _act(kind, "taint", authority_id, reason, data_dir, output)

    @made.command()
    def revoke(
        authority_id: AuthorityIdFlag,
        reason: WhyFlag = "",
        data_dir: DataDirFlag = None,
        output: OutputFlag = Output.HUMAN,
    ) -> None:
        """Takes a tainted authority out of the bundle: what it signed is no longer trusted."""
        _act(kind, "revoke", authority_id, reason, data_dir, output)

    return made


app = group("Signing authorities and their rotation.")
app.add_typer(_commands("x509"), name="x509")
app.add_typer(_commands("jwt"), name="jwt")
app.add_typer(vault.app, name="vault")
app.command("status")(status)


def _act(
    kind: str, step: str, authority_id: str | None, reason: str, data_dir: Path | None, output: Output
) -> None:
    """One step of a rotation, and the state after it."""
    body: dict[str, Any] = {"reason": reason or f"{step} by hand"}
    if authority_id is not None:
        body["authority_id"] = authority_id
    answer = rest("POST", f"/v1/authority/{kind}/{step}", data_dir=data_dir, output=output, body=body)
    printing.emit(output, answer, lambda: _print(answer))


def _print(answer: Any) -> None:
    """Authorities as a table, whether the answer is a list of them or one."""
    listed = answer.get("authorities", [answer]) if isinstance(answer, dict) else answer
    rows = [
        (
            each.get("authority_id"),
            str(each.get("status", "")).lower(),
            printing.moment(int(each.get("not_after") or each.get("expires_at") or 0)),
            ", ".join(name for name in ("tainted", "revoked", "quarantine") if each.get(name)),
        )
        for each in listed
    ]
    printing.table(("authority id", "status", "expires", "marks"), rows, empty="no authority yet")
