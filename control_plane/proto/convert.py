"""Messages of the wire to values of the kernel and back, and field masks.

Reading checks: what comes back from `…_from_message` is a valid value or an InvalidInput that names the
field. Writing never fails. Nothing is decided here; what a caller may set or see is the services' business.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

from google.protobuf.message import Message

from control_plane.core.bundle import Bundle, JwtAuthority, X509Authority
from control_plane.core.entry import Entry
from control_plane.core.errors import Code, GatehouseError, InvalidInput
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.core.svid import JwtSvid, X509Svid
from control_plane.proto.spire.api.server.entry.v1.entry_pb2 import EntryRevision
from control_plane.proto.spire.api.types import bundle_pb2, entry_pb2
from control_plane.proto.spire.api.types.jwtsvid_pb2 import JWTSVID
from control_plane.proto.spire.api.types.selector_pb2 import Selector as SelectorMessage
from control_plane.proto.spire.api.types.spiffeid_pb2 import SPIFFEID
from control_plane.proto.spire.api.types.status_pb2 import Status
from control_plane.proto.spire.api.types.x509svid_pb2 import X509SVID

M = TypeVar("M", bound=Message)


# Identities and selectors.


def spiffe_id_to_message(spiffe_id: SpiffeId) -> SPIFFEID:
    return SPIFFEID(trust_domain=spiffe_id.trust_domain.name, path=spiffe_id.path)


def spiffe_id_from_message(message: SPIFFEID, *, what: str = "SPIFFE ID") -> SpiffeId:
    """Raises InvalidInput, naming `what`, when the message is empty or no SPIFFE ID."""
    if not message.trust_domain:
        raise InvalidInput(f"{what}: the trust domain is missing")
    # A path without its leading slash would otherwise become part of the trust domain.
    if message.path and not message.path.startswith("/"):
        raise InvalidInput(f"{what}: the path must start with a slash")
    trust_domain = TrustDomain.parse(message.trust_domain)
    return SpiffeId.parse(f"spiffe://{trust_domain.name}{message.path}")


def selectors_to_messages(selectors: Iterable[Selector]) -> list[SelectorMessage]:
    """In the order of type and value, so that equal sets look equal."""
    return [SelectorMessage(type=selector.type, value=selector.value) for selector in sorted(selectors)]


def selectors_from_messages(messages: Iterable[SelectorMessage]) -> frozenset[Selector]:
    """Raises InvalidInput for a selector that isn't one; a repeated one counts once."""
    return frozenset(Selector(message.type, message.value) for message in messages)


# Registration entries.


def entry_to_message(entry: Entry, mask: entry_pb2.EntryMask | None = None) -> entry_pb2.Entry:
    """The message of an entry: its ID and the fields that `mask` selects; None selects all."""
    message = entry_pb2.Entry(
        id=entry.id,
        spiffe_id=spiffe_id_to_message(entry.spiffe_id),
        parent_id=spiffe_id_to_message(entry.parent_id),
        selectors=selectors_to_messages(entry.selectors),
        x509_svid_ttl=entry.x509_svid_ttl_seconds,
        jwt_svid_ttl=entry.jwt_svid_ttl_seconds,
        federates_with=[trust_domain.name for trust_domain in entry.federates_with],
        hint=entry.hint,
        dns_names=entry.dns_names,
        admin=entry.admin,
        downstream=entry.downstream,
        store_svid=entry.store_svid,
        expires_at=entry.expires_at,
        revision_number=entry.revision,
        created_at=entry.created_at,
    )
    if entry.disable_x509_svid_prefetch or entry.jwt_svid_include_jti:
        message.additional_attributes.disable_x509_svid_prefetch = entry.disable_x509_svid_prefetch
        message.additional_attributes.jwt_svid_include_jti = entry.jwt_svid_include_jti
    return masked(message, mask)


def entry_from_message(message: entry_pb2.Entry, *, priority: int = 0) -> Entry:
    """The entry that a message describes. `priority` travels beside the message: SPIRE has none.

    Raises InvalidInput for what the kernel's rules of entries refuse.
    """
    additional = message.additional_attributes
    entry = Entry(
        id=message.id,
        spiffe_id=spiffe_id_from_message(message.spiffe_id),
        parent_id=spiffe_id_from_message(message.parent_id, what="parent ID"),
        selectors=selectors_from_messages(message.selectors),
        x509_svid_ttl_seconds=message.x509_svid_ttl,
        jwt_svid_ttl_seconds=message.jwt_svid_ttl,
        federates_with=_trust_domains(message.federates_with),
        hint=message.hint,
        dns_names=tuple(message.dns_names),
        admin=message.admin,
        downstream=message.downstream,
        store_svid=message.store_svid,
        expires_at=message.expires_at,
        priority=priority,
        disable_x509_svid_prefetch=additional.disable_x509_svid_prefetch,
        jwt_svid_include_jti=additional.jwt_svid_include_jti,
        revision=message.revision_number,
        created_at=message.created_at,
    )
    entry.check_fields()
    return entry


def update_entry(entry: Entry, message: entry_pb2.Entry, mask: entry_pb2.EntryMask | None) -> Entry:
    """`entry` with the fields that `mask` selects taken from `message`; None takes all.

    ID, revision and creation time belong to the registry and stay. Raises InvalidInput for the result's sake.
    """
    changes: dict[str, Any] = {}
    for name in _ENTRY_FIELDS if mask is None else [field for field in _ENTRY_FIELDS if getattr(mask, field)]:
        changes.update(_entry_field(name, message))
    updated = replace(entry, **changes)
    updated.check_fields()
    return updated


