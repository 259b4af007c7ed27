"""Federated bundles and additions to our own in SQL: functions of a connection."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from sqlalchemy import Connection, delete, insert, select

from control_plane.core.bundle import Bundle
from control_plane.core.errors import AlreadyExists, GatehouseError, NotFound
from control_plane.core.spiffe_id import TrustDomain
from control_plane.identity.ports import BundleOutcome, DeleteMode, EntryUpdate
from control_plane.identity.storage_rules import appended, federated_entries_error
from control_plane.sql import change_queries, entry_queries
from control_plane.sql.rows import bundle_row, read_bundle
from control_plane.sql.tables import bundles


def find(connection: Connection, trust_domain: TrustDomain) -> Bundle | None:
    """The stored bundle."""
    wanted = select(bundles).where(bundles.c.trust_domain == trust_domain.name)
    row = connection.execute(wanted).mappings().one_or_none()
    return None if row is None else read_bundle(row)


def create(connection: Connection, batch: Sequence[Bundle]) -> list[BundleOutcome]:
    """See ports.FederatedBundles.create_bundles."""
    outcomes = []
    for bundle in batch:
        stored = find(connection, bundle.trust_domain)
        if stored is not None:
            error = AlreadyExists(f"bundle of {bundle.trust_domain} exists already")
            outcomes.append(BundleOutcome(stored, error))
        else:
            outcomes.append(_put(connection, bundle))
    return outcomes


def change(
    connection: Connection, updates: Sequence[tuple[TrustDomain, Callable[[Bundle], Bundle]]]
) -> list[BundleOutcome]:
    """See ports.FederatedBundles.update_bundles."""
    outcomes = []
    for trust_domain, how in updates:
        stored = find(connection, trust_domain)
        try:
            if stored is None:
                raise NotFound(f"bundle of {trust_domain} doesn't exist")
            outcomes.append(_put(connection, how(stored)))
        except GatehouseError as error:
            outcomes.append(BundleOutcome(None, error))
    return outcomes


def put(connection: Connection, batch: Sequence[Bundle]) -> list[BundleOutcome]:
    """See ports.FederatedBundles.set_bundles."""
    return [_put(connection, bundle) for bundle in batch]


def remove(
    connection: Connection, trust_domains: Sequence[TrustDomain], mode: DeleteMode
) -> list[BundleOutcome]:
    """See ports.FederatedBundles.delete_bundles."""
    outcomes = []
    for trust_domain in trust_domains:
        stored = find(connection, trust_domain)
        try:
            if stored is None:
                raise NotFound(f"bundle of {trust_domain} doesn't exist")
            _release(connection, trust_domain, mode)
        except GatehouseError as error:
            outcomes.append(BundleOutcome(None, error))
            continue
        connection.execute(delete(bundles).where(bundles.c.trust_domain == trust_domain.name))
        change_queries.record(connection, "bundle", [trust_domain.name])
        outcomes.append(BundleOutcome(stored))
    return outcomes


def append_to_own(connection: Connection, additions: Bundle) -> Bundle:
    """See ports.FederatedBundles.append_to_own."""
    own = find(connection, additions.trust_domain) or Bundle(additions.trust_domain)
    grown = appended(own, additions)
    if grown != own:
        _store(connection, grown)
        change_queries.record(connection, "authority", [""])
    return grown


def _put(connection: Connection, bundle: Bundle) -> BundleOutcome:
    _store(connection, bundle)
    change_queries.record(connection, "bundle", [bundle.trust_domain.name])
    return BundleOutcome(bundle)


def _store(connection: Connection, bundle: Bundle) -> None:
    connection.execute(delete(bundles).where(bundles.c.trust_domain == bundle.trust_domain.name))
    connection.execute(insert(bundles), bundle_row(bundle))


def _release(connection: Connection, trust_domain: TrustDomain, mode: DeleteMode) -> None:
    tied = entry_queries.federating_with(connection, trust_domain)
    if tied and mode is DeleteMode.RESTRICT:
        raise federated_entries_error(trust_domain, len(tied))
    if mode is DeleteMode.DELETE:
        entry_queries.remove(connection, [entry.id for entry in tied])
    if mode is DeleteMode.DISSOCIATE:
        for entry in tied:
            kept = tuple(name for name in entry.federates_with if name != trust_domain)
            update = EntryUpdate(entry.id, lambda stored, kept=kept: replace(stored, federates_with=kept))  # type: ignore[misc]
            entry_queries.change(connection, [update])
