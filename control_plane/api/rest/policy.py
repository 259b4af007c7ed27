"""`/v1/policy`: versions and their lives, what is in force, and the changes that people make to both."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from control_plane.api.rest import answers
from control_plane.api.rest.body import Body
from control_plane.api.rest.census import Counting
from control_plane.api.rest.conditions import (
    TooLarge,
    check_match,
    is_known,
    page_behind,
    read_cursor,
    write_cursor,
)
from control_plane.api.rest.context import RestContext
from control_plane.api.rest.gate import Passing
from control_plane.api.rest.openapi import NOTHING_NEW, Cursor, json_body
from control_plane.api.rest.policy_views import (
    shown_assignment,
    shown_in_force,
    shown_version,
    tag_of,
    written_life,
)
from control_plane.core.errors import PermissionDenied, ResourceExhausted
from control_plane.rollout.push_body import DEFAULT_WAIT_SECONDS, MAX_WAIT_SECONDS
from control_plane.rollout.push_reader import read_body
from control_plane.rollout.version import SignedVersion, checked_reason

Number = Annotated[int, Path(ge=1, le=2**53, description="Of the version.")]


class Push(Body):
    """A new version: Rego and data by relative name, the inventory as a file. `wait_seconds`: how long to
    wait for the proof before answering."""

    files: dict[str, str] = Field(
        examples=[{"authz.rego": "package gatehouse.authz\n\ndefault allow := false\n"}]
    )
    inventory: str = Field(examples=["mesh: {trust_domain: example.org}\n"])
    reason: str = Field(min_length=1, max_length=1000, examples=["let the shop call the payments"])
    wait_seconds: float = Field(DEFAULT_WAIT_SECONDS, ge=0, le=MAX_WAIT_SECONDS)


class Because(Body):
    """Why."""

    reason: str = Field(min_length=1, max_length=1000, examples=["looks right"])


class Reasoned(Body):
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
    rollouts, store, replica = context.rollouts, context.rollout_store, context.server.replica
    counting = Counting(lambda: replica.index.agents, context.server.clock.unix)
    routes = APIRouter(prefix="/v1/policy", tags=["policy"], route_class=context.route_class)

    async def answer(number: int, status: int = 200, **headers: str) -> Response:
        version, life = await store.version(number)
        content = await written_life(version, life)
        return Response(content, status, {"etag": tag_of(life), **headers}, "application/json")

    async def unchanged(request: Request, number: int) -> SignedVersion:
        """The version, if it is as the caller saw it."""
        version, life = await store.version(number)
        check_match(request, tag_of(life))
        return version

    @routes.post(
        "/versions",
        status_code=201,
        response_model=answers.VersionWithSteps,
        openapi_extra={"requestBody": json_body(Push)},
    )
    async def push(request: Request, passage: Passing) -> Response:
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
        return await answer(number, 201, location=f"/v1/policy/versions/{number}")

    @routes.get("/versions", response_model=answers.VersionPage)
    async def versions(limit: Annotated[int, Query(ge=1, le=1000)] = 50, cursor: Cursor = None) -> Response:
        """The newest first, without their steps."""
        found = await store.versions(read_cursor(cursor), limit)
        last = found[-1][0].version.number if len(found) == limit else None
        page: answers.VersionPage = {
            "versions": [shown_version(version, life) for version, life in found],
            "next_cursor": write_cursor(last),
        }
        return JSONResponse(page)

    @routes.get("/versions/{number}", response_model=answers.VersionWithSteps, responses=NOTHING_NEW)
    async def version(number: Number, request: Request, response: Response) -> Response:
        """One version with every step of its life."""
        _, life = await store.version(number)
        if is_known(request, response, tag_of(life)):
            return Response(status_code=304, headers={"etag": tag_of(life)})
        return await answer(number)

    @routes.get("/versions/{number}/files")
    async def files(number: Number) -> answers.Files:
        """What was pushed."""
        source = await store.source(number)
        return {"files": dict(source.files), "inventory": source.inventory}

    @routes.post("/versions/{number}/plan", response_model=answers.VersionWithSteps)
    async def plan(number: Number, request: Request, passage: Passing) -> Response:
        """Who would gain and who would lose access, against what is in force now."""
        known = await unchanged(request, number)
        await passage.changing(f"policy version {number}", passage.reason or known.version.reason)
        await rollouts.plan(number, by=passage.subject.id)
        return await answer(number)

    @routes.post("/versions/{number}/approve", response_model=answers.VersionWithSteps)
    async def approve(number: Number, body: Because, request: Request, passage: Passing) -> Response:
        """Agrees to the latest plan. Never the author."""
        version = await unchanged(request, number)
        passage.enter(author=version.version.author)
        await passage.changing(f"policy version {number}", body.reason)
        await rollouts.approve(
            number, by=passage.subject.id, reason=body.reason, break_glass=passage.break_glass
        )
        return await answer(number)

    @routes.post("/versions/{number}/reject", response_model=answers.VersionWithSteps)
    async def reject(number: Number, body: Because, request: Request, passage: Passing) -> Response:
        """Ends a version that isn't in force."""
        version = await unchanged(request, number)
        passage.enter(author=version.version.author)
        await passage.changing(f"policy version {number}", body.reason)
        await rollouts.close(number, by=passage.subject.id, reason=body.reason, how="rejected")
        return await answer(number)

    @routes.post("/versions/{number}/withdraw", response_model=answers.VersionWithSteps)
    async def withdraw(number: Number, body: Because, request: Request, passage: Passing) -> Response:
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
        return await answer(number)

    @routes.post("/versions/{number}/apply", response_model=answers.VersionWithSteps)
    async def apply(number: Number, body: Apply, request: Request, passage: Passing) -> Response:
        """Brings an approved version into force, for all agents or for a share; agents have it at once."""
        await unchanged(request, number)
        await passage.changing(f"policy version {number}", body.reason, detail={"percent": body.percent})
        await rollouts.apply(number, percent=body.percent, by=passage.subject.id, reason=body.reason)
        return await answer(number)

    @routes.post("/rollback", response_model=answers.VersionWithSteps)
    async def rollback(body: Rollback, request: Request, passage: Passing) -> Response:
        """Brings back a version that was in force before, for all agents, without asking anybody again."""
        check_match(request, f'"{(await store.in_force()).sequence}"')
        resource = "the running canary" if body.to is None else f"policy version {body.to}"
        await passage.changing(resource, body.reason)
        life = await rollouts.rollback(body.to, by=passage.subject.id, reason=body.reason)
        return await answer(life.number)

    @routes.get("/status", response_model=answers.InForce, responses=NOTHING_NEW)
    async def status(request: Request, response: Response) -> answers.InForce | Response:
        """What is in force, and for how many of the agents."""
        now = await store.in_force()
        census, verdict = await counting.of(now), context.canary_watch.verdict
        shown = shown_in_force(now, census, replica.index.quarantine, verdict)
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
        known = await store.keys()
        where, following = page_behind([one.key_id for one in known], cursor, limit)
        return {
            "keys": [{"key_id": one.key_id, "created_at": one.created_at} for one in known[where]],
            "next_cursor": following,
        }

    @routes.post("/keys", status_code=201)
    async def rotate(passage: Passing, body: Reasoned | None = None) -> answers.NewPolicyKey:
        """Makes a new key; it signs from the next assignment on."""
        await passage.changing("policy keys", "" if body is None else body.reason)
        return {"key_id": await rollouts.rotate_key()}

    return routes
