"""The filters of ListEntries and CountEntries, as one condition and the narrowest place to look."""

from collections.abc import Callable, Iterator

from control_plane.core.entry import Entry
from control_plane.core.errors import InvalidInput
from control_plane.core.spiffe_id import TrustDomain
from control_plane.identity.index import Index
from control_plane.identity.matching import SetMatch, matches
from control_plane.proto.convert import selectors_from_messages, spiffe_id_from_message
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2 as wire

Filter = wire.ListEntriesRequest.Filter | wire.CountEntriesRequest.Filter


def candidates(filter_: Filter, index: Index, after: str) -> Iterator[Entry]:
    """Entries that pass the filter, in order of ID, beginning behind `after`. Raises InvalidInput."""
    condition = _condition(filter_)
    if filter_.HasField("by_spiffe_id"):
        few = index.entries_of(spiffe_id_from_message(filter_.by_spiffe_id, what="by_spiffe_id"))
    elif filter_.HasField("by_parent_id"):
        few = index.children_of(spiffe_id_from_message(filter_.by_parent_id, what="by_parent_id"))
    else:
        return (entry for entry in index.entries_after(after) if condition(entry))
    few = sorted((entry for entry in few if entry.id > after and condition(entry)), key=lambda e: e.id)
    return iter(few)


def _condition(filter_: Filter) -> Callable[[Entry], bool]:
    conditions: list[Callable[[Entry], bool]] = []
    if filter_.HasField("by_spiffe_id"):
        spiffe_id = spiffe_id_from_message(filter_.by_spiffe_id, what="by_spiffe_id")
        conditions.append(lambda entry: entry.spiffe_id == spiffe_id)
    if filter_.HasField("by_parent_id"):
        parent_id = spiffe_id_from_message(filter_.by_parent_id, what="by_parent_id")
        conditions.append(lambda entry: entry.parent_id == parent_id)
    if filter_.HasField("by_selectors"):
        selectors = selectors_from_messages(filter_.by_selectors.selectors)
        if not selectors:
            raise InvalidInput("by_selectors: holds no selector")
        by_selectors = SetMatch(filter_.by_selectors.match)
        conditions.append(lambda entry: matches(entry.selectors, selectors, by_selectors))
    if filter_.HasField("by_federates_with"):
        domains = frozenset(TrustDomain.parse(name) for name in filter_.by_federates_with.trust_domains)
        if not domains:
            raise InvalidInput("by_federates_with: holds no trust domain")
        by_domains = SetMatch(filter_.by_federates_with.match)
        conditions.append(lambda entry: matches(frozenset(entry.federates_with), domains, by_domains))
    if filter_.HasField("by_hint"):
        conditions.append(lambda entry: entry.hint == filter_.by_hint.value)
    if filter_.HasField("by_downstream"):
        conditions.append(lambda entry: entry.downstream == filter_.by_downstream.value)
    return lambda entry: all(condition(entry) for condition in conditions)
