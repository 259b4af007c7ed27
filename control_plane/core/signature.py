"""Signatures as our key managers make them, over texts that say what they are for.

A prefix stands before what is signed, so that a signature made for one purpose never counts for another.
"""

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from control_plane.core.jwk import load_public_key
from control_plane.core.tbs import signature_hash

RSA_PSS: Final = padding.PSS(padding.MGF1(hashes.SHA256()), salt_length=hashes.SHA256.digest_size)
"""How RSA keys sign what only we verify: RSASSA-PSS (RFC 8017 section 8.1), the salt as long as the hash."""

POLICY_BUNDLE: Final = b"gatehouse policy bundle v1\n"
"""Before the packed policy that agents get (`SignedPolicy` in gatehouse/node/v1/node.proto)."""


def is_signed_by(public_key: bytes, signature: bytes, text: bytes) -> bool:
    """Whether a key (SPKI DER) made this signature, as `authority.ports.Signer.sign` makes them for what
    isn't a certificate or a token.

    Raises InvalidInput for what isn't a key of a known kind.
    """
    key = load_public_key(public_key)
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, text, ec.ECDSA(signature_hash(key) or hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, text, RSA_PSS, hashes.SHA256())
        else:
            key.verify(signature, text)
    except InvalidSignature:
        return False
    return True
