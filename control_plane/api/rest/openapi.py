"""The OpenAPI 3.1 document: what FastAPI knows of the routes, and what stands before and behind all of them.

Errors are problems (RFC 9457) and listed by status; how callers are authenticated, the headers that every
change takes, and the ID of each request are added here, so that no route has to say it.
"""

import asyncio
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import FastAPI, Query, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from control_plane.api.rest.conditions import MAX_PLACE_CHARACTERS, tags_of
from control_plane.api.rest.gate import BREAK_GLASS, HEADERS, REQUEST_ID, is_change
from control_plane.api.rest.problems import MEDIA_TYPE

Cursor = Annotated[
    str | None, Query(max_length=MAX_PLACE_CHARACTERS, description="`next_cursor` of the page before.")
]
NOTHING_NEW: Final[dict[int | str, dict[str, Any]]] = {
    304: {"description": "It is as `If-None-Match` has it."}
}

PATH: Final = "/v1/openapi.json"
_DESCRIPTION: Final = """
The management API of Gatehouse: over TLS for bearers of OIDC tokens and holders of X.509-SVIDs of the trust
domain, and over a unix socket for the users of the server's machine. Who may do what follows from roles;
errors are problems (RFC 9457) with a hint at what to do next.
"""
_WORDS: Final[Mapping[int, str]] = {
    400: "What came doesn't have the form or the values that it must have.",
    401: "Who calls couldn't be established.",
    403: "The caller is known and may not do this.",
    404: "There is no such thing.",
    405: "With what stands in for the parameters this is another path, and that takes other methods.",
    408: "The request took too long to come in.",
    409: "The present state doesn't allow it, or a request with the same key is being worked on.",
    412: "The resource isn't in the state that `If-Match` names.",
    413: "The body is too large.",
    415: "The body isn't said to be JSON.",
    422: "The idempotency key was used for another request.",
    429: "Too many requests, or a bound was reached.",
    431: "The head, with path and query, is too large.",
    500: "Our own fault; the answer names where the log has the story.",
    501: "The body comes in a coding other than chunked, or a key in Vault is of a type that can't sign.",
    503: "Something that is needed can't be reached, or too much is going on.",
    504: "Something took too long.",
}
_ALWAYS: Final = (400, 401, 403, 408, 413, 415, 429, 431, 500, 501, 503, 504)
"""400, 431 and 501 may come from the connection, before there is a request that a route could answer."""
_PROBLEM: Final = {
    "type": "object",
    "description": "A problem (RFC 9457).",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri", "examples": ["urn:gatehouse:problem:permission-denied"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "hint": {"type": "string", "description": "What to do next."},
    },
    "example": {
        "type": "urn:gatehouse:problem:permission-denied",
        "title": "permission-denied",
        "status": 403,
        "detail": "policy.approve: nobody decides on a change of their own",
        "hint": "roles are granted by [roles] in the server's settings",
    },
}
_SECURITY: Final = {
    "oidc": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "Of a configured issuer.",
    },
    "svid": {"type": "mutualTLS", "description": "An X.509-SVID with a path, of a trusted domain."},
}

_SPECIAL: Final[Mapping[str, Mapping[str, Any]]] = {
    BREAK_GLASS: {"enum": ["1"]},
    "idempotency-key": {"minLength": 1},
}
_WITH_STATE: Final = ("/v1/policy/versions/{number}/", "/v1/policy/rollback")
"""Changes to something that has an entity tag."""


def install(app: FastAPI) -> None:
    """Has `app` give this document at `PATH`; it is made when it is first asked for, with the routes of that
    moment, and in a thread, for it takes its time."""

    def made() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    written: list[tuple[bytes, str]] = []

    def write() -> tuple[bytes, str]:
        content = json.dumps(made()).encode()
        written.append((content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'))
        return written[0]

    async def show(request: Request) -> Response:
        content, tag = written[0] if written else await asyncio.to_thread(write)
        if tag in tags_of(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers={"etag": tag})
        return Response(content, headers={"etag": tag}, media_type="application/json")

    app.openapi = made  # type: ignore[method-assign]
    app.add_route(PATH, show)


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """A body that a route reads by itself, for `openapi_extra`."""
    return {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title="Gatehouse",
        version=app.version,
        openapi_version="3.1.0",
        description=_DESCRIPTION.strip(),
        routes=app.routes,
        servers=[{"url": "/"}],
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for replaced in ("HTTPValidationError", "ValidationError"):
        schemas.pop(replaced, None)
    schemas["Problem"] = _PROBLEM
    components["securitySchemes"] = _SECURITY
    components["headers"] = {
        "RequestId": {
            "description": "Names the request in log and ledger; absent where its head was refused.",
            "schema": {"type": "string"},
        }
    }
    components["parameters"] = {
        header.name: {
            "name": header.name,
            "in": "header",
            "required": False,
            "description": header.about,
            "schema": {"type": "string", "maxLength": header.max_characters, **_SPECIAL.get(header.name, {})},
        }
        for header in HEADERS
    }
    document["security"] = [{"oidc": []}, {"svid": []}]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            _complete(path, method, operation)
    return document


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)  # FastAPI's own; ours are problems, and 400
    changes = is_change(method.upper(), path)
    others = (404, *((405,) if "{" in path else ()), *((409, 412, 422) if changes else ()))
    for status in (*_ALWAYS, *others):
        content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        responses.setdefault(str(status), {"description": _WORDS[status], "content": content})
    for response in responses.values():
        headers = response.setdefault("headers", {})
        headers[REQUEST_ID] = {"$ref": "#/components/headers/RequestId"}
    responses["429"]["headers"]["Retry-After"] = {
        "description": "Seconds; absent where waiting doesn't help.", "schema": {"type": "integer"},
    }  # fmt: skip
    if changes:
        with_state = path.startswith(_WITH_STATE)
        names = [one.name for one in HEADERS if with_state or one.name != "if-match"]
        named = [{"$ref": f"#/components/parameters/{name}"} for name in names]
        operation.setdefault("parameters", []).extend(named)
