"""Decisions, counted."""

from agent.enforcement.ports import Decisions, Json, Ruling
from control_plane.core.spiffe_id import SpiffeId


class Tally:
    """Implements `Decisions` by another, and counts what it ruled."""

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions
        self.allowed = 0
        self.denied = 0

    def decide(self, destination: SpiffeId, request: Json) -> Ruling:
        """See `Decisions`."""
        ruling = self._decisions.decide(destination, request)
        if ruling.allowed:
            self.allowed += 1
        else:
            self.denied += 1
        return ruling
