"""The bundles by which this process judges certificates: our own and the federated ones.

Our own bundle is what the authority state says plus what administrators appended; its sequence is the sum of
both sequences, so it grows with every change of either. Fetching foreign bundles isn't done here.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from control_plane.core.bundle import Bundle
from control_plane.core.spiffe_id import TrustDomain
from control_plane.identity.index import Index


class Trust:
    """Bundles by trust domain; `set_own` swaps ours and tells who listens."""

    def __init__(self, trust_domain: TrustDomain, index: Index) -> None:
        self.trust_domain = trust_domain
        self.own = Bundle(trust_domain)
        self._index = index
        self._listeners: list[Callable[[], None]] = []

    def bundles(self) -> Mapping[TrustDomain, Bundle]:
        """Every bundle that vouches for its own trust domain here. A stored bundle never replaces ours."""
        return {**self._index.bundles, self.trust_domain: self.own}

    def x509_authorities(self) -> list[bytes]:
        """All CA certificates (DER) that a client's chain may lead to, for the TLS handshake."""
        return list(dict.fromkeys(a.certificate for b in self.bundles().values() for a in b.x509_authorities))

    def listen(self, listener: Callable[[], None]) -> None:
        """Calls back after each change of a bundle; must be quick and not raise."""
        self._listeners.append(listener)

    def set_own(self, bundle: Bundle) -> bool:
        """Replaces our bundle; false if nothing changed."""
        if bundle == self.own:
            return False
        self.own = bundle
        self.changed()
        return True

    def changed(self) -> None:
        """Tells who listens: ours or a federated bundle changed."""
        for listener in self._listeners:
            listener()


def merged(own: Bundle, additions: Bundle) -> Bundle:
    """Our bundle with the additions that it doesn't hold itself."""
    certificates = {authority.certificate for authority in own.x509_authorities}
    keys = {authority.key_id for authority in own.jwt_authorities}
    return replace(
        own,
        x509_authorities=own.x509_authorities
        + tuple(a for a in additions.x509_authorities if a.certificate not in certificates),
        jwt_authorities=own.jwt_authorities
        + tuple(a for a in additions.jwt_authorities if a.key_id not in keys),
        sequence=own.sequence + additions.sequence,
    )
