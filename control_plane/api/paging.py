"""Pages of lists, and batches: opaque tokens, replies that clients accept, requests that are bounded."""

import base64
import binascii
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from google.protobuf.message import Message

from control_plane.core.errors import InvalidInput

T = TypeVar("T")
M = TypeVar("M", bound=Message)
MAX_PAGE: Final = 10_000
MAX_REPLY_BYTES: Final = 3_500_000  # Go clients refuse messages beyond 4 MiB by default
MAX_TOKEN_CHARACTERS: Final = 4096


def read_token(token: str) -> str:
    """The key behind which a page begins; empty for the first page. Raises InvalidInput."""
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise InvalidInput("page token: too long")
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode("utf-8")
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("page token: isn't one of ours", hint="begin again without a token") from error


def write_token(key: str) -> str:
    """The token of the page behind `key`."""
    return base64.urlsafe_b64encode(key.encode("utf-8")).decode("ascii")


def page_of(
    items: Iterable[T], write: Callable[[T], M], key: Callable[[T], str], page_size: int
) -> tuple[list[M], str]:
    """One page of messages, and the key behind which the next begins ("" if this is the last).

    A page size of 0 asks for everything; a page still ends before the reply grows too large. Raises
    InvalidInput for a negative size.
    """
    if page_size < 0:
        raise InvalidInput(f"page size {page_size}: must not be negative")
    limit = min(page_size or MAX_PAGE, MAX_PAGE)
    page: list[M] = []
    size = 0
    last = ""
    for item in items:
        message = write(item)
        size += message.ByteSize() + 8
        if len(page) == limit or (page and size > MAX_REPLY_BYTES):
            return page, last
        page.append(message)
        last = key(item)
    return page, ""


def check_batch(count: int, limit: int) -> None:
    """Raises InvalidInput for a request that holds more than `limit` items."""
    if count > limit:
        raise InvalidInput(f"{count} items in one request, at most {limit}", hint="split the request")
