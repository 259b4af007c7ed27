"""The authorities' state as JSON text, for whatever stores it. Holds certificates and names of keys, no keys.

The form has a version; a reader refuses what it doesn't know rather than to forget an authority. Fields may
be added with a default, never change their meaning; those that hold nothing are left out, so that a server
of the version before can read what it would understand.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, Final

from control_plane.authority.state import (
    AuthorityState,
    CutOff,
    IssuingCa,
    JwtSlot,
    Status,
    Upstream,
    X509Slot,
)
from control_plane.core.errors import Corrupt, InvalidInput
from control_plane.core.spiffe_id import TrustDomain
from control_plane.core.strict_json import load_object

FORM: Final = 1
MAX_STATE_BYTES: Final = 8 << 20

_BINARY: Final = frozenset({"root", "certificate", "public_key"})
_ADDED: Final = frozenset({"upstream", "retired_at", "cut_off"})  # since the first release of the form


def dump(state: AuthorityState) -> str:
    """Writes a state."""
    return json.dumps(
        {
            "form": FORM,
            "trust_domain": state.trust_domain.name,
            "bundle_sequence": state.bundle_sequence,
            "x509": [_written(slot) for slot in state.x509],
            "jwt": [_written(slot) for slot in state.jwt],
        }
    )


def parse(text: str | bytes) -> AuthorityState:
    """Reads a state. Raises Corrupt: we wrote it, so nobody but us or the storage can be at fault."""
    try:
        document: Mapping[str, Any] = load_object(text, "authority state", MAX_STATE_BYTES)
        if document["form"] != FORM:
            raise Corrupt(
                f"authority state: is in form {document['form']!r}, this version reads form {FORM}",
                hint="run the version that wrote it, or a newer one",
            )
        return AuthorityState(
            trust_domain=TrustDomain(document["trust_domain"]),
            x509=tuple(_x509_slot(slot) for slot in document["x509"]),
            jwt=tuple(JwtSlot(**_read(slot)) for slot in document["jwt"]),
            bundle_sequence=document["bundle_sequence"],
        )
    except (KeyError, TypeError, ValueError, binascii.Error, InvalidInput) as error:
        raise Corrupt(
            f"authority state of {len(text)} bytes: can't be read back",
            hint="restore the database from a backup",
        ) from error


def _written(value: X509Slot | JwtSlot | IssuingCa) -> dict[str, object]:
    members: dict[str, object] = {}
    for field in fields(value):
        content = getattr(value, field.name)
        if field.name in _ADDED and not content:
            continue
        if isinstance(content, bytes):
            content = _text(content)
        elif isinstance(content, IssuingCa):
            content = _written(content)
        elif isinstance(content, CutOff):
            content = asdict(content)
        elif isinstance(content, Upstream):
            content = {"issuer_id": content.issuer_id, "chain": [_text(one) for one in content.chain]}
        members[field.name] = content
    return members


def _x509_slot(document: Mapping[str, Any]) -> X509Slot:
    members = _read(document)
    issuing = _read(members["issuing"])
    if "upstream" in issuing:
        upstream = issuing["upstream"]
        chain = tuple(base64.b64decode(one, validate=True) for one in upstream["chain"])
        issuing["upstream"] = Upstream(upstream["issuer_id"], chain)
    return X509Slot(**{**members, "issuing": IssuingCa(**issuing)})


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _read(document: Mapping[str, Any]) -> dict[str, Any]:
    members = dict(document)
    for name in _BINARY & members.keys():
        members[name] = base64.b64decode(members[name], validate=True)
    if "status" in members:
        members["status"] = Status(members["status"])
    if "cut_off" in members:
        members["cut_off"] = CutOff(**members["cut_off"])
    return members
