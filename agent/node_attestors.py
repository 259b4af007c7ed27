"""How the agent proves to the server which node it runs on: the client half of node attestation.

`join_token`: a token that the operator made; single use, so such an agent renews and can't attest again.
`x509pop`: a certificate that the node has anyway, and proof that its key is here too.
Message forms are SPIRE's (pkg/common/plugin/x509pop): JSON, bytes in standard base64.

Choosing one, and the conversation itself, are `node`'s.
"""

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from control_plane.core.errors import FailedPrecondition, InvalidInput, PeerMisbehaved
from control_plane.core.secret import Secret

NONCE_BYTES: Final = 32
MAX_FILE_BYTES: Final = 1 << 20


class NodeAttestor(Protocol):
    """One method of proof. `type` is its name on the wire; `evidence` a fingerprint of what it proves with.
    `single_use` ones must not be tried again with evidence that has worked once."""

    @property
    def type(self) -> str: ...
    @property
    def evidence(self) -> str: ...
    @property
    def single_use(self) -> bool: ...

    def payload(self) -> bytes:
        """What opens the conversation. Raises FailedPrecondition if the proof can't be read."""
        ...

    def respond(self, challenge: bytes) -> bytes:
        """The answer to a challenge. Raises PeerMisbehaved for one that isn't as the method defines it."""
        ...


class JoinToken:
    """A one-time token; the server forgets it when it is used."""

    type = "join_token"
    single_use = True

    def __init__(self, token: Secret[str]) -> None:
        self._token = token

    @property
    def evidence(self) -> str:
        """A digest: enough to recognise the token, not enough to use it."""
        return hashlib.sha256(b"join token\0" + self._token.reveal().encode()).hexdigest()

    def payload(self) -> bytes:
        """The token itself."""
        return self._token.reveal().encode()

    def respond(self, challenge: bytes) -> bytes:
        """A join token is never challenged."""
        raise PeerMisbehaved("attesting by join token: the server sent a challenge, which this method hasn't")


class X509ProofOfPossession:
    """A certificate chain (PEM, leaf first) and its key. The files are read at each attestation: they may
    have been renewed meanwhile."""

    type = "x509pop"
    single_use = False

    def __init__(self, certificate: Path, key: Path, random_bytes: Callable[[int], bytes]) -> None:
        self._certificate = certificate
        self._key = key
        self._random_bytes = random_bytes

    @property
    def evidence(self) -> str:
        """A digest of the leaf; empty while it can't be read."""
        try:
            return hashlib.sha256(self._chain()[0]).hexdigest()
        except (FailedPrecondition, InvalidInput):
            return ""

    def payload(self) -> bytes:
        """The chain."""
        return _json({"certificates": [_b64(certificate) for certificate in self._chain()]})

    def respond(self, challenge: bytes) -> bytes:
        """Signs SHA-256(server's nonce ‖ ours) by RSA-PSS or ECDSA, as the key is."""
        key = self._private_key()
        nonce = self._random_bytes(NONCE_BYTES)
        if isinstance(key, rsa.RSAPrivateKey):
            signed = _server_nonce(challenge, "rsa_signature") + nonce
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
            signature = key.sign(signed, pss, hashes.SHA256())
            return _json({"rsa_signature": {"nonce": _b64(nonce), "signature": _b64(signature)}})
        signed = _server_nonce(challenge, "ecdsa_signature") + nonce
        r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
        return _json(
            {"ecdsa_signature": {"nonce": _b64(nonce), "r": _b64(_big_endian(r)), "s": _b64(_big_endian(s))}}
        )

    def _chain(self) -> list[bytes]:
        try:
            certificates = x509.load_pem_x509_certificates(_read(self._certificate))
        except (ValueError, x509.InvalidVersion) as error:
            raise InvalidInput(f"x509pop certificate {self._certificate}: holds no readable PEM") from error
        return [certificate.public_bytes(serialization.Encoding.DER) for certificate in certificates]

    def _private_key(self) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
        try:
            key = serialization.load_pem_private_key(_read(self._key), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
            raise InvalidInput(f"x509pop key {self._key}: not an unencrypted PEM private key") from error
        if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            raise InvalidInput(f"x509pop key {self._key}: expected RSA or ECDSA, got {type(key).__name__}")
        return key


def _server_nonce(challenge: bytes, member: str) -> bytes:
    try:
        data: Any = json.loads(challenge)
        nonce = base64.b64decode(data[member]["nonce"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PeerMisbehaved(f"attesting by x509pop: the server's challenge has no {member} nonce") from error
    if len(nonce) != NONCE_BYTES:
        # We sign what the server chooses together with a nonce of ours; another length would let it
        # shift the border between the two.
        raise PeerMisbehaved(f"attesting by x509pop: nonce of {len(nonce)} bytes, expected {NONCE_BYTES}")
    return nonce


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise FailedPrecondition(f"reading {path} for x509pop: {error.strerror}") from error


def _big_endian(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _json(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode()
