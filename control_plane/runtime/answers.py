"""Answers that were given to changes asked for under a key: the value, and the port of who keeps them."""

from dataclasses import dataclass
from typing import Final, Protocol

KEPT_SECONDS: Final = 24 * 3600


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered, and SHA-256 (hex) of what was asked."""

    request_digest: str
    status: int
    body: str


class Answers(Protocol):
    """Keeps answers. Durable on return."""

    async def find(self, subject: str, key: str) -> Answer | None:
        """What was answered under this key."""

    async def keep(self, subject: str, key: str, answer: Answer, now: int) -> None:
        """Keeps an answer; the first one of a key stays. `now` in Unix seconds."""

    async def forget(self, before: int) -> int:
        """Drops answers that are older; says how many."""
