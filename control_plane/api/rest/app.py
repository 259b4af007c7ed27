"""The REST application: routes put together behind front and gate, errors as problems."""

from fastapi import Depends, FastAPI

from control_plane.api.rest import (
    authority,
    authority_quarantine,
    authority_status,
    event_stream,
    explain,
    falco,
    ledger,
    policy,
    problems,
    quarantine,
)
from control_plane.api.rest import openapi as document
from control_plane.api.rest.answers import Health
from control_plane.api.rest.context import RestContext
from control_plane.api.rest.front import Front


def rest_app(context: RestContext) -> FastAPI:
    """The application of the management process."""
    app = FastAPI(
        title="Gatehouse",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        dependencies=[Depends(context.gate)],
    )
    problems.install(app)

    @app.get("/v1/health", tags=["health"])
    async def health() -> Health:
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

    app.include_router(authority_status.router(context.signing))
    app.include_router(authority.router(context))
    app.include_router(authority_quarantine.router(context))
    app.include_router(ledger.router(context.ledger_dir))
    app.include_router(explain.router(context.server))
    app.include_router(policy.router(context))
    app.include_router(quarantine.router(context))
    app.include_router(falco.router(context))
    app.include_router(event_stream.router(context.events, context.gate, max_listeners=context.max_listeners))
    app.add_middleware(Front, gate=context.gate, rates=context.rates, more_requests=context.max_listeners)
    document.install(app)
    return app
