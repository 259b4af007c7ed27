"""Bundles between the wire, the kernel's value and JSON."""

from __future__ import annotations

import hashlib
from typing import Any

from control_plane.core.bundle import Bundle, JwtAuthority, X509Authority
from control_plane.core.spiffe_id import TrustDomain
from control_plane.proto.spire.api.types import bundle_pb2


def bundle_value(message: bundle_pb2.Bundle) -> Bundle:
    """A bundle off the wire. Raises `InvalidInput` when it cannot be one."""
    return Bundle(
        trust_domain=TrustDomain.parse(message.trust_domain.removeprefix("spiffe://")),
        x509_authorities=tuple(
            X509Authority.parse(each.asn1, tainted=each.tainted) for each in message.x509_authorities
        ),
        jwt_authorities=tuple(
            JwtAuthority(each.key_id, each.public_key, each.expires_at, each.tainted)
            for each in message.jwt_authorities
        ),
        sequence=message.sequence_number,
        refresh_hint_seconds=message.refresh_hint,
    )


def federated_message(bundle: Bundle) -> bundle_pb2.Bundle:
    """A federated bundle as the server takes it: nothing in it is tainted by us."""
    return bundle_pb2.Bundle(
        trust_domain=bundle.trust_domain.name,
        x509_authorities=[
            bundle_pb2.X509Certificate(asn1=each.certificate) for each in bundle.x509_authorities
        ],
        jwt_authorities=[
            bundle_pb2.JWTKey(public_key=each.public_key, key_id=each.key_id, expires_at=each.expires_at)
            for each in bundle.jwt_authorities
        ],
        refresh_hint=bundle.refresh_hint_seconds,
        sequence_number=bundle.sequence,
    )


def bundle_json(bundle: Bundle) -> dict[str, Any]:
    """A bundle as commands print it: what identifies its authorities, and the whole as PEM."""
    return {
        "trust_domain": bundle.trust_domain.name,
        "sequence": bundle.sequence,
        "refresh_hint_seconds": bundle.refresh_hint_seconds,
        "x509_authorities": [
            {
                "subject_key_id": each.subject_key_id,
                "sha256": hashlib.sha256(each.certificate).hexdigest(),
                "tainted": each.tainted,
            }
            for each in bundle.x509_authorities
        ],
        "jwt_authorities": [
            {"key_id": each.key_id, "expires_at": each.expires_at, "tainted": each.tainted}
            for each in bundle.jwt_authorities
        ],
        "pem": bundle.to_pem(),
    }
