"""JWT-SVIDs for workloads: fetched when asked for, kept per identity and audience set, renewed at half life.

While a renewal fails, the token that is there is served until it expires. Entries that ask for unique tokens
(`jwt_svid_include_jti`) bypass the cache. Tokens that a tainted or withdrawn key has signed are dropped.
"""

import asyncio
import base64
import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from control_plane.core.bundle import Bundle
from control_plane.core.entry import Entry
from control_plane.core.errors import GatehouseError, PeerMisbehaved, PermissionDenied, Unavailable
from control_plane.core.spiffe_id import SpiffeId
from control_plane.core.svid import JwtSvid
from control_plane.runtime.log import get_logger

MAX_CACHED: Final = 1000

_log = get_logger(__name__)

_Key: TypeAlias = tuple[SpiffeId, tuple[str, ...]]


class JwtSigner(Protocol):
    """Has a JWT-SVID signed by the server. Raises GatehouseError; PermissionDenied and NotFound are final."""

    async def new_jwt_svid(self, entry: Entry, audience: tuple[str, ...]) -> JwtSvid: ...


class JwtSvids:
    """The cache. `now` gives Unix seconds."""

    def __init__(self, signer: JwtSigner, now: Callable[[], float]) -> None:
        self._signer = signer
        self._now = now
        self._tokens: OrderedDict[_Key, JwtSvid] = OrderedDict()
        self._fetching: dict[_Key, asyncio.Task[JwtSvid]] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    async def get(self, entry: Entry, audience: tuple[str, ...]) -> JwtSvid:
        """A valid token for the entry's identity. Raises GatehouseError if there is none to be had."""
        if entry.jwt_svid_include_jti:
            return await self._fetch(entry, audience)
        key = (entry.spiffe_id, tuple(sorted(set(audience))))
        held = self._tokens.get(key)
        now = self._now()
        if held is not None and now < (held.issued_at + held.expires_at) / 2:
            self._tokens.move_to_end(key)
            return held
        try:
            return await self._fetch_once(key, entry)
        except PermissionDenied:
            self._tokens.pop(key, None)
            raise
        except GatehouseError as error:
            if held is None or held.expires_at <= self._now():
                raise
            _log.warning("jwt_svid_renewal_failed", spiffe_id=str(entry.spiffe_id), error=str(error))
            return held

    def bundle_changed(self, before: Bundle | None, after: Bundle) -> None:
        """Drops tokens signed by a key that the bundle marks as tainted or holds no longer."""
        known = {key.key_id for key in before.jwt_authorities} if before is not None else set()
        good = {key.key_id for key in after.jwt_authorities if not key.tainted}
        tainted = {key.key_id for key in after.jwt_authorities if key.tainted}
        bad = tainted | (known - good)
        if bad:
            for key in [key for key, svid in self._tokens.items() if key_id_of(svid.token) in bad]:
                del self._tokens[key]

    def forget_all(self) -> None:
        """The agent may not serve any longer."""
        self._tokens.clear()

    async def _fetch_once(self, key: _Key, entry: Entry) -> JwtSvid:
        # Many callers at once are one request; a caller that goes away doesn't cancel it for the others.
        task = self._fetching.get(key)
        if task is None:
            task = asyncio.create_task(self._fetch(entry, key[1]))
            self._fetching[key] = task
            task.add_done_callback(lambda done: self._fetched(key, done))
        return await asyncio.shield(task)

    def _fetched(self, key: _Key, task: "asyncio.Task[JwtSvid]") -> None:
        del self._fetching[key]
        if task.cancelled() or task.exception() is not None:
            return
        self._tokens[key] = task.result()
        self._tokens.move_to_end(key)
        while len(self._tokens) > MAX_CACHED:
            self._tokens.popitem(last=False)

    async def _fetch(self, entry: Entry, audience: tuple[str, ...]) -> JwtSvid:
        svid = await self._signer.new_jwt_svid(entry, audience)
        if svid.spiffe_id != entry.spiffe_id:
            raise PeerMisbehaved(
                f"the server signed a JWT-SVID for {svid.spiffe_id}, asked was {entry.spiffe_id}"
            )
        if svid.expires_at <= self._now():
            raise Unavailable(
                f"the server's JWT-SVID for {svid.spiffe_id} has expired already: check the clocks"
            )
        return svid


def key_id_of(token: str) -> str:
    """The `kid` of a compact JWS that we hold; empty if it has none."""
    header = token.partition(".")[0]
    try:
        value = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))).get("kid", "")
    except (ValueError, AttributeError, RecursionError):
        return ""
    return str(value)
