"""Certificates as a server lists them, put in order: by who signed whom, each once, from one to its root.

Vault and OpenBao give `ca_chain` in an order that depends on how issuers were imported, repeat issuers, and
after cross-signing list several that could follow. Names decide nothing here, signatures do.
"""

from collections.abc import Iterable
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificates

from control_plane.core.certificate import UNREADABLE, Certificate, read_certificate
from control_plane.core.errors import InvalidInput, PeerMisbehaved

MAX_CERTIFICATES: Final = 32


def read_pem(texts: Iterable[str], what: str) -> tuple[bytes, ...]:
    """All certificates of some PEM texts in DER, in their order, each once. Raises PeerMisbehaved."""
    found: dict[bytes, None] = {}
    for text in texts:
        try:
            parsed = load_pem_x509_certificates(text.encode("ascii"))
        except (*UNREADABLE, UnicodeEncodeError) as error:
            raise PeerMisbehaved(f"{what}: what Vault gave as certificate can't be read as PEM") from error
        found |= dict.fromkeys(each.public_bytes(Encoding.DER) for each in parsed)
        if len(found) > MAX_CERTIFICATES:
            raise PeerMisbehaved(f"{what}: more than {MAX_CERTIFICATES} certificates in Vault's answer")
    return tuple(found)


def ordered_chain(first: bytes, others: Iterable[bytes], what: str) -> tuple[bytes, ...]:
    """The path from `first` to a self-signed root among `others`, both included.

    Where more than one certificate has signed another (cross-signing), the shortest path is taken. The path
    ends early if no root was among them; `is_root` tells. Raises PeerMisbehaved for unreadable certificates.
    """
    try:
        start = read_certificate(first)
        pool = [read_certificate(each) for each in dict.fromkeys(others) if each != first]
    except InvalidInput as error:
        raise PeerMisbehaved(f"{what}: {error.message}") from error
    paths, longest = [[start]], [start]
    # Breadth first: whichever path meets a root first is a shortest one.
    while paths:
        path = paths.pop(0)
        if _signed(path[-1], path[-1]):
            return tuple(each.der for each in path)
        longest = max(longest, path, key=len)
        above = [each for each in pool if each not in path and _signed(each, path[-1])]
        if len(paths) + len(above) > MAX_CERTIFICATES:
            break
        paths += [[*path, each] for each in above]
    return tuple(each.der for each in longest)


def is_root(der: bytes) -> bool:
    """Whether a certificate is signed by itself."""
    certificate = read_certificate(der)
    return _signed(certificate, certificate)


def _signed(issuer: Certificate, certificate: Certificate) -> bool:
    """Whether `issuer` is a CA that has signed `certificate`."""
    if not issuer.is_ca or issuer.subject != certificate.issuer:
        return False
    try:
        certificate.parsed.verify_directly_issued_by(issuer.parsed)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True
