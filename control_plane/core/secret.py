"""A wrapper that keeps secrets out of logs, messages and debuggers' first glance.

It doesn't encrypt, and it doesn't wipe memory: Python copies strings where it likes, and a promise to
erase them couldn't be kept.
"""

import hmac
from typing import Generic, TypeVar

T = TypeVar("T")


class Secret(Generic[T]):
    """Holds one value that only `reveal` gives out; repr, str, format and pickle don't."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """The value itself. Each call is a place to look at when asking where a secret goes."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __format__(self, specification: str) -> str:
        return "Secret(…)"

    def __reduce__(self) -> str:
        raise TypeError("a Secret can't be pickled or copied out of the process")

    def __eq__(self, other: object) -> bool:
        """Compares text and bytes in constant time, so that a wrong guess doesn't tell how wrong it was."""
        if not isinstance(other, Secret):
            return NotImplemented
        mine, theirs = _as_bytes(self._value), _as_bytes(other._value)
        if mine is not None and theirs is not None and isinstance(self._value, type(other._value)):
            return hmac.compare_digest(mine, theirs)
        return bool(self._value == other._value)

    __hash__ = None  # type: ignore[assignment]  # a hash would let a set leak equality in variable time


def _as_bytes(value: object) -> bytes | None:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return value if isinstance(value, bytes) else None
