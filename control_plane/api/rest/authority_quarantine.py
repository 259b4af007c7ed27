"""`/v1/authority/{kind}/quarantine` and `/release`: an authority that is cut off for a while. Idempotent.

What that means, and what a release can't undo, is said in `authority.quarantine`.
"""

from fastapi import APIRouter
from pydantic import Field

from control_plane.api.rest.answers import AuthorityCut
from control_plane.api.rest.authority import shown_quarantine
from control_plane.api.rest.body import Body
from control_plane.api.rest.context import RestContext
from control_plane.api.rest.gate import Passing
from control_plane.authority.state import CutOff, Kind
from control_plane.rollout.version import checked_reason


class Whom(Body):
    """Which authority, and why."""

    authority_id: str = Field(max_length=200)
    reason: str = Field(min_length=1, max_length=1000, examples=["its key was on a disk that is gone"])


class CutBody(Whom):
    """`force`: where it is active and none is prepared, make one that signs at once. `at_once`: take it out
    of the bundle now, without time for agents to replace what it signed."""

    force: bool = False
    at_once: bool = False


def router(context: RestContext) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1/authority/{kind}", tags=["authority"], route_class=context.route_class)

    @routes.post("/quarantine")
    async def cut_off(kind: Kind, body: CutBody, passage: Passing) -> AuthorityCut:
        """Has another authority sign, and what this one signed replaced and then refused."""
        reason = checked_reason(body.reason)
        (await context.authorities.load())[1].find(kind, body.authority_id)
        detail = {"step": "quarantine", "force": body.force, "at_once": body.at_once}
        await passage.changing(f"{kind} authority {body.authority_id}", reason, detail=detail)
        cut = CutOff(context.server.clock.unix(), passage.subject.id, reason, withheld=body.at_once)
        changed = await context.lifecycle.quarantine(kind, body.authority_id, cut, force=body.force)
        return await _answer(kind, body.authority_id, changed)

    @routes.post("/release")
    async def release(kind: Kind, body: Whom, passage: Passing) -> AuthorityCut:
        """Lets what the authority signed count again. It doesn't sign again, unless it was only prepared."""
        (await context.authorities.load())[1].find(kind, body.authority_id)
        detail = {"step": "release"}
        await passage.changing(f"{kind} authority {body.authority_id}", body.reason, detail=detail)
        changed = await context.lifecycle.release(kind, body.authority_id)
        return await _answer(kind, body.authority_id, changed)

    async def _answer(kind: Kind, authority_id: str, changed: bool) -> AuthorityCut:
        _, state = await context.authorities.load()
        active = state.active_x509 if kind is Kind.X509 else state.active_jwt
        return {
            "kind": str(kind),
            "authority_id": authority_id,
            "changed": changed,
            "quarantine": shown_quarantine(state.find(kind, authority_id)),
            "signing_now": "" if active is None else active.authority_id,
        }

    return routes
