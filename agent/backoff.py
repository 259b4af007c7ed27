"""How long to wait before trying again: bounded, growing, and different for everyone.

Pure and without dice: the jitter is a hash of a seed (whose attempt) and the attempt's number, so that a
thousand agents that lose the server together come back spread out, and a test can say when.
"""

import hashlib
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that grow by `factor` from `first_seconds` up to `ceiling_seconds`.

    The jitter takes away up to half of a wait and never adds to it: the ceiling is a promise.
    """

    first_seconds: float
    ceiling_seconds: float
    factor: float = 2.0

    def delay(self, attempt: int, seed: str) -> float:
        """Seconds to wait after the failure number `attempt` (the first is 1)."""
        steps = min(max(attempt, 1) - 1, 64)  # 2**64 is far above any ceiling, and no overflow
        wait = min(self.first_seconds * self.factor**steps, self.ceiling_seconds)
        return wait * (1 - fraction(f"{seed}/{attempt}") / 2)


def fraction(seed: str) -> float:
    """A number in [0, 1) that depends on nothing but the seed."""
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8]) / 2**64


SIGNING: Final = Backoff(first_seconds=1, ceiling_seconds=60)  # a workload may be waiting
RENEWAL: Final = Backoff(first_seconds=5, ceiling_seconds=300)  # hours of validity are left
SERVER: Final = Backoff(first_seconds=0.5, ceiling_seconds=30)  # the connection as a whole
ATTESTATION: Final = Backoff(first_seconds=1, ceiling_seconds=120)
