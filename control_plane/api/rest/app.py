"""The REST application: routes put together behind the gate, errors as problems, bodies bounded."""

from typing import Any, Final

from fastapi import Depends, FastAPI
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from control_plane.api.rest import authority, explain, ledger, policy, problems, quarantine
from control_plane.api.rest.context import RestContext
from control_plane.api.rest.gate import REQUEST_ID, request_id_of
from control_plane.rollout.version import MAX_CONTENT_BYTES
from control_plane.runtime import tracing

MAX_BODY_BYTES: Final = 1 << 20
MAX_PUSH_BYTES: Final = MAX_CONTENT_BYTES * 3 // 2  # as JSON, with its escapes
PUSH: Final = "/v1/policy/versions"


def rest_app(context: RestContext) -> FastAPI:
    """The application of the management process."""
    app = FastAPI(
        title="Gatehouse",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        dependencies=[Depends(context.gate)],
    )
    problems.install(app)

    @app.get("/v1/health", tags=["health"])
    async def health() -> dict[str, Any]:
        """Whether the management process can do its work."""
        index = context.server.replica.index
        return {
            "status": "serving" if context.healthy() else "not serving",
            "trust_domain": context.server.trust_domain.name,
            "entries": index.entry_count,
            "agents": len(index.agents),
            "change_sequence": index.sequence,
            "bundle_sequence": context.server.trust.own.sequence,
        }

    app.include_router(authority.router(context))
    app.include_router(ledger.router(context.ledger_dir))
    app.include_router(explain.router(context.server))
    app.include_router(policy.router(context))
    app.include_router(quarantine.router(context))
    app.add_middleware(_Bounded)
    return app


class _Bounded:
    """Refuses bodies beyond the bound of their path before anything reads them whole, and gives every answer
    the request's ID."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = 0
        limit = MAX_PUSH_BYTES if scope["path"] == PUSH else MAX_BODY_BYTES
        request = Request(scope)
        request_id = request_id_of(request)
        tracing.enter(request.headers.get(tracing.HEADER))

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                return {"type": "http.request", "body": b"", "more_body": False}
            return message

        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > limit:
            answer = problems.problem(413, "too-large", f"the body may have {limit} bytes at most")
            await answer(scope, receive, named)
            return
        await self._app(scope, bounded, named)
