"""Stops asking a server that doesn't answer, and lets one call through now and then to see whether it does.

Closed, every call goes. After some failures in a row, or one that is decisive, it opens: calls fail at once,
so that nobody waits for what won't come. When its time is over one call is let through; its outcome closes
or opens it again. Retries have a budget beside it: they may be a tenth of all calls, plus a few to begin
with, so that a server in trouble isn't asked three times as much.
"""

import threading
from typing import Final

FAILURES: Final = 3
OPEN_SECONDS: Final = 2.0
RETRY_SHARE: Final = 0.1
RETRY_RESERVE: Final = 10.0


class Breaker:
    """The state towards one server; safe for several threads. Times are of a monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until: float | None = None
        self._probing_until: float | None = None
        self._retries = RETRY_RESERVE

    def wait_seconds(self, now: float, patience: float) -> float:
        """0 if a call may go now, else how long calls will be held back.

        Whoever is let through while it is open is the probe, and must tell `success` or `failure` within
        `patience` seconds; else the next one is let through.
        """
        with self._lock:
            if self._open_until is None:
                return 0.0
            if now < self._open_until:
                return self._open_until - now
            if self._probing_until is not None and now < self._probing_until:
                return self._probing_until - now
            self._probing_until = now + patience
            return 0.0

    def success(self) -> None:
        """The server answered, whatever it said."""
        with self._lock:
            self._failures = 0
            self._open_until = self._probing_until = None
            self._retries = min(RETRY_RESERVE, self._retries + RETRY_SHARE)

    def failure(self, now: float, *, decisive: bool = False) -> None:
        """A call got no answer that can be used; `decisive` if the next ones won't either."""
        with self._lock:
            self._failures += 1
            self._probing_until = None
            if decisive or self._failures >= FAILURES or self._open_until is not None:
                self._open_until = now + OPEN_SECONDS

    def may_retry(self) -> bool:
        """Whether the budget has a retry left; takes it."""
        with self._lock:
            if self._retries < 1:
                return False
            self._retries -= 1
            return True
