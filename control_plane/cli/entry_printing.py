"""Registration entries as people read them."""

from __future__ import annotations

from typing import Any

from control_plane.cli import printing
from control_plane.cli.cut_off import told


def print_entries(entries: list[dict[str, Any]]) -> None:
    """Entries one below the other; what is at its default is left out."""
    if not entries:
        printing.line("no entries")
    for index, entry in enumerate(entries):
        if index:
            printing.line("")
        shown = {
            "entry": entry["id"],
            "spiffe id": entry["spiffe_id"],
            "parent id": entry["parent_id"],
            "selectors": entry["selectors"],
            "x509-svid ttl": printing.span(entry["x509_svid_ttl_seconds"])
            if entry["x509_svid_ttl_seconds"]
            else "",
            "jwt-svid ttl": printing.span(entry["jwt_svid_ttl_seconds"])
            if entry["jwt_svid_ttl_seconds"]
            else "",
            "federates with": entry["federates_with"],
            "dns names": entry["dns_names"],
            "hint": entry["hint"],
            "flags": [name for name in ("admin", "downstream", "store_svid") if entry[name]],
            "expires": printing.moment(entry["expires_at"]) if entry["expires_at"] else "",
            "priority": entry["priority"] or "",
            "revision": entry["revision"],
            "quarantined": told(cut_off) if (cut_off := entry.get("quarantined")) else "",
        }
        printing.record({name: value for name, value in shown.items() if value not in ("", [])})
