"""Who is this certificate? X.509-SVID validation (X509-SVID.md section 5) on top of path validation.

The leaf names its trust domain, and only that domain's bundle may vouch for it: a certificate for
`spiffe://a/…` signed by an authority of `b` is refused however well it is signed. An empty bundle vouches
for nobody. Tainted authorities still vouch, so that taint doesn't become an outage, and the result says so.
Stricter than go-spiffe: a leaf without a path is refused, and key usage must be there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography import x509

from control_plane.core.bundle import Bundle, X509Authority
from control_plane.core.certificate import UNREADABLE, Certificate, Purpose, read_certificate
from control_plane.core.errors import InvalidInput, Unauthenticated
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.core.x509_path import validate_path

__all__ = ["Purpose", "VerifiedX509", "spiffe_id_of", "validate_x509", "verify_x509"]


@dataclass(frozen=True, slots=True)
class VerifiedX509:
    """What a verified chain says. `path` is leaf first, anchor last; times in Unix seconds."""

    spiffe_id: SpiffeId
    serial: int
    not_before: int
    not_after: int
    authority: X509Authority
    path: tuple[bytes, ...]

    @property
    def tainted(self) -> bool:
        """True if the only way to trust this chain goes through a tainted authority."""
        return self.authority.tainted


def verify_x509(
    chain: Sequence[bytes],
    bundle: Bundle | Mapping[TrustDomain, Bundle],
    now: int,
    *,
    purpose: Purpose | None = None,
) -> SpiffeId:
    """The identity of a DER chain, leaf first. Raises Unauthenticated; see `validate_x509`."""
    return validate_x509(chain, bundle, now, purpose=purpose).spiffe_id


def validate_x509(
    chain: Sequence[bytes],
    bundle: Bundle | Mapping[TrustDomain, Bundle],
    now: int,
    *,
    purpose: Purpose | None = None,
) -> VerifiedX509:
    """Checks a DER chain, leaf first, against the bundle of the leaf's own trust domain.

    `now` is in Unix seconds. With a single bundle the leaf must belong to it. Raises
    Unauthenticated with the rule that was broken.
    """
    if not chain:
        raise Unauthenticated("X.509-SVID: the chain is empty")
    try:
        leaf = read_certificate(chain[0])
        spiffe_id = leaf_spiffe_id(leaf)
    except InvalidInput as error:
        raise Unauthenticated(f"X.509-SVID: {error.message}") from error
    _check_leaf(leaf, spiffe_id)
    own = _own_bundle(spiffe_id, bundle)
    # Untainted first: a chain that leads to both kinds of authority shouldn't look tainted.
    authorities = sorted(own.x509_authorities, key=lambda authority: authority.tainted)
    path = validate_path(chain, [a.certificate for a in authorities], now, purpose=purpose, leaf=leaf)
    anchor = path[-1].der
    return VerifiedX509(
        spiffe_id=spiffe_id,
        serial=leaf.serial,
        not_before=leaf.not_before,
        not_after=leaf.not_after,
        authority=next(a for a in authorities if a.certificate == anchor),
        path=tuple(certificate.der for certificate in path),
    )


def spiffe_id_of(certificate: x509.Certificate) -> SpiffeId:
    """The one SPIFFE ID that a certificate claims; nothing is verified. Raises InvalidInput."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return _only_spiffe_id(())
    except UNREADABLE as error:
        raise InvalidInput("certificate: its extensions can't be read") from error
    return _only_spiffe_id(tuple(names.get_values_for_type(x509.UniformResourceIdentifier)))


def leaf_spiffe_id(leaf: Certificate) -> SpiffeId:
    """The same for a certificate that was read already."""
    return _only_spiffe_id(leaf.names.uris)


def _only_spiffe_id(uris: tuple[str, ...]) -> SpiffeId:
    if len(uris) != 1:
        raise InvalidInput(f"certificate: {len(uris)} URI names, an X.509-SVID has exactly one")
    return SpiffeId.parse(uris[0])


def _check_leaf(leaf: Certificate, spiffe_id: SpiffeId) -> None:
    if not spiffe_id.has_path:
        raise Unauthenticated(
            f"X.509-SVID {spiffe_id}: has no path, so it names a trust domain and not a workload"
        )
    if leaf.is_ca:
        raise Unauthenticated(f"X.509-SVID {spiffe_id}: is a signing certificate and can't authenticate")
    usage = leaf.key_usage
    if usage is None or not usage.digital_signature:
        raise Unauthenticated(f"X.509-SVID {spiffe_id}: its key usage lacks digitalSignature")
    if usage.key_cert_sign or usage.crl_sign:
        raise Unauthenticated(f"X.509-SVID {spiffe_id}: its key usage holds keyCertSign or cRLSign")


def _own_bundle(spiffe_id: SpiffeId, bundle: Bundle | Mapping[TrustDomain, Bundle]) -> Bundle:
    trust_domain = spiffe_id.trust_domain
    own = bundle if isinstance(bundle, Bundle) else bundle.get(trust_domain)
    if own is None or own.trust_domain != trust_domain:
        raise Unauthenticated(f"X.509-SVID {spiffe_id}: no bundle of its trust domain is known here")
    if not own.x509_authorities:
        raise Unauthenticated(f"X.509-SVID {spiffe_id}: the bundle of {trust_domain} has no X.509 authority")
    return own
