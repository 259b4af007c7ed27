"""The reply of BatchNewX509SVID, written as bytes: the one message where building objects showed in the bill.

Protobuf's wire format is length-prefixed fields, so a reply is a concatenation: what is the same for every
SVID (status, issuing certificates) is written once. A test holds it against the generated classes. Failures,
which are rare, go through those classes.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from control_plane.core.errors import GatehouseError
from control_plane.core.spiffe_id import SpiffeId
from control_plane.core.svid import X509Svid
from control_plane.proto.convert import spiffe_id_to_message, status_to_message
from control_plane.proto.spire.api.server.svid.v1 import svid_pb2 as wire

# Tags: field number and wire type (2: length-prefixed, 0: number).
_RESULTS: Final = b"\x0a"  # BatchNewX509SVIDResponse.results = 1
_STATUS: Final = b"\x0a"  # Result.status = 1
_SVID: Final = b"\x12"  # Result.svid = 2
_CERT_CHAIN: Final = b"\x0a"  # X509SVID.cert_chain = 1
_ID: Final = b"\x12"  # X509SVID.id = 2
_EXPIRES_AT: Final = b"\x18"  # X509SVID.expires_at = 3


def batch_reply(outcomes: Iterable[X509Svid | GatehouseError]) -> bytes:
    """A serialised BatchNewX509SVIDResponse, one result for each outcome, in order."""
    parts: list[bytes] = []
    for outcome in outcomes:
        if isinstance(outcome, GatehouseError):
            result = wire.BatchNewX509SVIDResponse.Result(status=status_to_message(outcome))
            body = result.SerializeToString()
        else:
            body = _STATUS_OK + _field(_SVID, _svid(outcome))
        parts += (_RESULTS, _varint(len(body)), body)
    return b"".join(parts)


def _svid(svid: X509Svid) -> bytes:
    leaf = svid.chain[0]
    return b"".join(
        (
            _CERT_CHAIN,
            _varint(len(leaf)),
            leaf,
            _issuers(svid.chain[1:]),
            _id(svid.spiffe_id),
            _EXPIRES_AT,
            _varint(svid.not_after),
        )
    )


@lru_cache(maxsize=64)
def _issuers(certificates: tuple[bytes, ...]) -> bytes:
    return b"".join(_field(_CERT_CHAIN, certificate) for certificate in certificates)


@lru_cache(maxsize=10_000)
def _id(spiffe_id: SpiffeId) -> bytes:
    return _field(_ID, spiffe_id_to_message(spiffe_id).SerializeToString())


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + _varint(len(content)) + content


@lru_cache(maxsize=8192)
def _varint(number: int) -> bytes:
    """Base 128, least significant group first (protobuf encoding, "Base 128 Varints")."""
    if number < 0x80:
        return bytes((number,))
    groups = bytearray()
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


_STATUS_OK: Final = _field(_STATUS, status_to_message(None).SerializeToString())
