"""Server messages to values and back, in the few forms that an agent needs.

What comes from the server is read strictly: a part that isn't valid makes the whole message PeerMisbehaved,
named, so that nothing is served from half of it.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from agent.enforcement.news import News, Quarantine
from agent.ports import RenewEarly, ReportsWanted
from control_plane.core.bundle import Bundle, JwtAuthority, X509Authority
from control_plane.core.entry import Entry
from control_plane.core.errors import (
    Code,
    GatehouseError,
    InvalidInput,
    NotFound,
    PeerMisbehaved,
    PermissionDenied,
    Unavailable,
)
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.proto.gatehouse.node.v1.node_pb2 import WatchResponse
from control_plane.proto.spire.api.types.bundle_pb2 import Bundle as BundleMessage
from control_plane.proto.spire.api.types.entry_pb2 import Entry as EntryMessage
from control_plane.proto.spire.api.types.entry_pb2 import EntryMask
from control_plane.proto.spire.api.types.selector_pb2 import Selector as SelectorMessage
from control_plane.proto.spire.api.types.spiffeid_pb2 import SPIFFEID
from control_plane.proto.spire.api.types.status_pb2 import Status

ENTRY_MASK = EntryMask(
    spiffe_id=True,
    parent_id=True,
    selectors=True,
    x509_svid_ttl=True,
    federates_with=True,
    expires_at=True,
    dns_names=True,
    revision_number=True,
    store_svid=True,
    hint=True,
    created_at=True,
    additional_attributes=True,
)

MAX_EARLY_SECONDS: Final = 86_400


def spiffe_id(message: SPIFFEID) -> SpiffeId:
    """From trust domain and path."""
    return SpiffeId(TrustDomain(message.trust_domain), message.path)


def entry(message: EntryMessage, priority: int = 0) -> Entry:
    """One registration entry. Raises PeerMisbehaved."""
    try:
        return Entry(
            id=message.id,
            spiffe_id=spiffe_id(message.spiffe_id),
            parent_id=spiffe_id(message.parent_id),
            selectors=frozenset(Selector(selector.type, selector.value) for selector in message.selectors),
            x509_svid_ttl_seconds=message.x509_svid_ttl,
            jwt_svid_ttl_seconds=message.jwt_svid_ttl,
            federates_with=tuple(TrustDomain.parse(name) for name in message.federates_with),
            hint=message.hint,
            dns_names=tuple(message.dns_names),
            store_svid=message.store_svid,
            expires_at=message.expires_at,
            priority=priority,
            disable_x509_svid_prefetch=message.additional_attributes.disable_x509_svid_prefetch,
            jwt_svid_include_jti=message.additional_attributes.jwt_svid_include_jti,
            revision=message.revision_number,
            created_at=message.created_at,
        )
    except InvalidInput as error:
        raise PeerMisbehaved(f"entry {message.id!r} as the server sent it: {error}") from error


def entries(
    messages: Iterable[EntryMessage], priorities: Mapping[str, int] | None = None
) -> tuple[Entry, ...]:
    """Several entries. An entry without selectors would match everything, so it is refused."""
    values = tuple(entry(message, (priorities or {}).get(message.id, 0)) for message in messages)
    for value in values:
        if not value.id or not value.selectors:
            raise PeerMisbehaved(f"entry {value.id!r} as the server sent it has no ID or no selectors")
    return values


def bundle(message: BundleMessage) -> Bundle:
    """One trust bundle with taints. Raises PeerMisbehaved."""
    try:
        return Bundle(
            TrustDomain.parse(message.trust_domain),
            tuple(
                X509Authority.parse(authority.asn1, tainted=authority.tainted)
                for authority in message.x509_authorities
            ),
            tuple(
                JwtAuthority(key.key_id, key.public_key, key.expires_at, key.tainted)
                for key in message.jwt_authorities
            ),
            message.sequence_number,
            message.refresh_hint,
        )
    except InvalidInput as error:
        raise PeerMisbehaved(f"bundle of {message.trust_domain!r} as the server sent it: {error}") from error


def selector_messages(selectors: Iterable[Selector]) -> list[SelectorMessage]:
    """In order, so that two replies can be compared."""
    return [SelectorMessage(type=selector.type, value=selector.value) for selector in sorted(selectors)]


def error_of(status: Status, what: str) -> GatehouseError:
    """The error that an item of a batch was answered with."""
    text = f"{what}: {status.message or 'refused without a reason'}"
    if status.code == Code.NOT_FOUND:
        return NotFound(text)
    if status.code == Code.PERMISSION_DENIED:
        return PermissionDenied(text)
    if status.code == Code.INVALID_ARGUMENT:
        return InvalidInput(text)
    return Unavailable(text)


def news(message: WatchResponse) -> News:
    """What a push says about enforcement. Raises PeerMisbehaved; a signature is checked where it is used."""
    quarantine = None
    if message.HasField("quarantine"):
        try:
            cut_off = frozenset(SpiffeId.parse(one) for one in message.quarantine.spiffe_ids)
        except InvalidInput as error:
            raise PeerMisbehaved(f"the server's list of who is quarantined: {error.message}") from error
        quarantine = Quarantine(message.quarantine.revision, cut_off)
    return News(
        keys={key.key_id: key.public_key for key in message.policy_keys} or None,
        policy=message.policy if message.HasField("policy") else None,
        quarantine=quarantine,
        trace=message.policy_traceparent,
        quarantine_trace=message.quarantine.traceparent,
    )


def wanted(message: WatchResponse) -> ReportsWanted | None:
    """What a push says of reports; a new stream that doesn't mention them wants none."""
    if not message.HasField("decisions_wanted"):
        return ReportsWanted() if message.full else None
    return ReportsWanted(message.decisions_wanted.canary, message.decisions_wanted.interval_seconds)


def early(message: WatchResponse) -> RenewEarly | None:
    """What a push says of renewals ahead of time. A span of more than a day is taken for a day."""
    if not message.HasField("renew_early"):
        return None
    asked = message.renew_early
    return RenewEarly(frozenset(asked.issuer_key_ids), min(asked.within_seconds, MAX_EARLY_SECONDS))
