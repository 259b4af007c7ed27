"""SVIDs as values: an X.509 chain or a token, with the facts about it that everybody asks for.

Private keys are not part of these values. `verify_x509` and `Purpose` are offered here too, since that is
where one looks for them; the rules are in `verify_x509`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509

from control_plane.core.bundle import subject_key_id
from control_plane.core.errors import InvalidInput
from control_plane.core.profile import SigningRequest
from control_plane.core.spiffe_id import SpiffeId
from control_plane.core.verify_x509 import Purpose, VerifiedX509, spiffe_id_of, validate_x509, verify_x509

__all__ = [
    "JwtSvid",
    "Purpose",
    "VerifiedX509",
    "X509Svid",
    "spiffe_id_of",
    "validate_x509",
    "verify_x509",
]


@dataclass(frozen=True, slots=True)
class X509Svid:
    """One X.509-SVID without its key.

    `chain` is DER, leaf first, without the root. `not_before` and `not_after` are the leaf's, in Unix
    seconds. `authority_id` is the hex key identifier of the root that the chain leads to.
    """

    spiffe_id: SpiffeId
    chain: tuple[bytes, ...] = field(repr=False)
    serial: int
    not_before: int
    not_after: int
    authority_id: str

    @classmethod
    def issued(cls, request: SigningRequest, chain: tuple[bytes, ...], authority_id: str) -> "X509Svid":
        """What a request has become; `chain` was held against it by whoever calls."""
        window = request.window
        return cls(
            request.spiffe_id, chain, request.serial, window.not_before, window.not_after, authority_id
        )

    @classmethod
    def from_chain(cls, chain: Sequence[bytes]) -> "X509Svid":
        """Reads the facts from a DER chain. Nothing is verified. Raises InvalidInput if it can't be read."""
        if not chain:
            raise InvalidInput("X.509-SVID: the chain is empty")
        subject_key_id(chain[0])  # refuses bytes that are no certificate, with a message
        leaf = x509.load_der_x509_certificate(chain[0])
        return cls(
            spiffe_id=spiffe_id_of(leaf),
            chain=tuple(chain),
            serial=leaf.serial_number,
            not_before=int(leaf.not_valid_before_utc.timestamp()),
            not_after=int(leaf.not_valid_after_utc.timestamp()),
            authority_id=_issuer_key_id(chain[-1]),
        )


@dataclass(frozen=True, slots=True)
class JwtSvid:
    """One JWT-SVID: the compact token, and what it says. Times are in Unix seconds."""

    spiffe_id: SpiffeId
    token: str
    audience: tuple[str, ...]
    issued_at: int
    expires_at: int

    def __repr__(self) -> str:
        # The token is a bearer secret: it must not come into a log by way of the value that holds it.
        return (
            f"JwtSvid(spiffe_id={self.spiffe_id}, audience={self.audience!r}, expires_at={self.expires_at})"
        )


def _issuer_key_id(certificate: bytes) -> str:
    subject_key_id(certificate)
    try:
        extensions = x509.load_der_x509_certificate(certificate).extensions
        extension = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        return ""
    return extension.value.key_identifier.hex() if extension.value.key_identifier else ""
