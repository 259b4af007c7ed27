"""How often one address may ask for what costs us much: token buckets, waited for inside the call.

As in SPIRE (reference spire.md b.1): one bucket an address and kind of work, batches cost their size, a call
beyond the rate waits for its tokens within its deadline, a batch that no full bucket could hold fails at
once. Local callers are never limited. No waiting is unbounded: the queue of a bucket is at most
`MAX_WAIT_SECONDS` long.

Each process counts for itself, so an address whose connections reach all N issuers may spend N times the
rate. That is meant: a limit keeps one address from using up an issuer, and an issuer is one processor. A
share of 1/N each would be wrong for the common case, an agent with one connection: it would never get the
rate that was set, and a batch that one full bucket holds would be refused.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from control_plane.core.errors import ResourceExhausted
from control_plane.runtime.transport import Call

MAX_WAIT_SECONDS: Final = 60.0
MAX_BUCKETS: Final = 50_000


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Limiter:
    """Tokens for one kind of work. A rate of 0 switches it off."""

    def __init__(
        self,
        what: str,
        per_second: float,
        burst: float,
        monotonic: Callable[[], float],
        *,
        whose: str = "from this address",
    ) -> None:
        self._what = what
        self._whose = whose
        self._rate = per_second
        self._burst = max(burst, 1.0)
        self._monotonic = monotonic
        self._buckets: dict[str, _Bucket] = {}

    async def take(self, call: Call, cost: int = 1) -> None:
        """Waits until the caller's address may spend `cost`. Raises ResourceExhausted if that can't be
        within the deadline."""
        if call.peer.kind == "unix" or not self._rate:
            return
        wait = self.reserve(_host(call.peer.address), cost, call.remaining_seconds())
        if wait > 0:
            await asyncio.sleep(wait)

    def spend(self, key: str) -> None:
        """Takes one token now. Raises ResourceExhausted with the time until there is one."""
        if self._rate:
            self.reserve(key, 1, 0.0)

    def reserve(self, key: str, cost: int, patience_seconds: float | None) -> float:
        """Takes tokens, perhaps in advance, and says how long to wait. Nothing is taken if it raises."""
        if cost > self._burst:
            raise ResourceExhausted(
                f"rate limit: {cost} {self._what} in one call, at most {int(self._burst)} are allowed",
                hint="split the request",
            )
        now = self._monotonic()
        bucket = self._buckets.get(key)
        if bucket is None:
            self._make_room(now)
            bucket = self._buckets[key] = _Bucket(self._burst, now)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) * self._rate)
        bucket.at = now
        wait = max(0.0, (cost - bucket.tokens) / self._rate)
        patience = MAX_WAIT_SECONDS if patience_seconds is None else min(patience_seconds, MAX_WAIT_SECONDS)
        if wait > patience:
            raise ResourceExhausted(
                f"rate limit: {self._what} {self._whose}, the next is possible in {wait:.1f} s",
                hint="try again later, or raise the limit in the server's settings",
                retry_after_seconds=wait,
            )
        bucket.tokens -= cost
        return wait

    def _make_room(self, now: float) -> None:
        if len(self._buckets) < MAX_BUCKETS:
            return
        idle = [
            key
            for key, bucket in self._buckets.items()
            if bucket.tokens + (now - bucket.at) * self._rate >= self._burst
        ]
        # Full buckets are as good as absent ones. If none is full, the oldest go: a flood of addresses
        # must not cost memory, and forgetting is in its favour only once.
        for key in idle or list(self._buckets)[: MAX_BUCKETS // 10]:
            del self._buckets[key]


@dataclass(frozen=True, slots=True)
class Limiters:
    """One limiter for each kind of work that is limited."""

    attestation: Limiter
    x509_signing: Limiter
    jwt_signing: Limiter
    publishing: Limiter
    status: Limiter


def _host(address: str) -> str:
    return address.rpartition(":")[0] or address
