"""What a door needs of whoever speaks HTTP with Vault; `adapter` implements it, and alone loads hvac."""

from collections.abc import Mapping
from typing import Protocol

from control_plane.clients.vault.answers import Answer
from control_plane.core.secret import Secret


class Exchange(Protocol):
    """Sends one request and reads its answer."""

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        token: Secret[str] | None,
        deadline: float,
    ) -> Answer:
        """Blocks until the answer is there or the monotonic clock reaches `deadline`; sent at most once.

        Raises Unavailable: no answer, too slow, too large, cut short, no JSON; `Unsent` of that if the
        request can't have reached the server.
        """

    def close(self) -> None:
        """Closes kept connections; exchanges under way end as they would have."""
