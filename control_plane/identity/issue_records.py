"""What the ledger is told of each SVID: before it is signed, and before it leaves. Where that becomes durable
is `journal`'s affair; the form of records is `ledger`'s.
"""

import hashlib
from typing import Final

from control_plane.authority.ports import Order, X509Signer
from control_plane.core.errors import GatehouseError
from control_plane.core.jwt_svid import JwtRequest
from control_plane.core.profile import SigningRequest
from control_plane.core.svid import JwtSvid
from control_plane.identity.issue import JwtIssue, X509Issue
from control_plane.identity.ledger import (
    MAX_FIELD_BYTES,
    JwtRecord,
    X509Intent,
    X509Record,
    X509Withheld,
)

MAX_REASON_CHARACTERS: Final = 1000


def intent_of(order: Order, authority_id: str, now: int) -> X509Intent:
    """What the ledger holds before anything is signed."""
    digest = hashlib.sha256(order.intent).digest()
    return X509Intent(now, order.request.spiffe_id, order.request.serial, digest, authority_id)


def record_of(
    item: X509Issue, request: SigningRequest, certificate: bytes, signer: X509Signer, now: int
) -> X509Record:
    """The record of a leaf that was held against its request."""
    return X509Record(
        now,
        request.spiffe_id,
        request.serial,
        request.window.not_after,
        signer.authority_id,
        item.entry_id,
        str(item.requested_by or ""),
        signer.mark,
        certificate,
    )


def withheld(
    item: X509Issue, certificate: bytes, signer: X509Signer, error: GatehouseError, now: int
) -> X509Withheld:
    """The record of a certificate that isn't what was asked for, and is given to nobody."""
    return X509Withheld(
        at=now,
        spiffe_id=item.spiffe_id,
        authority_id=signer.authority_id,
        entry_id=item.entry_id,
        mark=signer.mark,
        reason=error.message[:MAX_REASON_CHARACTERS],
        digest=hashlib.sha256(certificate).digest(),
        certificate=certificate[:MAX_FIELD_BYTES],
    )


def jwt_record(item: JwtIssue, request: JwtRequest, token: JwtSvid, authority_id: str, now: int) -> JwtRecord:
    """The record of a token; the token itself is a secret, and only its hash is kept."""
    return JwtRecord(
        at=now,
        spiffe_id=item.spiffe_id,
        audience=item.audience,
        expires_at=request.expires_at,
        authority_id=authority_id,
        token_id=request.token_id,
        entry_id=item.entry_id,
        requested_by=str(item.requested_by or ""),
        mark="",
        digest=hashlib.sha256(token.token.encode("ascii")).digest(),
    )
