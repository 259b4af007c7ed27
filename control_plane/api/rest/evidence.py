"""What a connection shows of who is at its other end: the peer of a unix socket, or a chain of certificates.

A chain is verified against the bundle of its own trust domain when the connection's first request comes, and
again each minute and when that bundle changes: what OpenSSL checked at the handshake is only the union of all
bundles. Validity and quarantine are looked at for every request.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from control_plane.core.access import Subject, SubjectKind
from control_plane.core.bundle import Bundle
from control_plane.core.errors import Unauthenticated
from control_plane.core.svid import Purpose, VerifiedX509, validate_x509
from control_plane.identity.quarantine import Quarantine
from control_plane.identity.trust import Trust

VERIFIED_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class LocalPeer:
    """The process at the other end of the unix socket, as the kernel says."""

    pid: int
    uid: int


@dataclass(slots=True)
class TlsPeer:
    """The other end of a TLS connection. `source` is what it counts for, an address or a network; `chain` is
    DER, leaf first, () without a client certificate. The rest is what `SvidSubjects` found out."""

    source: str
    chain: tuple[bytes, ...] = field(default=(), repr=False)
    verified: VerifiedX509 | None = None
    bundle: Bundle | None = field(default=None, repr=False)
    verified_at: int = 0


class SvidSubjects:
    """Tells subjects by their X.509-SVIDs. The roles of a SPIFFE ID are those that settings grant to it."""

    def __init__(self, trust: Trust, quarantine: Callable[[], Quarantine], unix: Callable[[], int]) -> None:
        self._trust = trust
        self._quarantine = quarantine
        self._unix = unix

    def of(self, peer: TlsPeer) -> Subject:
        """The subject. Raises Unauthenticated; PermissionDenied for one that is cut off."""
        now, bundles = self._unix(), self._trust.bundles()
        verified = peer.verified
        if verified is None or not (
            bundles.get(verified.spiffe_id.trust_domain) is peer.bundle
            and 0 <= now - peer.verified_at < VERIFIED_SECONDS
        ):
            verified = validate_x509(peer.chain, bundles, now, purpose=Purpose.CLIENT_AUTH)
            peer.verified, peer.verified_at = verified, now
            peer.bundle = bundles.get(verified.spiffe_id.trust_domain)
        if now >= verified.not_after:
            raise Unauthenticated(
                f"client certificate of {verified.spiffe_id}: has expired",
                hint="connect with the renewed one",
            )
        self._quarantine().check(verified.spiffe_id)
        return Subject(str(verified.spiffe_id), SubjectKind.SVID)
