"""Who we are to Vault where it knows us by a JWT-SVID: that of the server, fresh for each login.

It is issued and ledgered like any other, by a key of ours, so it can be had while Vault is away. Before the
first authority is there it can't: a server whose leaves Vault signs starts its life with another login.
"""

import asyncio
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Final

from control_plane.core.errors import Unavailable
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import server_id
from control_plane.core.svid import JwtSvid
from control_plane.identity.issuance import Issuer, JwtIssue
from control_plane.settings import ServerSettings

ISSUE_SECONDS: Final = 5.0


class OwnLogin:
    """Gives the door to Vault our JWT-SVIDs. `bind` once there is an issuer, inside the event loop."""

    def __init__(self, settings: ServerSettings) -> None:
        self._item = JwtIssue(
            spiffe_id=server_id(settings.trust_domain), audience=(settings.written.vault.jwt_audience,)
        )
        self._bound: tuple[Issuer, asyncio.AbstractEventLoop] | None = None

    def bind(self, issuer: Issuer) -> None:
        """From now on tokens can be had."""
        self._bound = issuer, asyncio.get_running_loop()

    def jwt(self) -> Secret[str]:
        """A fresh token. Called from threads of the door: it blocks them, and not the loop.

        Raises Unavailable, and what issuance raises.
        """
        if self._bound is None:
            raise Unavailable("logging in to Vault: no JWT-SVID of our own can be had yet")
        issuer, loop = self._bound
        issued = asyncio.run_coroutine_threadsafe(self._issue(issuer), loop)
        try:
            return issued.result(ISSUE_SECONDS)
        except FutureTimeout as error:
            issued.cancel()
            raise Unavailable("logging in to Vault: our own JWT-SVID wasn't issued in time") from error

    async def _issue(self, issuer: Issuer) -> Secret[str]:
        (outcome,) = await issuer.issue_jwt([self._item])
        if not isinstance(outcome, JwtSvid):
            raise outcome
        return Secret(outcome.token)
