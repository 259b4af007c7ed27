"""The last change of the server's registry that this agent was told of.

It goes out with each call, so that another process of the server, which may have read the change log less
far, doesn't answer by an older state: a new entry would be dropped again, a deleted one come back. It is kept
in the cache with the entries that it belongs to. A server that doesn't push says no number and is told none.
"""

from control_plane.core.log_position import HEARD, LogPosition


class Heard:
    """`position` is None until a server said where it is. It may be ahead of what the agent has taken in,
    never behind it: to ask for too much costs a moment, to ask for too little an identity."""

    def __init__(self) -> None:
        self.position: LogPosition | None = None

    def take(self, position: LogPosition) -> None:
        """The server says that what it tells contains this. Another log replaces the one before, whatever
        its numbers: that server began anew."""
        known = self.position
        if known is None or known.log != position.log or known.sequence < position.sequence:
            self.position = position

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes out with a call."""
        return () if self.position is None else ((HEARD, str(self.position)),)
