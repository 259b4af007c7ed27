"""A place in the change log of the registry: what somebody who was told of changes has certainly seen.

Numbers of changes grow by one each and say nothing without the log that they are from. A server names its
log anew at each start, when every process of it reads the whole registry: a registry that was restored from
a backup, whose numbers have gone back, therefore locks nobody out who heard of later ones.
"""

import re
from dataclasses import dataclass
from typing import Final, Self

from control_plane.core.errors import InvalidInput, shown

HEARD: Final = "gatehouse-heard"
"""The metadata name under which an agent sends the last position that it was told of, with each call."""

_TEXT: Final = re.compile(r"([0-9a-f]{16})/(0|[1-9][0-9]{0,18})")  # numbers are positive and fit in 64 bits


@dataclass(frozen=True, slots=True)
class LogPosition:
    """The change number `sequence` of the log with this name (16 hexadecimal digits)."""

    log: str
    sequence: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads what `str` gives, `LOG/SEQUENCE`. Raises InvalidInput."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise InvalidInput(
                f"position in a change log: {shown(text)}, expected 16 hexadecimal digits, a slash, a number"
            )
        return cls(match[1], int(match[2]))

    def __str__(self) -> str:
        return f"{self.log}/{self.sequence}"
