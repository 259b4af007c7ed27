"""Time as an argument. Rules never ask for the time; those who call them ask here.

`unix` and `now` are the wall clock and may jump; `monotonic` never goes back and is for waits.
"""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from. Never blocks, never raises."""

    def now(self) -> datetime:
        """The wall clock, aware, in UTC."""

    def unix(self) -> int:
        """The wall clock in whole seconds since 1970."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start that only grow, also over a change of the wall clock."""


class SystemClock:
    """The machine's clocks."""

    __slots__ = ()

    def now(self) -> datetime:
        return datetime.now(UTC)

    def unix(self) -> int:
        return int(time.time())

    def monotonic(self) -> float:
        return time.monotonic()


class FakeClock:
    """A clock that stands still until it is told: for tests and simulations."""

    __slots__ = ("_monotonic", "_unix")

    def __init__(self, unix: float = 1_800_000_000.0) -> None:
        self._unix = float(unix)
        self._monotonic = 0.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._unix, UTC)

    def unix(self) -> int:
        return int(self._unix)

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Lets time pass. Raises ValueError for a negative time: that is a jump."""
        if seconds < 0:
            raise ValueError(f"time doesn't pass backwards: {seconds} s; use jump")
        self._unix += seconds
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Moves the wall clock alone, as an administrator or a time server does."""
        self._unix += seconds
