"""The REST application: routes put together, errors as problems, bodies bounded."""

from typing import Any, Final

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from control_plane.api.rest import authority, explain, ledger, problems
from control_plane.api.rest.context import RestContext

MAX_BODY_BYTES: Final = 1 << 20


def rest_app(context: RestContext) -> FastAPI:
    """The application of the management process."""
    app = FastAPI(
        title="Gatehouse", version="1", docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json"
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
    app.add_middleware(_Bounded)
    return app


class _Bounded:
    """Refuses bodies beyond `MAX_BODY_BYTES` before anything reads them whole."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = 0
        refused = False

        async def bounded() -> Message:
            nonlocal seen, refused
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MAX_BODY_BYTES:
                refused = True
                return {"type": "http.request", "body": b"", "more_body": False}
            return message

        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > MAX_BODY_BYTES:
            answer = problems.problem(413, "too-large", f"the body may have {MAX_BODY_BYTES} bytes at most")
            await answer(scope, receive, send)
            return
        await self._app(scope, bounded, send)
