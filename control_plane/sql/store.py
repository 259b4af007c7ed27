"""All storage ports of identity over SQLite: hands each call to the SQL thread as one transaction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from control_plane.core.bundle import Bundle
from control_plane.core.entry import Entry
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.identity.agent_record import AgentRecord
from control_plane.identity.ports import (
    BundleOutcome,
    ChangeSet,
    DeleteMode,
    EntryOutcome,
    EntryUpdate,
    JoinToken,
)
from control_plane.identity.quarantine import Quarantined
from control_plane.sql import (
    agent_queries,
    bundle_queries,
    change_queries,
    entry_queries,
    quarantine_queries,
)
from control_plane.sql.database import open_engine
from control_plane.sql.thread import SqlThread


class SqlStore:
    """Implements `ports.Store`. `database.prepare` must have run on the file."""

    def __init__(self, path: Path, trust_domain: TrustDomain, random_bytes: Callable[[int], bytes]) -> None:
        self._trust_domain = trust_domain
        self._random_bytes = random_bytes
        self._callbacks: list[Callable[[], None]] = []
        self.thread = SqlThread(open_engine(path), self._notify)
        self.thread.start()

    async def close(self) -> None:
        """Ends the SQL thread after what is queued."""
        await self.thread.close()

    async def create_entries(self, entries: Sequence[Entry], now: int) -> list[EntryOutcome]:
        return await self.thread.write(
            "creating registration entries",
            lambda connection: entry_queries.create(connection, entries, now, self._random_bytes),
        )

    async def update_entries(self, updates: Sequence[EntryUpdate]) -> list[EntryOutcome]:
        return await self.thread.write(
            "updating registration entries", lambda connection: entry_queries.change(connection, updates)
        )

    async def delete_entries(self, ids: Sequence[str]) -> list[EntryOutcome]:
        return await self.thread.write(
            "deleting registration entries", lambda connection: entry_queries.remove(connection, ids)
        )

    async def prune_entries(self, expired_before: int, limit: int) -> list[Entry]:
        return await self.thread.write(
            "pruning registration entries",
            lambda connection: entry_queries.prune(connection, expired_before, limit),
        )

    async def record_attestation(self, agent: AgentRecord) -> None:
        await self.thread.write(
            f"recording the attestation of {agent.id}",
            lambda connection: agent_queries.record_attestation(connection, agent),
        )

    async def record_renewal(self, agent_id: SpiffeId, new_serial: int, new_expires_at: int) -> None:
        await self.thread.write(
            f"recording the renewal of {agent_id}",
            lambda connection: agent_queries.change(
                connection,
                agent_id,
                lambda agent: replace(agent, new_serial=new_serial, new_expires_at=new_expires_at),
            ),
        )

    async def promote(self, agent_id: SpiffeId, serial: int) -> AgentRecord:
        return await self.thread.write(
            f"promoting the new certificate of {agent_id}",
            lambda connection: agent_queries.promote(connection, agent_id, serial),
        )

    async def ban(self, agent_id: SpiffeId) -> None:
        await self.thread.write(
            f"banning {agent_id}", lambda connection: agent_queries.ban(connection, agent_id)
        )

    async def evict(self, agent_id: SpiffeId) -> None:
        await self.thread.write(
            f"evicting {agent_id}", lambda connection: agent_queries.evict(connection, agent_id)
        )

    async def note_version(self, agent_id: SpiffeId, version: str) -> None:
        await self.thread.write(
            f"noting the version of {agent_id}",
            lambda connection: agent_queries.change(
                connection, agent_id, lambda agent: replace(agent, version=version)
            ),
        )

    async def purge(self, expired_before: int, limit: int) -> list[SpiffeId]:
        return await self.thread.write(
            "purging agents", lambda connection: agent_queries.purge(connection, expired_before, limit)
        )

    async def confirm_bundles(self, sequences: Mapping[SpiffeId, int]) -> None:
        await self.thread.write(
            "noting confirmed bundles",
            lambda connection: agent_queries.confirm_bundles(connection, sequences),
        )

    async def count_unconfirmed(self, sequence: int, now: int) -> int:
        return await self.thread.read(
            "counting agents that lack the bundle",
            lambda connection: agent_queries.count_unconfirmed(connection, sequence, now),
        )

    async def add_token(self, token: JoinToken, alias: Entry | None, now: int) -> None:
        await self.thread.write(
            "storing a join token",
            lambda connection: agent_queries.add_token(connection, token, alias, now, self._random_bytes),
        )

    async def take_token(self, digest: bytes) -> JoinToken | None:
        return await self.thread.write(
            "taking a join token", lambda connection: agent_queries.take_token(connection, digest)
        )

    async def prune_tokens(self, expired_before: int) -> int:
        return await self.thread.write(
            "pruning join tokens", lambda connection: agent_queries.prune_tokens(connection, expired_before)
        )

    async def create_bundles(self, bundles: Sequence[Bundle]) -> list[BundleOutcome]:
        return await self.thread.write(
            "creating federated bundles", lambda connection: bundle_queries.create(connection, bundles)
        )

    async def update_bundles(
        self, updates: Sequence[tuple[TrustDomain, Callable[[Bundle], Bundle]]]
    ) -> list[BundleOutcome]:
        return await self.thread.write(
            "updating federated bundles", lambda connection: bundle_queries.change(connection, updates)
        )

    async def set_bundles(self, bundles: Sequence[Bundle]) -> list[BundleOutcome]:
        return await self.thread.write(
            "setting federated bundles", lambda connection: bundle_queries.put(connection, bundles)
        )

    async def delete_bundles(
        self, trust_domains: Sequence[TrustDomain], mode: DeleteMode
    ) -> list[BundleOutcome]:
        return await self.thread.write(
            "deleting federated bundles",
            lambda connection: bundle_queries.remove(connection, trust_domains, mode),
        )

    async def append_to_own(self, additions: Bundle) -> Bundle:
        return await self.thread.write(
            "appending to our bundle", lambda connection: bundle_queries.append_to_own(connection, additions)
        )

    async def own_additions(self, trust_domain: TrustDomain) -> Bundle:
        found = await self.thread.read(
            "reading the additions to our bundle",
            lambda connection: bundle_queries.find(connection, trust_domain),
        )
        return found or Bundle(trust_domain)

    async def quarantine(self, member: Quarantined, trace: str = "") -> bool:
        return await self.thread.write(
            f"quarantining {member.spiffe_id}",
            lambda connection: quarantine_queries.add(connection, member, trace),
        )

    async def release(self, spiffe_id: SpiffeId, trace: str = "") -> bool:
        return await self.thread.write(
            f"releasing {spiffe_id} from quarantine",
            lambda connection: quarantine_queries.remove(connection, spiffe_id, trace),
        )

    async def changes_after(self, sequence: int) -> ChangeSet:
        return await self.thread.read(
            "reading the change log",
            lambda connection: change_queries.changes_after(connection, sequence, self._trust_domain),
        )

    def on_change(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    async def prune_changes(self, keep: int) -> int:
        return await self.thread.write(
            "pruning the change log", lambda connection: change_queries.prune(connection, keep)
        )

    def _notify(self) -> None:
        for callback in self._callbacks:
            callback()
