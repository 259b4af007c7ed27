"""Who calls: found out once a connection, judged anew at each call.

A caller on the unix socket is local, whatever it claims. On TCP the chain is verified against the bundle of
its own trust domain by `core.verify_x509`: what OpenSSL checked is only the union of all bundles, under which
a federated authority could make our agents. Foreign trust domains get in only with an ID listed in
`admin_ids`. What a caller may do is `authorization`'s part.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from control_plane.core.bundle import X509Authority
from control_plane.core.errors import Bug, GatehouseError, PermissionDenied, Unauthenticated
from control_plane.core.spiffe_id import SpiffeId
from control_plane.core.svid import Purpose, validate_x509
from control_plane.identity.trust import Trust
from control_plane.runtime.log import get_logger
from control_plane.runtime.transport import Call, Peer

_ATTRIBUTE: Final = "caller"


@dataclass(frozen=True, slots=True)
class Caller:
    """A connection's verified identity. No ID: anonymous, or local. Times in Unix seconds."""

    local: bool = False
    spiffe_id: SpiffeId | None = None
    serial: int = 0
    not_after: int = 0
    authority: X509Authority | None = None

    def __str__(self) -> str:
        return "local" if self.local else str(self.spiffe_id or "anonymous")


LOCAL: Final = Caller(local=True)
ANONYMOUS: Final = Caller()


class Admission:
    """Finds out who connected, before the first call of the connection is served."""

    def __init__(self, trust: Trust, admin_ids: Collection[SpiffeId], unix: Callable[[], int]) -> None:
        self._trust = trust
        self._admin_ids = frozenset(admin_ids)
        self._unix = unix
        self._log = get_logger("admission")

    async def admit(self, peer: Peer) -> None:
        """Sets the peer's caller. Raises Unauthenticated or PermissionDenied; the connection ends then."""
        try:
            peer.attributes[_ATTRIBUTE] = self._identify(peer)
            peer.chain = ()  # judged: what it said is in the caller, and it would weigh a KiB a connection
        except GatehouseError as error:
            self._log.info("connection_refused", peer=peer.address, reason=str(error))
            raise

    def _identify(self, peer: Peer) -> Caller:
        if peer.kind == "unix":
            return LOCAL
        if not peer.chain:
            return ANONYMOUS
        verified = validate_x509(peer.chain, self._trust.bundles(), self._unix(), purpose=Purpose.CLIENT_AUTH)
        spiffe_id = verified.spiffe_id
        if spiffe_id.trust_domain != self._trust.trust_domain and spiffe_id not in self._admin_ids:
            raise PermissionDenied(
                f"{spiffe_id} is not of trust domain {self._trust.trust_domain} and no configured admin"
            )
        return Caller(False, spiffe_id, verified.serial, verified.not_after, verified.authority)


def caller_of(source: Call | Peer) -> Caller:
    """The caller of a call or connection that was admitted."""
    peer = source.peer if isinstance(source, Call) else source
    caller = peer.attributes.get(_ATTRIBUTE)
    if not isinstance(caller, Caller):
        raise Bug(f"connection {peer.address}: was never admitted")
    return caller


def agent_of(call: Call) -> SpiffeId:
    """The ID of the agent that calls; only for methods that `authorization` gives to agents alone."""
    spiffe_id = caller_of(call).spiffe_id
    if spiffe_id is None:
        raise Unauthenticated(f"{call.method}: needs a client certificate")
    return spiffe_id


def is_known(peer: Peer) -> Caller | None:
    """The caller of a connection, None while it isn't admitted yet."""
    caller = peer.attributes.get(_ATTRIBUTE)
    return caller if isinstance(caller, Caller) else None
