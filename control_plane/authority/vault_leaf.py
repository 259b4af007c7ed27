"""What a leaf that Vault signed has to be before it may leave: compared field by field with what was asked.

A role in Vault matches names by globs, puts no bound on their number and cuts lifetimes silently; whatever it
allows, a certificate that says anything but what was asked for is refused here. Serial number and times are
Vault's choice within bounds: at least 64 bits, valid now, and ending when it was asked to, give or take the
difference of two clocks.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from control_plane.core.certificate import UNREADABLE, Certificate, read_certificate
from control_plane.core.errors import InvalidInput, PeerMisbehaved, shown
from control_plane.core.lifetime import Window
from control_plane.core.profile import LEAF_KEY_USAGE, SigningRequest
from control_plane.core.tbs import key_id_of

MIN_SERIAL_BITS: Final = 64
MAX_BACKDATE_SECONDS: Final = 15 * 60
CLOCK_TOLERANCE_SECONDS: Final = 300  # by how much Vault's clock may differ from ours

_USAGES: Final = frozenset(
    {ExtendedKeyUsageOID.SERVER_AUTH.dotted_string, ExtendedKeyUsageOID.CLIENT_AUTH.dotted_string}
)
# What the profile has, and what Vault adds: where its issuer and its revocation list are to be found.
_EXTENSIONS: Final = frozenset(
    {
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.AUTHORITY_INFORMATION_ACCESS,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
    }
)


def check_vault_leaf(
    certificate: bytes, request: SigningRequest, issuer: Certificate, now: int
) -> SigningRequest:
    """Gives the request with the serial number and the times that Vault chose.

    Raises PeerMisbehaved with the first difference. The signature is always verified.
    """
    title = f"leaf for {request.spiffe_id} signed by Vault"
    try:
        leaf = read_certificate(certificate)
        difference = _difference(leaf, request, issuer) or _window_difference(leaf, request.window, now)
    except (InvalidInput, *UNREADABLE) as error:
        raise PeerMisbehaved(f"{title}: can't be read as a certificate: {error}") from error
    if difference:
        raise PeerMisbehaved(
            f"{title}: {difference}",
            hint="it was withheld; look at role and issuer with `gatehouse check vault`",
        )
    return replace(request, serial=leaf.serial, window=Window(leaf.not_before, leaf.not_after))


def _listed(names: Iterable[str]) -> str:
    """Names from outside, as a sentence has them."""
    return ", ".join(shown(name) for name in names) or "none"


def _difference(leaf: Certificate, request: SigningRequest, issuer: Certificate) -> str:
    """What differs but the times; empty if nothing does."""
    names = leaf.names
    if leaf.spki != request.spki:
        return "its public key isn't the one that was asked for"
    if names.uris != (str(request.spiffe_id),):
        return f"it has the URI names {_listed(names.uris)}, expected exactly one, the SPIFFE ID"
    if sorted(names.dns) != sorted(set(request.dns_names)) or names.addresses or names.others:
        return f"it has the DNS names {_listed(names.dns)} and others {_listed(sorted(names.others))}"
    if leaf.parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        return "its subject has a common name, which some take for an identity"
    if leaf.is_ca:
        return "it is a CA"
    if not _has_our_key_usage(leaf):
        return "its key usage isn't digitalSignature alone, critical: set the role's key_usage"
    if leaf.extended_key_usages != _USAGES:
        return "its extended key usage isn't that of a server and a client"
    if leaf.subject_key_id != key_id_of(request.spki):
        return "its subject key identifier isn't that of its key"
    added = {extension.oid for extension in leaf.parsed.extensions} - _EXTENSIONS
    if added:
        return f"it has extensions that weren't asked for: {min(one.dotted_string for one in added)}"
    if leaf.serial.bit_length() < MIN_SERIAL_BITS:
        return f"its serial number has {leaf.serial.bit_length()} bits, at least {MIN_SERIAL_BITS} are needed"
    return _issuer_difference(leaf, issuer)


def _has_our_key_usage(leaf: Certificate) -> bool:
    if leaf.key_usage is None or not leaf.key_usage.critical:
        return False
    return leaf.parsed.extensions.get_extension_for_class(x509.KeyUsage).value == LEAF_KEY_USAGE


def _issuer_difference(leaf: Certificate, issuer: Certificate) -> str:
    if leaf.issuer != issuer.subject or leaf.authority_key_id != issuer.subject_key_id:
        return f"it says that another CA signed it than {issuer.title}"
    try:
        leaf.parsed.verify_directly_issued_by(issuer.parsed)
    except (InvalidSignature, *UNREADABLE):
        return f"its signature isn't by {issuer.title}"
    if leaf.not_after > issuer.not_after or leaf.not_before < issuer.not_before:
        return f"it lives before or beyond its issuer {issuer.title}"
    return ""


def _window_difference(leaf: Certificate, asked: Window, now: int) -> str:
    if leaf.not_before > now:
        return (
            f"it begins at {leaf.not_before}, {leaf.not_before - now} s from now: "
            "Vault's clock is ahead of ours"
        )
    if now - leaf.not_before > MAX_BACKDATE_SECONDS:
        return (
            f"it begins at {leaf.not_before}, {now - leaf.not_before} s ago, expected at most "
            f"{MAX_BACKDATE_SECONDS} s: Vault's clock is behind ours, or the role back-dates too far"
        )
    missing = asked.not_after - leaf.not_after
    if missing > CLOCK_TOLERANCE_SECONDS:
        return (
            f"it was cut short: {asked.not_after} was asked for, it ends at {leaf.not_after}, {missing} s "
            "earlier: raise max_ttl of the role, or of the mount"
        )
    if missing < -CLOCK_TOLERANCE_SECONDS:
        return f"it ends at {leaf.not_after}, {-missing} s after what was asked for"
    return ""
