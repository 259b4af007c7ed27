"""The messages of the Workload API, made from a `View`: serialised once for equal content, for all streams.

A message is the full state (W-04) or isn't made at all: `None` means that nothing truthful could be said yet.
The rules that clients hold against us are kept here: members not empty (W-10), hints unique and at most 1,024
bytes (W-11), own trust domain present (W-14, W-16), order as given (W-19).
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Final

from google.protobuf.message import Message

from agent.holdings import View
from control_plane.core.bundle import Bundle
from control_plane.core.entry import Entry
from control_plane.proto import workloadapi_pb2 as pb

MAX_SHARED: Final = 1024
MAX_HINT_BYTES: Final = 1024


class Responses:
    """Makes serialised messages."""

    def __init__(self) -> None:
        self._shared: OrderedDict[Hashable, bytes] = OrderedDict()

    def x509_svids(self, view: View) -> bytes | None:
        """An X509SVIDResponse; None while there is no valid SVID or no bundle to go with it."""
        bundle = view.bundle
        if not view.identities or bundle is None or not bundle.x509_authorities:
            return None
        hints = unique_hints(identity.entry for identity in view.identities)
        members = list(zip(view.identities, hints, strict=True))

        def build() -> Message:
            authorities = bundle.x509_der()
            return pb.X509SVIDResponse(
                svids=[
                    pb.X509SVID(
                        spiffe_id=str(identity.held.svid.spiffe_id),
                        x509_svid=b"".join(identity.held.svid.chain),
                        x509_svid_key=identity.held.private_key.reveal(),
                        bundle=authorities,
                        hint=hint,
                    )
                    for identity, hint in members
                ],
                federated_bundles=_x509(view.federated),
            )

        key = (
            pb.X509SVIDResponse,
            tuple((identity.entry.id, identity.held.svid.serial, hint) for identity, hint in members),
            tuple(_authorities(each) for each in (bundle, *view.federated)),
        )
        return self._shared_bytes(key, build)

    def x509_bundles(self, view: View) -> bytes | None:
        """An X509BundlesResponse; None while our own bundle is unknown."""
        if view.bundle is None or not view.bundle.x509_authorities:
            return None
        bundles = (view.bundle, *view.federated)
        key = (pb.X509BundlesResponse, tuple(_authorities(bundle) for bundle in bundles))
        return self._shared_bytes(key, lambda: pb.X509BundlesResponse(bundles=_x509(bundles)))

    def jwt_bundles(self, view: View) -> bytes | None:
        """A JWTBundlesResponse; None while our own bundle is unknown."""
        if view.bundle is None:
            return None
        bundles = (view.bundle, *view.federated)
        key = (
            pb.JWTBundlesResponse,
            tuple((bundle.trust_domain, bundle.jwt_authorities) for bundle in bundles),
        )
        return self._shared_bytes(
            key,
            lambda: pb.JWTBundlesResponse(
                bundles={str(bundle.trust_domain.id): bundle.jwks() for bundle in bundles}
            ),
        )

    def _shared_bytes(self, key: Hashable, build: Callable[[], Message]) -> bytes:
        known = self._shared.get(key)
        if known is not None:
            self._shared.move_to_end(key)
            return known
        message = self._shared[key] = build().SerializeToString(deterministic=True)
        while len(self._shared) > MAX_SHARED:
            self._shared.popitem(last=False)
        return message


def unique_hints(entries: Iterable[Entry]) -> list[str]:
    """The entries' hints in order; a repeated or oversized one becomes empty, the identity itself stays."""
    seen: set[str] = set()
    hints = []
    for entry in entries:
        fit = entry.hint not in seen and len(entry.hint.encode()) <= MAX_HINT_BYTES
        hints.append(entry.hint if fit else "")
        seen.add(entry.hint)
    return hints


def _x509(bundles: Iterable[Bundle]) -> dict[str, bytes]:
    return {str(bundle.trust_domain.id): bundle.x509_der() for bundle in bundles if bundle.x509_authorities}


def _authorities(bundle: Bundle) -> Hashable:
    return bundle.trust_domain, bundle.x509_authorities
