"""Attestation by an X.509 certificate and proof of its key, as SPIRE's x509pop (spire.md b.2).

The node presents a chain; it must lead to one of the configured authorities, and the leaf must be allowed to
sign. Then both sides throw a nonce and the node signs SHA-256 over both, server's first: neither side alone
chooses what is signed. Certificates are read by cryptography, paths are judged by our own rules. Revocation
isn't checked: ban the agent instead.
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.x509.oid import NameOID

from control_plane.core.certificate import read_certificate
from control_plane.core.errors import GatehouseError, InvalidInput, PermissionDenied
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import TrustDomain, agent_id
from control_plane.core.strict_json import load_object
from control_plane.core.x509_path import validate_path
from control_plane.identity.attestors import Attestation, AttestedNode, Challenge

TYPE: Final = "x509pop"
NONCE_BYTES: Final = 32
MAX_INTERMEDIATES: Final = 4
MAX_RSA_BITS: Final = 8192
MIN_RSA_BITS: Final = 2048
MAX_MESSAGE_BYTES: Final = 256 << 10
_SHA256: Final = hashes.SHA256()


class X509PopAttestor:
    """Implements `NodeAttestor`. `authorities` are DER certificates that nodes' chains may lead to."""

    def __init__(
        self,
        trust_domain: TrustDomain,
        authorities: Sequence[bytes],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        if not authorities:
            raise InvalidInput(
                "x509pop: no authority is configured", hint="set x509pop.ca_bundle to a PEM file"
            )
        self._trust_domain = trust_domain
        self._authorities = tuple(authorities)
        self._random_bytes = random_bytes

    @property
    def type(self) -> str:
        """`x509pop`."""
        return TYPE

    def begin(self, payload: bytes, now: int) -> Attestation:
        """The payload is `{"certificates": [base64 DER, …]}`, leaf first."""
        return _Conversation(
            self._trust_domain, self._authorities, payload, now, self._random_bytes(NONCE_BYTES)
        )


class _Conversation:
    def __init__(
        self, trust_domain: TrustDomain, authorities: Sequence[bytes], payload: bytes, now: int, nonce: bytes
    ) -> None:
        self._trust_domain = trust_domain
        self._authorities = authorities
        self._payload = payload
        self._now = now
        self._nonce = nonce
        self._node: AttestedNode | None = None
        self._key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | None = None

    async def proceed(self, response: bytes | None) -> Challenge | AttestedNode:
        if self._key is None or self._node is None:
            chain = _chain(self._payload)
            self._key = _signing_key(chain[0])
            self._node = self._judged(chain)
            kind = "rsa_signature" if isinstance(self._key, rsa.RSAPublicKey) else "ecdsa_signature"
            return Challenge(json.dumps({kind: {"nonce": _text(self._nonce)}}).encode("ascii"))
        if response is None:
            raise InvalidInput("x509pop: the challenge wasn't answered")
        _check_response(self._key, self._nonce, response)
        return self._node

    def _judged(self, chain: list[bytes]) -> AttestedNode:
        try:
            path = validate_path(chain, list(self._authorities), self._now, purpose=None)
        except GatehouseError as error:
            raise PermissionDenied(f"x509pop: the certificate isn't trusted: {error.message}") from error
        leaf = x509.load_der_x509_certificate(chain[0])
        values = {f"ca:fingerprint:{hashlib.sha1(one.der).hexdigest()}" for one in path[1:]}  # noqa: S324
        values.add(f"serialnumber:{_even_hex(leaf.serial_number)}")
        for name in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
            if isinstance(name.value, str) and name.value and name.value.isprintable():
                values.add(f"subject:cn:{name.value}")
        # SHA-1 names the certificate, as SPIRE's agents expect; the proof rests on the path and the key.
        fingerprint = hashlib.sha1(chain[0]).hexdigest()  # noqa: S324
        return AttestedNode(
            agent_id(self._trust_domain, TYPE, fingerprint),
            frozenset(Selector(TYPE, value) for value in values),
            can_reattest=True,
        )


def _chain(payload: bytes) -> list[bytes]:
    document = load_object(payload, "x509pop payload", MAX_MESSAGE_BYTES)
    texts = document.get("certificates")
    if not isinstance(texts, list) or not texts:
        raise InvalidInput("x509pop payload: holds no certificates")
    if len(texts) > 1 + MAX_INTERMEDIATES:
        raise InvalidInput(
            f"x509pop payload: {len(texts)} certificates, at most {1 + MAX_INTERMEDIATES} may come"
        )
    return [_bytes(text, "certificate") for text in texts]


def _signing_key(der: bytes) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    leaf = read_certificate(der)
    if leaf.is_ca or leaf.key_usage is None or not leaf.key_usage.digital_signature:
        raise InvalidInput("x509pop: the leaf certificate isn't intended for digital signature use")
    key = x509.load_der_x509_certificate(der).public_key()
    if isinstance(key, rsa.RSAPublicKey):
        if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            raise InvalidInput(
                f"x509pop: RSA key of {key.key_size} bits, {MIN_RSA_BITS} to {MAX_RSA_BITS} may be"
            )
        return key
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key
    raise InvalidInput("x509pop: the key is neither RSA nor EC")


def _check_response(
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, server_nonce: bytes, response: bytes
) -> None:
    document = load_object(response, "x509pop response", MAX_MESSAGE_BYTES)
    try:
        if isinstance(key, rsa.RSAPublicKey):
            fields = _fields(document, "rsa_signature")
            digest = _combined(server_nonce, fields)
            pss = padding.PSS(padding.MGF1(_SHA256), padding.PSS.AUTO)
            key.verify(_bytes(fields.get("signature"), "signature"), digest, pss, utils.Prehashed(_SHA256))
        else:
            fields = _fields(document, "ecdsa_signature")
            digest = _combined(server_nonce, fields)
            r, s = (int.from_bytes(_bytes(fields.get(name), name), "big") for name in ("r", "s"))
            key.verify(utils.encode_dss_signature(r, s), digest, ec.ECDSA(utils.Prehashed(_SHA256)))
    except InvalidSignature as error:
        raise PermissionDenied("x509pop: the response wasn't signed by the certificate's key") from error


def _fields(document: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    fields = document.get(kind)
    if not isinstance(fields, dict):
        raise InvalidInput(f"x509pop response: lacks {kind}, which fits the certificate's key")
    return fields


def _combined(server_nonce: bytes, fields: Mapping[str, Any]) -> bytes:
    nonce = _bytes(fields.get("nonce"), "nonce")
    if len(nonce) != NONCE_BYTES:
        raise InvalidInput(f"x509pop response: nonce of {len(nonce)} bytes, expected {NONCE_BYTES}")
    if hmac.compare_digest(nonce, server_nonce):
        raise InvalidInput("x509pop response: the nonce is the server's own")
    return hashlib.sha256(server_nonce + nonce).digest()


def _bytes(text: object, what: str) -> bytes:
    if not isinstance(text, str):
        raise InvalidInput(f"x509pop: {what} is missing")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"x509pop: {what} isn't base64") from error


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _even_hex(number: int) -> str:
    text = f"{number:x}"
    return text if len(text) % 2 == 0 else "0" + text
