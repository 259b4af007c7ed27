"""`/v1/quarantine`: who is cut off, cutting off and letting back in. Both are idempotent."""

from bisect import bisect_right
from operator import itemgetter
from typing import Annotated, Final

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from control_plane.api.rest import answers
from control_plane.api.rest.answers import QuarantinePage
from control_plane.api.rest.body import Body
from control_plane.api.rest.conditions import read_place, write_place
from control_plane.api.rest.context import RestContext
from control_plane.api.rest.gate import Passing
from control_plane.api.rest.openapi import Cursor
from control_plane.core.errors import InvalidInput, NotFound
from control_plane.core.spiffe_id import SpiffeId, is_agent_id
from control_plane.identity.quarantine import MAX_QUARANTINED, Quarantine, Quarantined
from control_plane.rollout.version import checked_reason
from control_plane.runtime import tracing

PAGE: Final = 1000


class Cut(Body):
    """Whom, and why."""

    spiffe_id: str = Field(max_length=2048, examples=["spiffe://example.org/ns/shop/sa/web"])
    reason: str = Field(min_length=1, max_length=1000, examples=["calls what it never called"])


class _InOrder:
    """The members by name. They are sorted once: it takes longer than showing a page of them."""

    def __init__(self) -> None:
        self._of = Quarantine()
        self._sorted: list[tuple[str, Quarantined]] = []

    def of(self, quarantine: Quarantine) -> list[tuple[str, Quarantined]]:
        if quarantine is not self._of:
            members = ((str(spiffe_id), member) for spiffe_id, member in quarantine.members.items())
            self._sorted = sorted(members, key=itemgetter(0))
            self._of = quarantine
        return self._sorted


def router(context: RestContext) -> APIRouter:
    """The routes."""
    server = context.server
    in_order = _InOrder()
    routes = APIRouter(prefix="/v1/quarantine", tags=["quarantine"], route_class=context.route_class)

    @routes.get("", response_model=QuarantinePage)
    async def show(
        limit: Annotated[int, Query(ge=1, le=MAX_QUARANTINED)] = PAGE, cursor: Cursor = None
    ) -> Response:
        """Who is cut off, by SPIFFE ID, with why, since when and by whom; a thousand at most in a page."""
        now, behind = server.replica.index.quarantine, read_place(cursor)
        names = in_order.of(now)
        begin = bisect_right(names, behind, key=itemgetter(0))
        end = begin + min(limit, PAGE)
        page: QuarantinePage = {
            "revision": now.revision,
            "next_cursor": write_place(names[end - 1][0]) if end < len(names) else None,
            "quarantined": [
                {"spiffe_id": name, "reason": one.reason, "by": one.by, "quarantined_at": one.at}
                for name, one in names[begin:end]
            ],
        }
        return JSONResponse(page)

    @routes.post("")
    async def cut_off(body: Cut, passage: Passing) -> answers.Cut:
        """Stops issue and renewal for an identity, and has every agent deny it as caller and as callee."""
        spiffe_id = SpiffeId.parse(body.spiffe_id)
        passage.enter(spiffe_id=spiffe_id)
        _checked(spiffe_id)
        reason = checked_reason(body.reason)
        await passage.changing(str(spiffe_id), reason)
        member = Quarantined(spiffe_id, reason, passage.subject.id, server.clock.unix())
        changed = await server.store.quarantine(member, tracing.outgoing() or "")
        await server.replica.refresh()
        return _answer(spiffe_id, changed)

    @routes.post("/release")
    async def release(body: Cut, passage: Passing) -> answers.Cut:
        """Lets an identity back in."""
        spiffe_id = SpiffeId.parse(body.spiffe_id)
        passage.enter(spiffe_id=spiffe_id)
        await passage.changing(str(spiffe_id), checked_reason(body.reason))
        changed = await server.store.release(spiffe_id, tracing.outgoing() or "")
        await server.replica.refresh()
        return _answer(spiffe_id, changed)

    def _checked(spiffe_id: SpiffeId) -> SpiffeId:
        """An identity that can be cut off; one of another trust domain is denied, that is all we can do."""
        if not spiffe_id.has_path:
            raise InvalidInput(
                f"quarantine of {spiffe_id}: expected a SPIFFE ID with a path",
                hint="a whole foreign trust domain is cut off by gatehouse bundle delete",
            )
        ours = spiffe_id.trust_domain == server.trust_domain
        if ours and spiffe_id.is_reserved and not is_agent_id(spiffe_id):
            raise InvalidInput(
                f"quarantine of {spiffe_id}: the server can't be cut off from itself",
                hint="an authority is cut off by gatehouse authority x509 taint, then revoke",
            )
        if ours and is_agent_id(spiffe_id) and spiffe_id not in server.replica.index.agents:
            raise NotFound(
                f"agent {spiffe_id} isn't attested", hint="gatehouse agent list shows those that are"
            )
        return spiffe_id

    def _answer(spiffe_id: SpiffeId, changed: bool) -> answers.Cut:
        now = server.replica.index.quarantine
        entries = server.replica.index.entries_of(spiffe_id)
        return {
            "spiffe_id": str(spiffe_id),
            "quarantined": spiffe_id in now,
            "changed": changed,
            "revision": now.revision,
            "entries": len(entries),
        }

    return routes
