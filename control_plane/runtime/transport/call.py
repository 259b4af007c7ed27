"""One call as its handler and the interceptors see it."""

from collections.abc import Callable, Iterable, Mapping

from control_plane.runtime.transport.messages import write_metadata
from control_plane.runtime.transport.peer import Peer


class Call:
    """The facts of a call, and the metadata of its reply.

    `method` is "/package.Service/Method". `metadata` maps lower-case names to all values that came; the
    values of `-bin` names are base64. `deadline` is the monotonic time of the event loop at which the caller
    stops waiting, None when it waits for ever; the transport enforces it.
    """

    __slots__ = ("_clock", "deadline", "initial_metadata", "metadata", "method", "peer", "trailing_metadata")

    def __init__(
        self,
        peer: Peer,
        method: str,
        metadata: Mapping[str, list[str]],
        deadline: float | None,
        clock: Callable[[], float],
    ) -> None:
        self.peer = peer
        self.method = method
        self.metadata = metadata
        self.deadline = deadline
        self.initial_metadata: list[tuple[str, str]] = []
        self.trailing_metadata: list[tuple[str, str]] = []
        self._clock = clock

    def first(self, name: str) -> str | None:
        """The first value of a metadata name, None when it didn't come."""
        values = self.metadata.get(name)
        return values[0] if values else None

    def remaining_seconds(self) -> float | None:
        """Time until the deadline, never negative; None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - self._clock())

    def set_initial_metadata(self, metadata: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
        """Headers that go out before the first message. Raises InvalidInput for what can't be sent."""
        self.initial_metadata = write_metadata(metadata)

    def set_trailing_metadata(self, metadata: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
        """Trailers that go out with the status. Raises InvalidInput for what can't be sent."""
        self.trailing_metadata = write_metadata(metadata)
