"""`gatehouse ledger`: every SVID that was issued. A certificate that is not here has not left the server."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from control_plane.cli import printing
from control_plane.cli.options import DataDirFlag, Output, OutputFlag, group
from control_plane.cli.remote import rest

app = group("What was ever issued, and to whom.")


@app.command("list")
def list_records(
    spiffe_id: Annotated[str | None, typer.Option("--spiffe-id", help="Only this identity.")] = None,
    serial: Annotated[str | None, typer.Option("--serial", help="Only this serial number, in hex.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="Only this kind of record.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Go on where the last answer ended.")] = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Lists what was issued, the newest first."""
    query = {"limit": limit, "cursor": cursor, "spiffe_id": spiffe_id, "serial": serial, "kind": kind}
    answer = rest("GET", "/v1/ledger", data_dir=data_dir, output=output, query=query)

    def human() -> None:
        rows = [
            (
                each.get("id"),
                each.get("kind"),
                _what(each),
                _signer(each),
                printing.moment(int(each.get("issued_at") or each.get("at") or 0)),
                printing.moment(int(each.get("not_after") or each.get("expires_at") or 0), never=""),
            )
            for each in answer.get("records", [])
        ]
        printing.table(
            ("id", "kind", "what", "signed by", "issued", "expires"), rows, empty="nothing was issued yet"
        )
        if answer.get("next_cursor"):
            printing.note(f"more: gatehouse ledger list --cursor {answer['next_cursor']}")

    printing.emit(output, answer, human)


def _signer(record: dict[str, Any]) -> str:
    """The CA that a certificate names, and what sets its signature apart."""
    mark = record.get("mark", "") if record.get("kind") != "authority-mark" else ""
    return " ".join(part for part in (record.get("issuer", ""), f"({mark})" if mark else "") if part)


def _what(record: dict[str, Any]) -> str:
    if record.get("kind") == "change":
        return f"{record.get('action')} of {record.get('resource')} by {record.get('by')}"
    if record.get("kind") == "authority-mark":
        who = "the standby signs" if record.get("mark") else "Vault signs"
        return f"authority {record.get('authority_id')}: {who}"
    if record.get("kind") == "x509-withheld":
        return f"{record.get('spiffe_id')}: {record.get('reason')}"
    return str(record.get("spiffe_id") or f"authority {record.get('authority_id')}: {record.get('event')}")


@app.command()
def show(
    record_id: Annotated[str, typer.Argument(help="As `list` prints it.")],
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Shows one record with all that is known of it."""
    answer: dict[str, Any] = rest(
        "GET", f"/v1/ledger/{quote(record_id, safe='')}", data_dir=data_dir, output=output
    )
    printing.emit(
        output, answer, lambda: printing.record({name.replace("_", " "): v for name, v in answer.items()})
    )
