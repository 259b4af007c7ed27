"""Path validation of RFC 5280 section 6, for the certificates that SPIFFE deployments use.

Written here because the verifiers at hand can't do it: cryptography's refuses URI name constraints, and
OpenSSL is only reachable through a handshake. Every rule that may refuse does: validity of each certificate
and of the anchor, CA flag, path length, key usage, extended key usage along the path, name constraints,
unknown critical extensions, accepted keys and hashes, signatures. Deviations, all towards refusal: anchors
must be valid and fit for signing themselves; self-issued certificates count towards the path length;
certificate policies aren't evaluated, so a critical policy extension makes a certificate unusable.

Revocation lists aren't consulted: SVIDs are short-lived, and a CA is withdrawn by taking it out of the
bundle. The work is bounded: at most `MAX_CHAIN` certificates and `MAX_SIGNATURE_CHECKS` verifications.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature

from control_plane.core.certificate import UNREADABLE, Certificate, Purpose, read_authority, read_certificate
from control_plane.core.errors import InvalidInput, Unauthenticated
from control_plane.core.name_constraints import check_names

MAX_CHAIN: Final = 6  # leaf and intermediates, as presented
MAX_SIGNATURE_CHECKS: Final = 32


def validate_path(
    chain: Sequence[bytes],
    anchors: Sequence[bytes],
    now: int,
    *,
    purpose: Purpose | None = None,
    leaf: Certificate | None = None,
) -> tuple[Certificate, ...]:
    """Finds and checks a path from the leaf to one of the anchors.

    `chain` is DER as presented, leaf first, the rest in any order; `anchors` are DER CA certificates, tried
    in the order given; `now` is in Unix seconds; `leaf` is the first of the chain where it was read already.
    Gives the path, leaf first, the anchor last. Raises Unauthenticated with the reason of the attempt that
    came furthest.
    """
    leaf, intermediates = _read_chain(chain, leaf)
    _check_standing(leaf, now)
    if leaf.is_ca:
        raise Unauthenticated(f"certificate {leaf.title}: is a CA and can't stand for a peer")
    if purpose is not None and not leaf.allows(purpose):
        raise Unauthenticated(f"certificate {leaf.title}: its extended key usage excludes {purpose.name}")
    return _Search(intermediates, _read_anchors(anchors), now, purpose).run(leaf)


@dataclass(slots=True)
class _Search:
    """Depth first from the leaf upwards, with a budget of signature checks over the whole search."""

    intermediates: list[Certificate]
    anchors: list[Certificate]
    now: int
    purpose: Purpose | None
    signature_checks: int = 0
    reason: str = ""
    reason_depth: int = 0

    def run(self, leaf: Certificate) -> tuple[Certificate, ...]:
        path = self._extend((leaf,))
        if path is None:
            raise Unauthenticated(
                f"certificate {leaf.title}: no valid path to an authority of the bundle: "
                + (self.reason or "none of them is its issuer")
            )
        return path

    def _extend(self, path: tuple[Certificate, ...]) -> tuple[Certificate, ...] | None:
        for anchor in self.anchors:
            if self._admits(path, anchor):
                return (*path, anchor)
        for ca in self.intermediates:
            # The same name and key twice in a path is a loop of cross-signed certificates.
            if any(ca.subject == member.subject and ca.spki == member.spki for member in path):
                continue
            if self._admits(path, ca) and (found := self._extend((*path, ca))) is not None:
                return found
        return None

    def _admits(self, path: tuple[Certificate, ...], ca: Certificate) -> bool:
        """Whether `ca` may stand above `path`. Cheap rules first; the signature is checked last."""
        child = path[-1]
        if child.issuer != ca.subject:
            return False
        if child.authority_key_id and ca.subject_key_id and child.authority_key_id != ca.subject_key_id:
            return False
        try:
            _check_standing(ca, self.now)
            _check_may_sign(ca, len(path) - 1)
            if self.purpose is not None and not ca.allows(self.purpose):
                raise Unauthenticated(f"CA {ca.title}: its extended key usage excludes {self.purpose.name}")
            for below in path:
                check_names(below, ca)
            self._check_signature(child, ca)
        except Unauthenticated as error:
            if len(path) >= self.reason_depth:
                self.reason, self.reason_depth = error.message, len(path)
            return False
        return True

    def _check_signature(self, child: Certificate, ca: Certificate) -> None:
        if self.signature_checks >= MAX_SIGNATURE_CHECKS:
            raise Unauthenticated(f"more than {MAX_SIGNATURE_CHECKS} signatures would have to be checked")
        self.signature_checks += 1
        try:
            child.parsed.verify_directly_issued_by(ca.parsed)
        except (InvalidSignature, *UNREADABLE) as error:
            raise Unauthenticated(f"certificate {child.title}: not signed by CA {ca.title}") from error


def _read_chain(chain: Sequence[bytes], leaf: Certificate | None) -> tuple[Certificate, list[Certificate]]:
    if not chain:
        raise Unauthenticated("certificate chain: is empty")
    if len(chain) > MAX_CHAIN:
        raise Unauthenticated(
            f"certificate chain: {len(chain)} certificates, at most {MAX_CHAIN} are followed"
        )
    try:
        if leaf is None or leaf.der != chain[0]:
            leaf = read_certificate(chain[0])
        return leaf, [read_certificate(der) for der in dict.fromkeys(chain[1:])]
    except InvalidInput as error:
        raise Unauthenticated(f"certificate chain: {error.message}") from error


def _read_anchors(anchors: Sequence[bytes]) -> list[Certificate]:
    readable = []
    for der in anchors:
        try:
            readable.append(read_authority(der))
        except InvalidInput:
            continue  # an authority that we can't read trusts nobody; the others still count
    return readable


def _check_standing(certificate: Certificate, now: int) -> None:
    """What holds for every certificate of a path, the anchor included."""
    if now < certificate.not_before:
        raise Unauthenticated(
            f"certificate {certificate.title}: not valid before {certificate.not_before}, "
            f"the clock says {now}: is it right, here and where the certificate was made?"
        )
    if now > certificate.not_after:
        raise Unauthenticated(
            f"certificate {certificate.title}: expired at {certificate.not_after}, the clock says {now}"
        )
    if certificate.unprocessed_critical:
        raise Unauthenticated(
            f"certificate {certificate.title}: critical extension {min(certificate.unprocessed_critical)} "
            "is not understood"
        )


def _check_may_sign(ca: Certificate, intermediates_below: int) -> None:
    if not ca.is_ca:
        raise Unauthenticated(f"certificate {ca.title}: is not a CA")
    if ca.key_usage is not None and not ca.key_usage.key_cert_sign:
        raise Unauthenticated(f"CA {ca.title}: its key usage doesn't allow signing certificates")
    if ca.path_length is not None and intermediates_below > ca.path_length:
        raise Unauthenticated(
            f"CA {ca.title}: has {intermediates_below} CAs below it, its path length is {ca.path_length}"
        )
