"""`/v1/authority/{kind}`: which authorities there are, and the steps of a forced rotation.

A step that can't be made is refused before the ledger hears of it: that tells what was changed.
"""

from typing import Annotated, Final

from fastapi import APIRouter, Query
from pydantic import Field

from control_plane.api.rest.answers import Authorities, Authority, AuthorityQuarantine
from control_plane.api.rest.body import Body
from control_plane.api.rest.conditions import page_behind
from control_plane.api.rest.context import RestContext
from control_plane.api.rest.gate import Passing
from control_plane.api.rest.openapi import Cursor
from control_plane.authority.state import Kind, Slot, Status
from control_plane.core.errors import FailedPrecondition, InvalidInput

LIMIT: Final = 1000


class Named(Body):
    """The body of a step; where only one authority can be meant it may be left out. The reason can also come
    in the header."""

    authority_id: str | None = Field(None, max_length=200)
    reason: str = Field("", max_length=1000, examples=["the yearly rotation"])


def router(context: RestContext) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1/authority/{kind}", tags=["authority"], route_class=context.route_class)

    @routes.get("")
    async def show(
        kind: Kind, limit: Annotated[int, Query(ge=1, le=LIMIT)] = LIMIT, cursor: Cursor = None
    ) -> Authorities:
        """The authorities of a kind, oldest first."""
        return await _shown(context, kind, limit, cursor)

    @routes.post("/prepare")
    async def prepare(kind: Kind, passage: Passing, body: Named | None = None) -> Authorities:
        """Makes the next authority and publishes it; it doesn't sign yet."""
        await context.lifecycle.foresee(kind, "prepare")
        await passage.changing(f"{kind} authority", _reason(body), detail={"step": "prepare"})
        await context.lifecycle.prepare(kind)
        return await _shown(context, kind)

    @routes.post("/activate")
    async def activate(kind: Kind, passage: Passing, body: Named | None = None) -> Authorities:
        """Lets the prepared authority sign from now on."""
        _, state = await context.authorities.load()
        prepared = state.with_status(kind, Status.PREPARED)
        authority_id = (body and body.authority_id) or (prepared.authority_id if prepared else None)
        if authority_id is None:
            raise FailedPrecondition(f"{kind} authority: none is prepared", hint="prepare one first")
        await context.lifecycle.foresee(kind, "activate", authority_id)
        await passage.changing(f"{kind} authority {authority_id}", _reason(body), detail={"step": "activate"})
        await context.lifecycle.activate(kind, authority_id)
        return await _shown(context, kind)

    @routes.post("/taint")
    async def taint(kind: Kind, body: Named, passage: Passing) -> Authorities:
        """Marks an old authority: agents replace what it signed."""
        await context.lifecycle.foresee(kind, "taint", _given(body))
        await passage.changing(f"{kind} authority {_given(body)}", body.reason, detail={"step": "taint"})
        await context.lifecycle.taint(kind, _given(body))
        return await _shown(context, kind)

    @routes.post("/revoke")
    async def revoke(kind: Kind, body: Named, passage: Passing) -> Authorities:
        """Takes a tainted authority out of the bundle."""
        await context.lifecycle.foresee(kind, "revoke", _given(body))
        await passage.changing(f"{kind} authority {_given(body)}", body.reason, detail={"step": "revoke"})
        await context.lifecycle.revoke(kind, _given(body))
        return await _shown(context, kind)

    return routes


def _reason(body: Named | None) -> str:
    return "" if body is None else body.reason


def _given(body: Named) -> str:
    if not body.authority_id:
        raise InvalidInput("authority_id is missing", hint="GET the authorities to see their IDs")
    return body.authority_id


async def _shown(
    context: RestContext, kind: Kind, limit: int = LIMIT, cursor: str | None = None
) -> Authorities:
    _, state = await context.authorities.load()
    slots = state.slots(kind)
    where, following = page_behind([slot.authority_id for slot in slots], cursor, limit)
    return {
        "kind": str(kind),
        "bundle_sequence": state.bundle_sequence,
        "authorities": [await _one(context, slot) for slot in slots[where]],
        "next_cursor": following,
    }


async def _one(context: RestContext, slot: Slot) -> Authority:
    unconfirmed = None
    if slot.status is Status.PREPARED:
        unconfirmed = await context.unconfirmed(slot.published_sequence)
    return {
        "authority_id": slot.authority_id,
        "status": str(slot.status),
        "tainted": slot.tainted,
        "revoked": slot.revoked,
        "not_before": slot.not_before,
        "not_after": slot.not_after,
        "prepared_at": slot.prepared_at,
        "activated_at": slot.activated_at,
        "agents_without_it": unconfirmed,
        "quarantine": shown_quarantine(slot),
    }


def shown_quarantine(slot: Slot) -> AuthorityQuarantine | None:
    """Why and since when an authority is cut off; None if it isn't."""
    cut = slot.cut_off
    if cut is None:
        return None
    return {"reason": cut.reason, "by": cut.by, "quarantined_at": cut.at, "withheld": cut.withheld}
