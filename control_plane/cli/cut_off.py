"""Who of a list is cut off, and how that is said beside agents and entries.

SPIRE's messages have no field for it, so it is asked for beside them. The commands that cut off are those of
`quarantine`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from control_plane.cli import printing
from control_plane.cli.remote import Remote
from control_plane.proto.gatehouse.server.v1 import quarantine_pb2

QUARANTINE = quarantine_pb2.DESCRIPTOR.services_by_name["Quarantine"]
BATCH = 500


async def those_cut_off(server: Remote, spiffe_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Reason, author and time by SPIFFE ID, of those that are cut off."""
    asked = sorted(set(spiffe_ids))
    found: dict[str, dict[str, Any]] = {}
    for start in range(0, len(asked), BATCH):
        request = quarantine_pb2.GetQuarantinedRequest(spiffe_ids=asked[start : start + BATCH])
        members = (await server.call(QUARANTINE, "GetQuarantined", request)).quarantined
        for name, one in members.items():
            found[name] = {"reason": one.reason, "by": one.by, "quarantined_at": one.quarantined_at}
    return found


def told(quarantined: dict[str, Any]) -> str:
    """Why, by whom and since when, for people."""
    since = printing.moment(quarantined["quarantined_at"])
    return f"{quarantined['reason']} (by {quarantined['by']}, {since})"
