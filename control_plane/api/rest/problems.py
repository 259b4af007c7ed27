"""Errors to problem+json (RFC 9457): the one table of this border. Outsiders get class and id, the log the
story."""

import math
import re
import secrets
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from control_plane.api.rest.conditions import OfHttp
from control_plane.api.rest.gate import methods_of
from control_plane.core.errors import (
    Code,
    GatehouseError,
    InternalError,
    ResourceExhausted,
    Unavailable,
    shown,
)
from control_plane.runtime.log import get_logger

MEDIA_TYPE: Final = "application/problem+json"
STATUS: Final[Mapping[Code, int]] = {
    Code.INVALID_ARGUMENT: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.FAILED_PRECONDITION: 409,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}
LISTED: Final = "/v1/openapi.json lists what there is"
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_log = get_logger("rest")


def install(app: FastAPI) -> None:
    """Has `app` answer every error as a problem."""

    @app.exception_handler(GatehouseError)
    async def expected(request: Request, error: GatehouseError) -> JSONResponse:
        return problem_of(request, error)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        return problem(400, "invalid-input", "; ".join(_fault(one) for one in error.errors()[:10]))

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> JSONResponse:
        asked = f"{request.method} {shown(request.url.path)}"
        if error.status_code == 404:
            return problem(404, "not-found", f"{asked}: there is no such path", LISTED)
        if error.status_code == 405:
            allowed = ", ".join(methods_of(request.url.path))
            return problem(405, "method-not-allowed", f"{asked}: takes {allowed}", LISTED, {"allow": allowed})
        return problem(error.status_code, "http", f"{asked}: {error.detail}")

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return _internal(request, error)


def problem_of(request: Request, error: GatehouseError) -> JSONResponse:
    """What the caller gets for an error of ours."""
    if isinstance(error, InternalError):
        return _internal(request, error)
    headers = {}
    if isinstance(error, Unavailable | ResourceExhausted) and error.retry_after_seconds is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_seconds)))
    if error.code is Code.UNAUTHENTICATED:
        headers["www-authenticate"] = "Bearer"
    status = error.http_status if isinstance(error, OfHttp) else STATUS.get(error.code, 500)
    return problem(status, error.kind, error.message, error.hint, headers)


def problem(
    status: int, kind: str, detail: str, hint: str = "", headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """One problem. `type` is a name of ours, `hint` says what to do next."""
    return JSONResponse(problem_document(status, kind, detail, hint), status, dict(headers or {}), MEDIA_TYPE)


def problem_document(status: int, kind: str, detail: str, hint: str = "") -> dict[str, str | int]:
    """The document of a problem."""
    body: dict[str, str | int] = {
        "type": f"urn:gatehouse:problem:{kind}",
        "title": kind,
        "status": status,
        "detail": detail,
    }
    return {**body, "hint": hint} if hint else body


def _fault(one: Mapping[str, Any]) -> str:
    """One fault that was found in a request, as pydantic tells it."""
    if one["type"] == "json_invalid":
        return f"body: isn't JSON ({one['ctx']['error']}, at character {one['loc'][-1]})"
    where = ".".join(_step(part) for part in one["loc"])
    return f"{where}: isn't known, {LISTED}" if one["type"] == "extra_forbidden" else f"{where}: {one['msg']}"


def _step(part: object) -> str:
    """A step of the way to a fault: a name of ours or a place in a list, or else a name that came."""
    text = str(part)
    return text if _PLAIN.fullmatch(text) else shown(text)


def _internal(request: Request, error: Exception) -> JSONResponse:
    error_id = secrets.token_hex(8)
    _log.error("request_failed", path=request.url.path, error_id=error_id, exc_info=error)
    return problem(500, "bug", f"something went wrong here; the log has the story under {error_id}")
