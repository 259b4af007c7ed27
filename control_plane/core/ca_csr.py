"""The request for a CA certificate that somebody else will sign (PKCS #10, RFC 2986).

It asks for what `ca_profile` would make itself: no CA below, keyCertSign and cRLSign, bound to the URIs of
the trust domain. An issuer is free to take only the key from it, so what comes back has to be checked
whatever was asked for.
"""

from collections.abc import Callable
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from control_plane.core import der
from control_plane.core.ca_profile import CA_KEY_USAGE, can_be_constrained
from control_plane.core.jwk import load_public_key
from control_plane.core.spiffe_id import TrustDomain
from control_plane.core.tbs import signature_algorithm

_VERSION_1: Final = bytes.fromhex("020100")
_ATTRIBUTES: Final = 0xA0
_SET: Final = 0x31
_EXTENSION_REQUEST: Final = bytes.fromhex("06092a864886f70d01090e")  # RFC 2985 section 5.4.2
_CRITICAL: Final = bytes.fromhex("0101ff")


def build_ca_csr(
    trust_domain: TrustDomain,
    common_name: str,
    spki: bytes,
    sign: Callable[[bytes], bytes],
    *,
    constrain_uris: bool,
) -> bytes:
    """One request, DER. `spki` is SubjectPublicKeyInfo, DER; `sign` as in `ca_profile`.

    cryptography only builds requests for private keys in its own hands, hence the assembly by hand.
    """
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (CA_KEY_USAGE, True),
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(trust_domain.id))]), False),
    ]
    if constrain_uris and can_be_constrained(trust_domain):
        permitted = [x509.UniformResourceIdentifier(trust_domain.name)]
        extensions.append((x509.NameConstraints(permitted, None), True))
    asked = der.encode(der.SEQUENCE, b"".join(_extension(*one) for one in extensions))
    attribute = der.encode(der.SEQUENCE, _EXTENSION_REQUEST + der.encode(_SET, asked))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]).public_bytes()
    info = der.encode(der.SEQUENCE, b"".join((_VERSION_1, subject, spki, der.encode(_ATTRIBUTES, attribute))))
    signature = der.encode(der.BIT_STRING, b"\x00" + sign(info))
    return der.encode(der.SEQUENCE, b"".join((info, signature_algorithm(load_public_key(spki)), signature)))


def _extension(value: x509.ExtensionType, critical: bool) -> bytes:
    oid = bytes((0x06, 3, 0x55, 0x1D, int(value.oid.dotted_string.removeprefix("2.5.29."))))
    content = oid + (_CRITICAL if critical else b"") + der.encode(der.OCTET_STRING, value.public_bytes())
    return der.encode(der.SEQUENCE, content)
