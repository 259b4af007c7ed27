"""The routes that an OPA asks: `GET /v1/opa/bundle` with ETag and long poll, and the keys it checks by.

The same routes stand on the management API, behind its gate, and on a listener of their own for OPAs of the
same machine, which need no credentials there: a bundle is signed and no secret of the machine's users.
"""

from typing import Annotated, Any, Final

from fastapi import APIRouter, FastAPI, Query, Request, Response
from typing_extensions import TypedDict  # pydantic reads the one of `typing` from Python 3.12 on

from control_plane.api.opa.bundles import OpaBundles
from control_plane.api.rest import answers, problems
from control_plane.api.rest.conditions import is_known, page_behind, tags_of
from control_plane.api.rest.openapi import Cursor
from control_plane.core.spiffe_id import SpiffeId
from control_plane.rollout.opa_bundle import MEDIA_TYPE, verification_key

MAX_WAIT_SECONDS: Final = 300
"""A poll that asks for more is answered after this long; OPA asks again at once."""
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}},
    304: {"description": "Nothing new."},
}


class KeyPage(TypedDict):
    """Key ID → the key as OPA's configuration takes it."""

    keys: dict[str, dict[str, str]]
    next_cursor: answers.Cursor


def router(bundles: OpaBundles) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1/opa", tags=["opa"])

    @routes.get("/bundle", response_class=Response, responses=_RESPONSES)
    async def bundle(
        request: Request, agent: Annotated[str | None, Query(max_length=2048)] = None
    ) -> Response:
        """What is in force, as OPA's `bundles.<name>.resource`. `agent`: the SPIFFE ID of an agent, to take
        part in canaries as it does."""
        given = tags_of(request.headers.get("if-none-match", ""))
        found = await bundles.next_bundle(
            given.__contains__,
            wait_seconds_of(request.headers.get("prefer", "")),
            None if agent is None else SpiffeId.parse(agent),
        )
        response = Response(found.content, media_type=MEDIA_TYPE)
        if is_known(request, response, found.tag):
            return Response(status_code=304, headers={"etag": found.tag, "content-type": MEDIA_TYPE})
        return response

    @routes.get("/keys")
    async def keys(limit: Annotated[int, Query(ge=1, le=1000)] = 1000, cursor: Cursor = None) -> KeyPage:
        """What `keys` in OPA's configuration has to hold, the newest last."""
        known = await bundles.keys()
        where, following = page_behind([key.key_id for key in known], cursor, limit)
        return {
            "keys": {key.key_id: verification_key(key) for key in known[where]},
            "next_cursor": following,
        }

    return routes


def opa_app(bundles: OpaBundles) -> FastAPI:
    """These routes alone."""
    app = FastAPI(title="Gatehouse for OPA", docs_url=None, redoc_url=None, openapi_url=None)
    problems.install(app)
    app.include_router(router(bundles))
    return app


def wait_seconds_of(prefer: str) -> float:
    """`wait` of a Prefer header (RFC 7240 section 4.3), bounded; 0 where there is none that can be read."""
    for preference in prefer[:1000].replace(",", ";").split(";"):
        name, _, value = preference.partition("=")
        value = value.strip()
        if name.strip().lower() == "wait" and value.isascii() and value.isdigit() and len(value) < 10:
            return float(min(int(value), MAX_WAIT_SECONDS))
    return 0.0
