"""`gatehouse ledger`: every SVID that was issued. A certificate that is not here has not left the server."""

from __future__ import annotations

import json
import re
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
    """Lists what was issued and what was changed by whom, the newest first."""
    query = {"limit": limit, "cursor": cursor, "spiffe_id": spiffe_id, "serial": serial, "kind": kind}
    answer = rest("GET", "/v1/ledger", data_dir=data_dir, output=output, query=query)

    def human() -> None:
        records = answer.get("records", [])
        rows = [
            (
                each.get("id"),
                each.get("kind"),
                _what(each),
                _by(each),
                printing.moment(int(each.get("issued_at") or 0)).partition(" (")[0],
                _distance(int(each.get("not_after") or each.get("expires_at") or 0)),
            )
            for each in records
        ]
        printing.table(
            ("id", "kind", "what", "by", "issued", "expires"),
            rows,
            empty="no record fits" if spiffe_id or serial or kind or cursor else "nothing was issued yet",
        )
        if answer.get("next_cursor"):
            printing.note(f"more: gatehouse ledger list --cursor {answer['next_cursor']}")
        broken = [each["id"] for each in records if _glass_was_broken(each)]
        if broken:
            told = "1 change above was" if len(broken) == 1 else f"{len(broken)} changes above were"
            printing.note(f"{told} made by break-glass, against the roles: gatehouse ledger show {broken[0]}")

    printing.emit(output, answer, human)


def _distance(unix_seconds: int) -> str:
    """How far away the end of a certificate is; the moment itself shows `show`."""
    return printing.moment(unix_seconds, never="").partition("(")[2].removesuffix(")")


def _by(record: dict[str, Any]) -> str:
    """Who made a change, or the CA of a certificate, in as few letters as tell it apart."""
    if record.get("kind") == "change":
        return str(record.get("by"))
    mark = record.get("mark", "") if record.get("kind") != "authority-mark" else ""
    issuer = record.get("issuer", "")
    ours = re.match("serialNumber=([0-9a-f]{8})", issuer)
    named = f"CA {ours[1]}…" if ours else issuer
    return " ".join(part for part in (named, f"({mark})" if mark else "") if part)


def _what(record: dict[str, Any]) -> str:
    if record.get("kind") == "change":
        loudly = "BREAK-GLASS: " if _glass_was_broken(record) else ""
        return f"{loudly}{record.get('action')} of {record.get('resource')}"
    if record.get("kind") == "authority-mark":
        who = "the standby signs" if record.get("mark") else "Vault signs"
        return f"authority {record.get('authority_id')}: {who}"
    if record.get("kind") == "x509-withheld":
        return f"{record.get('spiffe_id')}: {record.get('reason')}"
    return str(record.get("spiffe_id") or f"authority {record.get('authority_id')}: {record.get('event')}")


def _glass_was_broken(record: dict[str, Any]) -> bool:
    """Whether root made this change against the roles (`--break-glass`)."""
    try:
        detail = json.loads(record.get("detail") or "{}")
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(detail, dict) and detail.get("break_glass") is True


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
