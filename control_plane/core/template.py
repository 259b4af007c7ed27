"""The short way to a P-256 leaf: its DER put together from parts that were encoded before.

For one issuer everything but serial, validity, key and names is the same, so it is encoded once; what
varies has fixed forms. A certificate costs two microseconds to put together this way, against fifty by the
builder; the bytes are the same (property-tested), and `profile.check_leaf` reads them back in either case.

Only for leaves with P-256 keys below an issuer with a P-256 key; `fits` says so, `profile` does the rest.
"""

import functools
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from control_plane.core import der
from control_plane.core.certificate import Certificate
from control_plane.core.csr import ECDSA_SHA256, P256_SPKI_BYTES, is_p256
from control_plane.core.dns_name import check_dns_name
from control_plane.core.errors import InvalidInput
from control_plane.core.profile import LEAF_SUBJECT, SigningRequest
from control_plane.core.spiffe_id import SpiffeId
from control_plane.core.tbs import KEY_ID_BYTES, SERIAL_BYTES, key_id_of

_VERSION_3: Final = bytes.fromhex("a003020102")
_KEY_USAGE: Final = bytes.fromhex("300e0603551d0f0101ff040403020780")  # critical, digitalSignature
_EXTENDED_KEY_USAGE: Final = bytes.fromhex(
    "301d0603551d250416301406082b0601050507030106082b06010505070302"  # serverAuth, clientAuth
)
_BASIC_CONSTRAINTS: Final = bytes.fromhex("300c0603551d130101ff04023000")  # critical, no CA
_FIXED_EXTENSIONS: Final = _KEY_USAGE + _EXTENDED_KEY_USAGE + _BASIC_CONSTRAINTS
_SUBJECT_KEY_ID_HEAD: Final = bytes.fromhex("301d0603551d0e04160414")
_AUTHORITY_KEY_ID_OID: Final = bytes.fromhex("0603551d23")
_ALTERNATIVE_NAME_OID: Final = bytes.fromhex("0603551d11")
_URI: Final = 0x86
_DNS: Final = 0x82
_EXTENSIONS: Final = 0xA3


class LeafTemplate:
    """Encodes leaves below one issuer."""

    def __init__(self, issuer: Certificate) -> None:
        key = issuer.public_key
        if not (isinstance(key, ec.EllipticCurvePublicKey) and key.key_size == 256):
            raise InvalidInput(f"CA {issuer.title}: leaf templates need an issuer with a P-256 key")
        self.issuer = issuer
        self._algorithm_and_issuer = ECDSA_SHA256 + issuer.subject
        self._subject = LEAF_SUBJECT.public_bytes()
        key_id = der.encode(0x80, issuer.subject_key_id or key_id_of(issuer.spki))
        authority = der.encode(der.OCTET_STRING, der.encode(der.SEQUENCE, key_id))
        self._authority_key_id = der.encode(der.SEQUENCE, _AUTHORITY_KEY_ID_OID + authority)
        self._fixed_bytes = len(self._algorithm_and_issuer) + len(self._subject) + P256_SPKI_BYTES

    @staticmethod
    def fits(request: SigningRequest) -> bool:
        """Whether a request can take this way: a P-256 key, serial number and subject of the usual form."""
        usual = request.serial.bit_length() <= 8 * SERIAL_BYTES - 1 and not request.common_name
        return usual and is_p256(request.spki)

    def tbs(self, request: SigningRequest) -> bytes:
        """The bytes of a leaf that are to be signed. The request must fit."""
        if not request.spiffe_id.path:
            raise InvalidInput(f"X.509-SVID {request.spiffe_id}: has no path")
        serial = request.serial
        number = der.encode(der.INTEGER, serial.to_bytes(serial.bit_length() // 8 + 1, "big"))
        validity = der.encode_validity(request.window.not_before, request.window.not_after)
        names = _alternative_names(request.spiffe_id, request.dns_names)
        before_serial, before_key_id = _headers(
            self._fixed_bytes + len(number) + len(validity), len(self._authority_key_id) + len(names)
        )
        return b"".join(
            (
                before_serial,
                number,
                self._algorithm_and_issuer,
                validity,
                self._subject,
                request.spki,
                before_key_id,
                key_id_of(request.spki),
                self._authority_key_id,
                names,
            )
        )

    @staticmethod
    def assemble(tbs: bytes, signature: bytes) -> bytes:
        """Puts the signed part, the algorithm and the signature together."""
        bits = der.encode(der.BIT_STRING, b"\x00" + signature)
        return der.encode(der.SEQUENCE, tbs + ECDSA_SHA256 + bits)


@functools.lru_cache(maxsize=1024)
def _headers(field_bytes: int, last_bytes: int) -> tuple[bytes, bytes]:
    """What depends on lengths alone: all before the serial number, and all from the key to its identifier.

    `field_bytes` are those of the fields from serial number to key, `last_bytes` those of the extensions
    after the key's identifier.
    """
    extensions = len(_FIXED_EXTENSIONS) + len(_SUBJECT_KEY_ID_HEAD) + KEY_ID_BYTES + last_bytes
    inner = der.header(der.SEQUENCE, extensions)
    outer = der.header(_EXTENSIONS, len(inner) + extensions)
    body = len(_VERSION_3) + field_bytes + len(outer) + len(inner) + extensions
    before_serial = der.header(der.SEQUENCE, body) + _VERSION_3
    return before_serial, outer + inner + _FIXED_EXTENSIONS + _SUBJECT_KEY_ID_HEAD


@functools.lru_cache(maxsize=8192)
def _alternative_names(spiffe_id: SpiffeId, dns_names: tuple[str, ...]) -> bytes:
    names = der.encode(_URI, str(spiffe_id).encode("ascii"))
    names += b"".join(der.encode(_DNS, check_dns_name(name).encode("ascii")) for name in dns_names)
    value = der.encode(der.OCTET_STRING, der.encode(der.SEQUENCE, names))
    return der.encode(der.SEQUENCE, _ALTERNATIVE_NAME_OID + value)
