"""Cursors and conditions: pages of lists, `ETag`, `If-Match` and `If-None-Match` (RFC 9110 section 13)."""

import base64
import binascii
from collections.abc import Sequence
from typing import ClassVar, Final

from fastapi import Request, Response

from control_plane.core.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    GatehouseError,
    InvalidInput,
    ResourceExhausted,
)

MAX_CURSOR_CHARACTERS: Final = 100
MAX_NUMBER: Final = 2**53
MAX_PLACE_CHARACTERS: Final = 4096


class OfHttp(GatehouseError):
    """An error that HTTP has a closer word for than our codes."""

    http_status: ClassVar[int]


class Stale(FailedPrecondition, OfHttp):
    """The resource isn't in the state that the caller saw."""

    http_status = 412


class TooLarge(ResourceExhausted, OfHttp):
    """The body is larger than this path takes."""

    http_status = 413


class NotJson(InvalidInput, OfHttp):
    """The body is of a kind that isn't taken."""

    http_status = 415


class TooSlow(DeadlineExceeded, OfHttp):
    """The request took too long to come in."""

    http_status = 408


def check_match(request: Request, tag: str) -> None:
    """Raises Stale if the request asks for another state than the one that `tag` names."""
    wanted = request.headers.get("if-match")
    if wanted is not None and wanted.strip() != "*" and tag not in tags_of(wanted):
        raise Stale(
            f"{request.url.path}: is at {tag}, the change was made to {wanted[:100]}",
            hint="somebody else changed it meanwhile: look again and repeat",
        )


def is_known(request: Request, response: Response, tag: str) -> bool:
    """Names the state in the answer; True if the caller has it already (the answer is a bare 304 then)."""
    response.headers["etag"] = tag
    known = request.headers.get("if-none-match", "")
    return known.strip() == "*" or tag in tags_of(known)


def read_cursor(cursor: str | None) -> int:
    """The number before which a page begins; 0 for the first page. Raises InvalidInput."""
    if not cursor:
        return 0
    try:
        number = int(base64.urlsafe_b64decode(cursor[:MAX_CURSOR_CHARACTERS]))
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("cursor: isn't one of ours", hint="begin again without a cursor") from error
    if not 1 <= number <= MAX_NUMBER:
        raise InvalidInput("cursor: isn't one of ours", hint="begin again without a cursor")
    return number


def write_cursor(number: int | None) -> str | None:
    """The cursor of the page that begins below `number`; None after the last page."""
    if number is None or number <= 1:
        return None
    return base64.urlsafe_b64encode(str(number).encode("ascii")).decode("ascii")


def read_place(cursor: str | None) -> str:
    """The name behind which a page begins, for lists in order of names; "" for the first. Raises
    InvalidInput."""
    try:
        return base64.urlsafe_b64decode((cursor or "").encode("ascii")).decode()
    except ValueError as error:
        raise InvalidInput("cursor: isn't one of ours", hint="begin again without a cursor") from error


def write_place(name: str) -> str:
    """The cursor of the page that begins behind `name`."""
    return base64.urlsafe_b64encode(name.encode()).decode("ascii")


def page_behind(names: Sequence[str], cursor: str | None, limit: int) -> tuple[slice, str | None]:
    """Where in `names`, which keep their order, the page is that begins behind the cursor's name, and the
    cursor of the next. A list whose name has gone meanwhile begins anew. Raises InvalidInput."""
    behind = read_place(cursor)
    begin = names.index(behind) + 1 if behind in names else 0
    end = begin + limit
    return slice(begin, end), write_place(names[end - 1]) if end < len(names) else None


def tags_of(header: str) -> set[str]:
    """The tags of an `If-Match` or `If-None-Match`."""
    return {one.strip().removeprefix("W/") for one in header.split(",")}
