"""gatehouse.server.v1.Entry: SPIRE's writes of entries with our priorities beside, and reading those.

Everything else about an entry is `entries`' part, which does the work.
"""

from collections.abc import Mapping

from control_plane.api.context import ServerContext
from control_plane.api.entries import MAX_BATCH, EntryService
from control_plane.core.errors import InvalidInput
from control_plane.proto.gatehouse.server.v1 import entry_pb2 as ours
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2 as wire
from control_plane.runtime.transport import Call


class PriorityService:
    """Implements the service; who may call it was decided before."""

    def __init__(self, context: ServerContext, entries: EntryService) -> None:
        self._context = context
        self._entries = entries

    async def batch_create_entry(
        self, call: Call, request: ours.BatchCreateEntryRequest
    ) -> wire.BatchCreateEntryResponse:
        _check_positions(request.priorities, len(request.request.entries))
        return await self._entries.batch_create_entry(call, request.request, request.priorities)

    async def batch_update_entry(
        self, call: Call, request: ours.BatchUpdateEntryRequest
    ) -> wire.BatchUpdateEntryResponse:
        _check_positions(request.priorities, len(request.request.entries))
        return await self._entries.batch_update_entry(call, request.request, request.priorities)

    async def get_priorities(
        self, call: Call, request: ours.GetPrioritiesRequest
    ) -> ours.GetPrioritiesResponse:
        if len(request.entry_ids) > MAX_BATCH:
            raise InvalidInput(f"{len(request.entry_ids)} entry IDs in one request, at most {MAX_BATCH}")
        index = self._context.replica.index
        found = (index.entry(entry_id) for entry_id in request.entry_ids)
        return ours.GetPrioritiesResponse(
            priorities={entry.id: entry.priority for entry in found if entry is not None and entry.priority}
        )


def _check_positions(priorities: Mapping[int, int], count: int) -> None:
    beyond = [position for position in priorities if position >= count]
    if beyond:
        raise InvalidInput(f"a priority for entry {min(beyond)} of a request with {count} entries")
