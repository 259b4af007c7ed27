"""What a workload is told when no entry names it: that it has no identity, or that the agent can't know yet.

After a start from the cache the agent knows the entries of its last life. One that was made since, or in the
moment before a crash in which the cache wasn't written yet, reaches it with the first word of the server. To
refuse until then would be a claim that nobody made: such a workload waits a little for that word, and is then
asked to come again. So is one whose program could not be looked at for a reason that may pass.

Doesn't say why nobody matched: the log and `explain` do, and not to whoever asks.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from agent.attest.sessions import Session
from agent.waiting import wait_any
from control_plane.core.errors import GatehouseError, PermissionDenied, Unavailable
from control_plane.runtime.clock import Clock
from control_plane.runtime.log import get_logger

LOG_SECONDS: Final = 60.0
MAX_LOGGED: Final = 1024
RETRY_SECONDS: Final = 2
PATIENCE_SECONDS: Final = 5.0
"""For the server's first word, which comes within milliseconds of the connection."""

_log = get_logger(__name__)


class Refusals:
    """Words refusals. `first_word` is set once the server was heard in this life; `unheard` says why not."""

    def __init__(self, clock: Clock, first_word: asyncio.Event, unheard: Callable[[], str]) -> None:
        self._clock = clock
        self._first_word = first_word
        self._unheard = unheard
        self._quiet_until: dict[int, float] = {}

    async def patience(self) -> None:
        """Waits until whom no entry names may be refused, but not for long."""
        await wait_any(self._first_word, timeout_seconds=PATIENCE_SECONDS)

    def no_identity(self, session: Session) -> GatehouseError:
        """The error for a process that no entry matches (W-12; E-07 while that isn't certain)."""
        if (error := self._uncertain()) is not None:
            return error
        found = session.attestation
        if found is not None and found.uncertain:
            return Unavailable(
                f"attesting the caller: it can't be told who it is: {'; '.join(found.problems)}",
                retry_after_seconds=RETRY_SECONDS,
            )
        pid = session.process.pid
        now = self._clock.monotonic()
        if now >= self._quiet_until.get(pid, 0.0):
            # Clients ask again and again; the log hears of each process once a minute.
            if len(self._quiet_until) >= MAX_LOGGED:
                self._quiet_until.clear()
            self._quiet_until[pid] = now + LOG_SECONDS
            _log.info(
                "no_identity_issued",
                pid=pid,
                selectors=sorted(map(str, session.selectors)),
                problems=found.problems if found is not None else (),
                ask=f"gatehouse-agent explain --pid {pid}",
            )
        return PermissionDenied(
            "no identity issued", hint=f"on this node, ask: gatehouse-agent explain --pid {pid}"
        )

    def not_entitled(self, wanted: object) -> GatehouseError:
        """The error for a workload that asks for an identity which none of its entries gives (W-15)."""
        return self._uncertain() or PermissionDenied(
            f"no identity issued: this workload isn't entitled to {wanted}"
        )

    def _uncertain(self) -> Unavailable | None:
        if self._first_word.is_set():
            return None
        return Unavailable(
            "no identity known yet: the agent started from its cache and hasn't heard from the server since"
            f" ({self._unheard()})",
            retry_after_seconds=RETRY_SECONDS,
        )