def revision_to_message(entry: Entry) -> EntryRevision:
    return EntryRevision(id=entry.id, revision_number=entry.revision, created_at=entry.created_at)


# Bundles.


def bundle_to_message(bundle: Bundle, mask: bundle_pb2.BundleMask | None = None) -> bundle_pb2.Bundle:
    """The message of a bundle, with the fields that `mask` selects; None selects all."""
    message = bundle_pb2.Bundle(
        trust_domain=bundle.trust_domain.name,
        x509_authorities=[
            bundle_pb2.X509Certificate(asn1=authority.certificate, tainted=authority.tainted)
            for authority in bundle.x509_authorities
        ],
        jwt_authorities=[jwt_authority_to_message(authority) for authority in bundle.jwt_authorities],
        refresh_hint=bundle.refresh_hint_seconds,
        sequence_number=bundle.sequence,
    )
    return masked(message, mask)


def bundle_from_message(message: bundle_pb2.Bundle) -> Bundle:
    """Raises InvalidInput when the trust domain or an authority can't be read."""
    if message.refresh_hint < 0:
        raise InvalidInput(
            f"bundle of {message.trust_domain}: refresh hint {message.refresh_hint} is negative"
        )
    return Bundle(
        trust_domain=TrustDomain.parse(message.trust_domain),
        x509_authorities=tuple(
            X509Authority.parse(certificate.asn1, tainted=certificate.tainted)
            for certificate in message.x509_authorities
        ),
        jwt_authorities=tuple(jwt_authority_from_message(key) for key in message.jwt_authorities),
        sequence=message.sequence_number,
        refresh_hint_seconds=message.refresh_hint,
    )


def jwt_authority_to_message(authority: JwtAuthority) -> bundle_pb2.JWTKey:
    return bundle_pb2.JWTKey(
        public_key=authority.public_key,
        key_id=authority.key_id,
        expires_at=authority.expires_at,
        tainted=authority.tainted,
    )


def jwt_authority_from_message(message: bundle_pb2.JWTKey) -> JwtAuthority:
    """Raises InvalidInput when the key or its ID is missing."""
    if not message.key_id:
        raise InvalidInput("JWT authority: the key ID is missing")
    if not message.public_key:
        raise InvalidInput("JWT authority: the public key is missing")
    return JwtAuthority(message.key_id, message.public_key, message.expires_at, message.tainted)


# SVIDs and results.


def x509_svid_to_message(svid: X509Svid, *, hint: str = "") -> X509SVID:
    return X509SVID(
        cert_chain=svid.chain, id=spiffe_id_to_message(svid.spiffe_id), expires_at=svid.not_after, hint=hint
    )


def jwt_svid_to_message(svid: JwtSvid, *, hint: str = "") -> JWTSVID:
    return JWTSVID(
        token=svid.token,
        id=spiffe_id_to_message(svid.spiffe_id),
        expires_at=svid.expires_at,
        issued_at=svid.issued_at,
        hint=hint,
    )


def status_to_message(error: GatehouseError | None) -> Status:
    """The result of one item of a batch: what went wrong, or OK."""
    if error is None:
        return Status(code=int(Code.OK), message="OK")
    return Status(code=int(error.code), message=str(error))


# Masks.


def mask_of(request: Message, field: str = "output_mask") -> Any | None:
    """The mask in a request, None when it isn't there: an absent mask means every field."""
    return getattr(request, field) if request.HasField(field) else None


def masked(message: M, mask: Message | None) -> M:
    """Clears the fields of `message` that `mask` knows and doesn't select, and returns the same message.

    What the mask doesn't know (IDs, the trust domain) stays. None selects everything.
    """
    if mask is not None:
        for field in mask.DESCRIPTOR.fields:
            if not getattr(mask, field.name):
                message.ClearField(field.name)
    return message


def _trust_domains(names: Iterable[str]) -> tuple[TrustDomain, ...]:
    return tuple(dict.fromkeys(TrustDomain.parse(name) for name in names))


def _entry_field(name: str, message: entry_pb2.Entry) -> dict[str, Any]:
    """One field of the message under the names of the value."""
    if name == "spiffe_id":
        return {name: spiffe_id_from_message(message.spiffe_id)}
    if name == "parent_id":
        return {name: spiffe_id_from_message(message.parent_id, what="parent ID")}
    if name == "selectors":
        return {name: selectors_from_messages(message.selectors)}
    if name == "federates_with":
        return {name: _trust_domains(message.federates_with)}
    if name == "additional_attributes":
        attributes = message.additional_attributes
        return {
            "disable_x509_svid_prefetch": attributes.disable_x509_svid_prefetch,
            "jwt_svid_include_jti": attributes.jwt_svid_include_jti,
        }
    if name == "dns_names":
        return {name: tuple(message.dns_names)}
    return {_ENTRY_NAMES.get(name, name): getattr(message, name)}


_ENTRY_NAMES = {"x509_svid_ttl": "x509_svid_ttl_seconds", "jwt_svid_ttl": "jwt_svid_ttl_seconds"}
_ENTRY_FIELDS = [
    field.name
    for field in entry_pb2.EntryMask.DESCRIPTOR.fields
    if field.name not in ("revision_number", "created_at")
]
