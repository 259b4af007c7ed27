"""`/v1/policy`: versions and their lives, what is in force, and the changes that people make to both."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from control_plane.api.rest import answers
from control_plane.api.rest.conditions import (
    TooLarge,
    check_match,
    is_known,
    read_cursor,
    read_place,
    write_cursor,
    write_place,
)
from control_plane.api.rest.context import RestContext
from control_plane.api.rest.gate import Passing
from control_plane.api.rest.openapi import NOTHING_NEW, Cursor, json_body
from control_plane.api.rest.policy_views import (
    shown_assignment,
    shown_in_force,
    shown_life,
    shown_version,
    tag_of,
)
from control_plane.core.errors import PermissionDenied, ResourceExhausted
from control_plane.rollout.push_body import DEFAULT_WAIT_SECONDS, MAX_WAIT_SECONDS
from control_plane.rollout.push_reader import read_body
from control_plane.rollout.version import SignedVersion, checked_reason

Number = Annotated[int, Path(ge=1, le=2**53, description="Of the version.")]


class Push(BaseModel):
    """A new version: Rego and data by relative name, the inventory as a file. `wait_seconds`: how long to
    wait for the proof before answering."""

    files: dict[str, str] = Field(
        examples=[{"authz.rego": "package gatehouse.authz\n\ndefault allow := false\n"}]
    )
    inventory: str = Field(examples=["mesh: {trust_domain: example.org}\n"])
    reason: str = Field(min_length=1, max_length=1000, examples=["let the shop call the payments"])
    wait_seconds: float = Field(DEFAULT_WAIT_SECONDS, ge=0, le=MAX_WAIT_SECONDS)


class Because(BaseModel):
    """Why."""

    reason: str = Field(min_length=1, max_length=1000, examples=["looks right"])


class Reasoned(BaseModel):
    """Why, unless the header says it."""

    reason: str = Field("", max_length=1000, examples=["the yearly rotation"])


class Apply(Because):
    """To how many of the agents, in percent. Less than 100 is a canary."""

    percent: int = Field(100, ge=1, le=100)


class Rollback(Because):
    """To which version; without one a running canary ends."""

    to: int | None = Field(None, ge=1, le=2**53)


def router(context: RestContext) -> APIRouter:
    """The routes."""
    rollouts, store = context.rollouts, context.rollout_store
    routes = APIRouter(prefix="/v1/policy", tags=["policy"], route_class=context.route_class)

    async def answer(request: Request, response: Response, number: int) -> answers.VersionWithSteps:
        version, life = await store.version(number)
        response.headers["etag"] = tag_of(life)
        return {**shown_version(version, life), "steps": shown_life(life)}

    async def unchanged(request: Request, number: int) -> SignedVersion:
        """The version, if it is as the caller saw it."""
        version, life = await store.version(number)
        check_match(request, tag_of(life))
        return version

    @routes.post("/versions", status_code=201, openapi_extra={"requestBody": json_body(Push)})
    async def push(request: Request, response: Response, passage: Passing) -> answers.VersionWithSteps:
        """Stores a version, compiles and proves it. A version that isn't proved can't be approved."""
        try:
            body = await read_body(await request.body())
        except ResourceExhausted as error:
            raise TooLarge(error.message, hint=error.hint) from error
        digest = await asyncio.to_thread(lambda: body.source.digest)
        await passage.changing("policy", checked_reason(body.reason), detail={"digest": digest})
        version, _ = await rollouts.push(body.source, author=passage.subject.id, reason=body.reason)
        number = version.version.number
        await rollouts.settled(number, body.wait_seconds)
        response.headers["location"] = f"/v1/policy/versions/{number}"
        return await answer(request, response, number)

    @routes.get("/versions")
    async def versions(
        limit: Annotated[int, Query(ge=1, le=1000)] = 50, cursor: Cursor = None
    ) -> answers.VersionPage:
        """The newest first, without their steps."""
        found = await store.versions(read_cursor(cursor), limit)
        last = found[-1][0].version.number if len(found) == limit else None
        return {
            "versions": [shown_version(version, life) for version, life in found],
            "next_cursor": write_cursor(last),
        }

    @routes.get("/versions/{number}", response_model=answers.VersionWithSteps, responses=NOTHING_NEW)
    async def version(
        number: Number, request: Request, response: Response
    ) -> answers.VersionWithSteps | Response:
        """One version with every step of its life."""
        found, life = await store.version(number)
        if is_known(request, response, tag_of(life)):
            return Response(status_code=304, headers={"etag": tag_of(life)})
        return {**shown_version(found, life), "steps": shown_life(life)}

    @routes.get("/versions/{number}/files")
    async def files(number: Number) -> answers.Files:
        """What was pushed."""
        source = await store.source(number)
        return {"files": dict(source.files), "inventory": source.inventory}

    @routes.post("/versions/{number}/plan")
    async def plan(
        number: Number, request: Request, response: Response, passage: Passing
    ) -> answers.VersionWithSteps:
        """Who would gain and who would lose access, against what is in force now."""
        known = await unchanged(request, number)
        await passage.changing(f"policy version {number}", passage.reason or known.version.reason)
        await rollouts.plan(number, by=passage.subject.id)
        return await answer(request, response, number)

    @routes.post("/versions/{number}/approve")
    async def approve(
        number: Number, body: Because, request: Request, response: Response, passage: Passing
    ) -> answers.VersionWithSteps:
        """Agrees to the latest plan. Never the author."""
        version = await unchanged(request, number)
        passage.enter(author=version.version.author)
        await passage.changing(f"policy version {number}", body.reason)
        await rollouts.approve(
            number, by=passage.subject.id, reason=body.reason, break_glass=passage.break_glass
        )
        return await answer(request, response, number)

    @routes.post("/versions/{number}/reject")
    async def reject(
        number: Number, body: Because, request: Request, response: Response, passage: Passing
    ) -> answers.VersionWithSteps:
        """Ends a version that isn't in force."""
        version = await unchanged(request, number)
        passage.enter(author=version.version.author)
        await passage.changing(f"policy version {number}", body.reason)
        await rollouts.close(number, by=passage.subject.id, reason=body.reason, how="rejected")
        return await answer(request, response, number)

    @routes.post("/versions/{number}/withdraw")
    async def withdraw(
        number: Number, body: Because, request: Request, response: Response, passage: Passing
    ) -> answers.VersionWithSteps:
        """Takes one's own version back."""
        version = await unchanged(request, number)
        passage.enter()
        if version.version.author != passage.subject.id:
            raise PermissionDenied(
                f"withdrawing policy version {number}: {version.version.author} wrote it",
                hint="who isn't its author can reject it",
            )
        await passage.changing(f"policy version {number}", body.reason)
        await rollouts.close(number, by=passage.subject.id, reason=body.reason, how="withdrawn")
        return await answer(request, response, number)

    @routes.post("/versions/{number}/apply")
    async def apply(
        number: Number, body: Apply, request: Request, response: Response, passage: Passing
    ) -> answers.VersionWithSteps:
        """Brings an approved version into force, for all agents or for a share; agents have it at once."""
        await unchanged(request, number)
        await passage.changing(f"policy version {number}", body.reason, detail={"percent": body.percent})
        await rollouts.apply(number, percent=body.percent, by=passage.subject.id, reason=body.reason)
        return await answer(request, response, number)

    @routes.post("/rollback")
    async def rollback(
        body: Rollback, request: Request, response: Response, passage: Passing
    ) -> answers.VersionWithSteps:
        """Brings back a version that was in force before, for all agents, without asking anybody again."""
        check_match(request, f'"{(await store.in_force()).sequence}"')
        resource = "the running canary" if body.to is None else f"policy version {body.to}"
        await passage.changing(resource, body.reason)
        life = await rollouts.rollback(body.to, by=passage.subject.id, reason=body.reason)
        return await answer(request, response, life.number)

    @routes.get("/status", response_model=answers.InForce, responses=NOTHING_NEW)
    async def status(request: Request, response: Response) -> answers.InForce | Response:
        """What is in force, and for how many of the agents."""
        now = await store.in_force()
        index, unix = context.server.replica.index, context.server.clock.unix()
        agents = [agent_id for agent_id, record in index.agents.items() if record.is_live(unix)]
        shown = shown_in_force(now, agents, index.quarantine, context.canary_watch.verdict)
        if is_known(request, response, f'"{now.sequence}"') and shown["denials"] is None:
            return Response(status_code=304, headers={"etag": f'"{now.sequence}"'})
        return shown

    @routes.get("/assignments")
    async def assignments(
        limit: Annotated[int, Query(ge=1, le=1000)] = 50, cursor: Cursor = None
    ) -> answers.AssignmentPage:
        """What was ever in force, the newest first."""
        found = await store.assignments(read_cursor(cursor), limit)
        last = found[-1].sequence if len(found) == limit else None
        return {
            "assignments": [shown_assignment(one) for one in found],
            "next_cursor": write_cursor(last),
        }

    @routes.get("/keys")
    async def keys(
        limit: Annotated[int, Query(ge=1, le=1000)] = 1000, cursor: Cursor = None
    ) -> answers.PolicyKeyPage:
        """The keys that sign policies, the newest last."""
        known, behind = await store.keys(), read_place(cursor)
        begin = next((place for place, one in enumerate(known, 1) if one.key_id == behind), 0)
        found = known[begin : begin + limit]
        more = begin + limit < len(known)
        return {
            "keys": [{"key_id": one.key_id, "created_at": one.created_at} for one in found],
            "next_cursor": write_place(found[-1].key_id) if more else None,
        }

    @routes.post("/keys", status_code=201)
    async def rotate(passage: Passing, body: Reasoned | None = None) -> answers.NewPolicyKey:
        """Makes a new key; it signs from the next assignment on."""
        await passage.changing("policy keys", "" if body is None else body.reason)
        return {"key_id": await rollouts.rotate_key()}

    return routes
