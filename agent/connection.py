"""The agent's connection to the server, as long as one certificate lasts.

A new certificate means a new connection; calls on the one before may finish. Dialling is lazy: nothing is
sent before somebody calls.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agent.cache_content import AgentCredential
from agent.ports import Dial, ServerApi
from control_plane.core.bundle import Bundle

OLD_CONNECTION_SECONDS: Final = 15.0  # calls on the previous certificate may finish


@dataclass(frozen=True, slots=True)
class ServerSession:
    """A connection and the certificate that it was made with."""

    api: ServerApi
    serial: int


class Connection:
    """At most one session in use, and those that are about to be closed."""

    def __init__(self, dial: Dial, bundle: Callable[[], Bundle]) -> None:
        self.current: ServerSession | None = None
        self._dial = dial
        self._bundle = bundle
        self._closing: set[asyncio.Task[None]] = set()

    def session(self, credential: AgentCredential) -> ServerSession:
        """The session in use, or a new one with this credential."""
        if self.current is None:
            api = self._dial(credential, self._bundle)
            self.current = ServerSession(api, credential.held.svid.serial)
        return self.current

    def drop(self) -> None:
        """Has the next call make a new one."""
        session, self.current = self.current, None
        if session is not None:
            task = asyncio.get_running_loop().create_task(_close_later(session.api))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Closes all of them now."""
        self.drop()
        await asyncio.sleep(0)  # a task that is cancelled before its first step closes nothing
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)


async def _close_later(api: ServerApi) -> None:
    try:
        await asyncio.sleep(OLD_CONNECTION_SECONDS)
    finally:
        await api.close()
