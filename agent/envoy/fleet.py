"""The Envoys that are connected: who is told when the policy changes, and what can be asked of them.

Runs as a service of the agent. Only what is open now is known here; nothing is kept.
"""

import asyncio
from typing import Protocol

from agent.broadcast import Listener
from agent.enforcement.ports import EnforcementSource
from agent.envoy.description import ServiceDescription
from control_plane.core.spiffe_id import SpiffeId


class Drainable(Protocol):
    """What one Envoy is told, as far as it can be changed from outside."""

    service: ServiceDescription

    def drain(self, *listeners: str) -> None:
        """Ends what runs on these inbound listeners."""
        ...


class Fleet:
    """All Envoys with an open stream; made and used on one event loop."""

    def __init__(self, enforcement: EnforcementSource) -> None:
        self._enforcement = enforcement
        self._members: dict[Listener, Drainable] = {}
        self.rejections = 0  # answers of Envoys that didn't take what we sent
        self.astray: set[Listener] = set()  # Envoys that run something else than they were sent

    def __len__(self) -> int:
        return len(self._members)

    def join(self, listener: Listener, member: Drainable) -> None:
        """An Envoy has said who it is."""
        self._members[listener] = member

    def leave(self, listener: Listener) -> None:
        """Its stream has ended; one that never joined is fine."""
        self._members.pop(listener, None)
        self.astray.discard(listener)

    def drain(self, spiffe_id: SpiffeId, listener_name: str) -> int:
        """Ends what runs on this inbound listener of a service; returns how many Envoys were told. Within
        `bootstrap.DRAIN_SECONDS` all requests that run there are cut, and allowed callers come again."""
        told = 0
        for listener, member in self._members.items():
            if member.service.spiffe_id == spiffe_id:
                member.drain(listener_name)
                listener.wake()
                told += 1
        return told

    def drain_port(self, spiffe_id: SpiffeId, port: int) -> int:
        """The same for the inbound listeners of a service on a port."""
        names = {
            one.name
            for member in self._members.values()
            if member.service.spiffe_id == spiffe_id
            for one in member.service.inbound
            if one.listen.port == port
        }
        return sum(self.drain(spiffe_id, name) for name in names)

    def wake_all(self) -> None:
        """Something is new to all."""
        for listener in tuple(self._members):
            listener.wake()

    async def run(self, stop: asyncio.Event) -> None:
        """Tells all Envoys each time what is enforced has changed, until `stop`."""
        seen = self._enforcement.current
        stopped = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                change = asyncio.ensure_future(self._enforcement.changed(seen))
                try:
                    await asyncio.wait((stopped, change), return_when=asyncio.FIRST_COMPLETED)
                    if change.done():
                        seen = change.result()
                        self.wake_all()
                finally:
                    change.cancel()
        finally:
            stopped.cancel()
