"""The filters of ListEntries and CountEntries, as one condition and the narrowest place to look."""

from collections.abc import Callable, Iterator

from control_plane.core.entry import Entry, check_member, check_unreserved
from control_plane.core.errors import InvalidInput
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.identity.index import Index
from control_plane.identity.matching import SetMatch, matches
from control_plane.proto.convert import selectors_from_messages, spiffe_id_from_message
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2 as wire

Filter = wire.ListEntriesRequest.Filter | wire.CountEntriesRequest.Filter


def candidates(
    filter_: Filter, index: Index, trust_domain: TrustDomain, *, after: str = ""
) -> Iterator[Entry]:
    """Entries that pass the filter, in order of ID, beginning behind `after`. Raises InvalidInput, also for
    an ID that no entry can have: a mistyped trust domain isn't answered by an empty list."""
    spiffe_id, parent_id = _identities(filter_, trust_domain)
    condition = _condition(filter_, spiffe_id, parent_id)
    if spiffe_id is not None:
        few = index.entries_of(spiffe_id)
    elif parent_id is not None:
        few = index.children_of(parent_id)
    else:
        return (entry for entry in index.entries_after(after) if condition(entry))
    few = sorted((entry for entry in few if entry.id > after and condition(entry)), key=lambda e: e.id)
    return iter(few)


def _identities(filter_: Filter, trust_domain: TrustDomain) -> tuple[SpiffeId | None, SpiffeId | None]:
    """SPIFFE ID and parent ID that are asked for, None for what isn't."""
    spiffe_id = parent_id = None
    if filter_.HasField("by_spiffe_id"):
        spiffe_id = spiffe_id_from_message(filter_.by_spiffe_id, what="by_spiffe_id")
        check_member(spiffe_id, trust_domain, "by_spiffe_id:")
        check_unreserved(spiffe_id, "by_spiffe_id:")
    if filter_.HasField("by_parent_id"):
        parent_id = spiffe_id_from_message(filter_.by_parent_id, what="by_parent_id")
        check_member(parent_id, trust_domain, "by_parent_id:")
    return spiffe_id, parent_id


def _condition(
    filter_: Filter, spiffe_id: SpiffeId | None, parent_id: SpiffeId | None
) -> Callable[[Entry], bool]:
    conditions: list[Callable[[Entry], bool]] = []
    if spiffe_id is not None:
        conditions.append(lambda entry: entry.spiffe_id == spiffe_id)
    if parent_id is not None:
        conditions.append(lambda entry: entry.parent_id == parent_id)
    if filter_.HasField("by_selectors"):
        selectors = selectors_from_messages(filter_.by_selectors.selectors)
        if not selectors:
            raise InvalidInput("by_selectors: holds no selector")
        by_selectors = SetMatch.parse(filter_.by_selectors.match, what="by_selectors")
        conditions.append(lambda entry: matches(entry.selectors, selectors, by_selectors))
    if filter_.HasField("by_federates_with"):
        domains = frozenset(TrustDomain.parse(name) for name in filter_.by_federates_with.trust_domains)
        if not domains:
            raise InvalidInput("by_federates_with: holds no trust domain")
        by_domains = SetMatch.parse(filter_.by_federates_with.match, what="by_federates_with")
        conditions.append(lambda entry: matches(frozenset(entry.federates_with), domains, by_domains))
    # Empty and false are none, as at SPIRE, whose command line sends them when nobody asked.
    if filter_.by_hint.value:
        conditions.append(lambda entry: entry.hint == filter_.by_hint.value)
    if filter_.by_downstream.value:
        conditions.append(lambda entry: entry.downstream)
    return lambda entry: all(condition(entry) for condition in conditions)
