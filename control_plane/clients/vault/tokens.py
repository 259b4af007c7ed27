"""The token in use: got at the first call, renewed at two thirds of its life, replaced once it is refused.

A new token is there before the old one is dropped. How one is come by is the login's part (`logins`).
"""

import threading
from dataclasses import dataclass, field
from typing import Final, Protocol

from control_plane.clients.vault.answers import Answer, refusal, seconds_of, text_of
from control_plane.clients.vault.exchange import Exchange
from control_plane.core.errors import PermissionDenied, Unavailable
from control_plane.core.secret import Secret
from control_plane.runtime.clock import Clock

# A refused token is replaced once in this time: a right that the role doesn't have isn't got by logging in.
RELOGIN_SECONDS: Final = 10.0
# A token that is about to end while a request is on its way is of no use.
MARGIN_SECONDS: Final = 2.0
MAX_IDLE_SECONDS: Final = 3600.0
RETRY_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Lease:
    """A token and how long it is good for, from `obtained` of the monotonic clock; 0 seconds: for ever."""

    token: Secret[str]
    ttl_seconds: int
    renewable: bool
    obtained: float = field(compare=False)

    @property
    def due(self) -> float:
        """When to renew it."""
        return self.obtained + self.ttl_seconds * 2 / 3 if self.ttl_seconds else float("inf")

    @property
    def ends(self) -> float:
        """From when on it is no longer used."""
        if not self.ttl_seconds:
            return float("inf")
        return self.obtained + self.ttl_seconds - min(MARGIN_SECONDS, self.ttl_seconds / 10)

    @classmethod
    def from_answer(cls, answer: Answer, what: str, now: float) -> "Lease":
        """Reads the object `auth` of a login's or a renewal's answer. Raises PeerMisbehaved."""
        auth = answer.section("auth", what)
        return cls(
            Secret(text_of(auth, "client_token", what)),
            seconds_of(auth, "lease_duration", what),
            auth.get("renewable") is True,
            now,
        )


class Login(Protocol):
    """One way to come by a token."""

    @property
    def name(self) -> str:
        """What messages call it: the method and where it is mounted."""

    @property
    def may_renew(self) -> bool:
        """Whether Vault renews such tokens without looking at the login's credentials again."""

    def log_in(self, exchange: Exchange, deadline: float, now: float) -> Lease:
        """Blocks for the exchanges that it takes. Raises Unavailable, PermissionDenied (Vault refuses the
        credentials) or FailedPrecondition (they can't be read, the method isn't there)."""


class Tokens:
    """Holds the token of one login; safe for several threads."""

    def __init__(self, exchange: Exchange, login: Login, clock: Clock) -> None:
        self._exchange = exchange
        self._login = login
        self._clock = clock
        self._lock = threading.Lock()
        self._lease: Lease | None = None
        self._relogin_at = float("-inf")

    @property
    def login_name(self) -> str:
        """How we log in, for messages."""
        return self._login.name

    def get(self, deadline: float) -> Secret[str]:
        """The token to use now; logs in if there is none. Raises what `Login.log_in` raises."""
        lease = self._lease
        if lease is not None and self._clock.monotonic() < lease.ends:
            return lease.token
        return self._replace(lease, deadline).token

    def lost(self, token: Secret[str], deadline: float) -> bool:
        """Says that a token was refused; gives whether there is another one now."""
        lease = self._lease
        if lease is None or lease.token != token:
            return True  # somebody else has replaced it meanwhile
        now = self._clock.monotonic()
        if now < self._relogin_at + RELOGIN_SECONDS:
            return False
        self._relogin_at = now
        self._replace(lease, deadline)
        return True

    def idle_seconds(self) -> float:
        """How long until `renew` has something to do; at most for how long it is worth not to look."""
        if self._lease is None:
            return RETRY_SECONDS
        return min(MAX_IDLE_SECONDS, max(0.0, self._lease.due - self._clock.monotonic()))

    def renew(self, deadline: float) -> None:
        """Renews the token, or logs in again where that is no use: it can't be renewed, or is near the end
        that Vault gives all tokens. Raises Unavailable or PermissionDenied; the old one stays then."""
        lease = self._lease
        if lease is None:
            return
        if lease.renewable and self._login.may_renew:
            what = "renewing the token"
            answer = self._exchange.send(
                "post", "auth/token/renew-self", {}, token=lease.token, deadline=deadline
            )
            if answer.is_good:
                renewed = Lease.from_answer(answer, what, self._clock.monotonic())
                if renewed.ttl_seconds == 0 or renewed.ttl_seconds * 2 >= lease.ttl_seconds:
                    self._put(lease, renewed)
                    return
            elif not isinstance(error := refusal(answer, what), PermissionDenied):
                raise error
        self._replace(lease, deadline)

    def _replace(self, old: Lease | None, deadline: float) -> Lease:
        """Logs in, unless another thread has done so while this one waited."""
        if not self._lock.acquire(timeout=max(0.0, deadline - self._clock.monotonic())):
            raise Unavailable(f"logging in to Vault by {self._login.name}: it takes too long")
        try:
            if self._lease is None or self._lease is old:
                self._lease = self._login.log_in(self._exchange, deadline, self._clock.monotonic())
            return self._lease
        finally:
            self._lock.release()

    def _put(self, old: Lease, new: Lease) -> None:
        with self._lock:
            if self._lease is old:
                self._lease = new
