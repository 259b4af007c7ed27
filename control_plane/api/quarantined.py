"""gatehouse.server.v1.Quarantine: which of these identities are cut off, for lists that SPIRE's API gives.

Cutting off and letting back in are the management API's part (`api/rest/quarantine`).
"""

from typing import Final

from control_plane.api.context import ServerContext
from control_plane.api.paging import check_batch
from control_plane.core.spiffe_id import SpiffeId
from control_plane.proto.gatehouse.server.v1 import quarantine_pb2 as ours
from control_plane.runtime.transport import Call

MAX_ASKED: Final = 1000


class QuarantineService:
    """Implements the service; who may call it was decided before."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def get_quarantined(
        self, call: Call, request: ours.GetQuarantinedRequest
    ) -> ours.GetQuarantinedResponse:
        """Raises InvalidInput for too many identities at once, or one that is none."""
        check_batch(len(request.spiffe_ids), MAX_ASKED)
        members = self._context.replica.index.quarantine.members
        found = (members.get(SpiffeId.parse(text)) for text in request.spiffe_ids)
        return ours.GetQuarantinedResponse(
            quarantined={
                str(one.spiffe_id): ours.Quarantined(reason=one.reason, by=one.by, quarantined_at=one.at)
                for one in found
                if one is not None
            }
        )
