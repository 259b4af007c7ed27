"""Logging in to Vault as ourselves: by a JWT-SVID or an X.509-SVID that we issue for it.

Such SVIDs can be had while Vault is away, but not before the first authority is there. Where Vault has to
sign for that one, a token of an operator opens the door for the first minutes.
"""

import dataclasses
from typing import Final, Protocol

from control_plane.clients.vault.exchange import Exchange
from control_plane.clients.vault.tokens import Lease, Login
from control_plane.core.secret import Secret
from control_plane.runtime.tls import TlsIdentity

FIRST_SECONDS: Final = 300  # for how long the operator's token is used at most


class OwnSvids(Protocol):
    """Our SVIDs, for threads: calls block until they are issued, and raise what issuance raises."""

    @property
    def is_ready(self) -> bool:
        """Whether there is an authority that could sign them."""

    def jwt(self) -> Secret[str]:
        """A fresh JWT-SVID for Vault's audience."""

    def identity(self) -> TlsIdentity:
        """An X.509-SVID with a common name, without which Vault lets nobody in; the same one until half of
        its life is over."""


class FirstLogin:
    """`login`, and until our SVIDs can be had `first`, an operator's token."""

    def __init__(self, login: Login, first: Login, own: OwnSvids | None) -> None:
        self._login = login
        self._first = first
        self._own = own

    @property
    def name(self) -> str:
        """See `Login`."""
        return self._login.name if self._is_ready else f"{self._first.name}, for the first start"

    @property
    def may_renew(self) -> bool:
        """Not the operator's token: the next login is by our own."""
        return self._is_ready and self._login.may_renew

    def log_in(self, exchange: Exchange, deadline: float, now: float) -> Lease:
        """See `Login`."""
        if self._is_ready:
            return self._login.log_in(exchange, deadline, now)
        lease = self._first.log_in(exchange, deadline, now)
        return dataclasses.replace(lease, ttl_seconds=min(lease.ttl_seconds or FIRST_SECONDS, FIRST_SECONDS))

    @property
    def _is_ready(self) -> bool:
        return self._own is not None and self._own.is_ready
