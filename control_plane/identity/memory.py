"""All storage ports in memory: for tests and experiments, with the same promises save durability.

It fails loudly when misused: a second event loop, an update that changes what belongs to the registry.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from control_plane.core.bundle import Bundle
from control_plane.core.entry import Entry
from control_plane.core.errors import (
    AlreadyExists,
    Bug,
    DenialReason,
    FailedPrecondition,
    GatehouseError,
    NotFound,
    PermissionDenied,
)
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
from control_plane.identity.quarantine import Quarantine, Quarantined
from control_plane.identity.storage_rules import (
    appended,
    check_federation,
    check_quarantine,
    checked_update,
    federated_entries_error,
    id_taken_error,
    new_entry_id,
)

LOG = "0" * 16


class MemoryStore:
    """Implements `ports.Store`."""

    def __init__(self, trust_domain: TrustDomain, random_bytes: Callable[[int], bytes]) -> None:
        self._trust_domain = trust_domain
        self._random_bytes = random_bytes
        self._entries: dict[str, Entry] = {}
        self._agents: dict[SpiffeId, AgentRecord] = {}
        self._confirmed: dict[SpiffeId, int] = {}
        self._tokens: dict[bytes, JoinToken] = {}
        self._bundles: dict[TrustDomain, Bundle] = {}
        self._own = Bundle(trust_domain)
        self._quarantine = Quarantine()
        self._changes: list[tuple[str, object]] = []
        self._forgotten = 0
        self._callbacks: list[Callable[[], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    async def create_entries(self, entries: Sequence[Entry], now: int) -> list[EntryOutcome]:
        return [self._attempt(lambda entry=entry: self._create(entry, now)) for entry in entries]  # type: ignore[misc]

    async def update_entries(self, updates: Sequence[EntryUpdate]) -> list[EntryOutcome]:
        return [self._attempt(lambda update=update: self._update(update)) for update in updates]  # type: ignore[misc]

    async def delete_entries(self, ids: Sequence[str]) -> list[EntryOutcome]:
        return [self._attempt(lambda id=id: EntryOutcome(self._delete(id))) for id in ids]  # type: ignore[misc]

    async def prune_entries(self, expired_before: int, limit: int) -> list[Entry]:
        expired = [e.id for e in self._entries.values() if 0 < e.expires_at < expired_before]
        return [self._delete(id) for id in expired[:limit]]

    async def record_attestation(self, agent: AgentRecord) -> None:
        stored = self._agents.get(agent.id)
        if stored is not None and stored.banned:
            raise PermissionDenied(f"agent {agent.id} is banned", reason=DenialReason.AGENT_BANNED)
        self._put_agent(agent)
        self._confirmed[agent.id] = 0

    async def record_renewal(self, agent_id: SpiffeId, new_serial: int, new_expires_at: int) -> None:
        self._put_agent(replace(self._agent(agent_id), new_serial=new_serial, new_expires_at=new_expires_at))

    async def promote(self, agent_id: SpiffeId, serial: int) -> AgentRecord:
        stored = self._agent(agent_id)
        if stored.serial == serial:
            return stored
        if stored.new_serial != serial or not serial:
            raise FailedPrecondition(f"agent {agent_id}: the certificate to promote isn't its new one")
        self._put_agent(stored.promoted())
        return stored.promoted()

    async def ban(self, agent_id: SpiffeId) -> None:
        self._put_agent(
            replace(self._agent(agent_id), banned=True, serial=0, new_serial=0, selectors=frozenset())
        )

    async def evict(self, agent_id: SpiffeId) -> None:
        self._agent(agent_id)
        del self._agents[agent_id]
        self._changed("agent", agent_id)

    async def note_version(self, agent_id: SpiffeId, version: str) -> None:
        stored = self._agent(agent_id)
        if stored.version != version:
            self._put_agent(replace(stored, version=version))

    async def purge(self, expired_before: int, limit: int) -> list[SpiffeId]:
        gone = [
            agent.id
            for agent in sorted(self._agents.values(), key=lambda agent: agent.id)
            if agent.can_reattest and not agent.banned and agent.last_expiry < expired_before
        ][:limit]
        for agent_id in gone:
            await self.evict(agent_id)
        return gone

    async def confirm_bundles(self, sequences: Mapping[SpiffeId, int]) -> None:
        for agent_id, sequence in sequences.items():
            if agent_id in self._agents:
                self._confirmed[agent_id] = max(sequence, self._confirmed.get(agent_id, 0))

    async def count_unconfirmed(self, sequence: int, now: int) -> int:
        return sum(
            agent.is_live(now) and self._confirmed.get(agent.id, 0) < sequence
            for agent in self._agents.values()
        )

    async def add_token(self, token: JoinToken, alias: Entry | None, now: int) -> None:
        if token.digest in self._tokens:
            raise AlreadyExists("join token: this token exists already")
        if alias is not None:
            self._attempt(lambda: self._create(alias, now))
        self._tokens[token.digest] = token

    async def take_token(self, digest: bytes) -> JoinToken | None:
        return self._tokens.pop(digest, None)

    async def prune_tokens(self, expired_before: int) -> int:
        expired = [digest for digest, token in self._tokens.items() if token.expires_at < expired_before]
        for digest in expired:
            del self._tokens[digest]
        return len(expired)

    async def create_bundles(self, bundles: Sequence[Bundle]) -> list[BundleOutcome]:
        outcomes = []
        for bundle in bundles:
            stored = self._bundles.get(bundle.trust_domain)
            if stored is not None:
                outcomes.append(
                    BundleOutcome(stored, AlreadyExists(f"bundle of {bundle.trust_domain} exists already"))
                )
            else:
                outcomes.append(self._put_bundle(bundle))
        return outcomes

    async def update_bundles(
        self, updates: Sequence[tuple[TrustDomain, Callable[[Bundle], Bundle]]]
    ) -> list[BundleOutcome]:
        outcomes = []
        for trust_domain, change in updates:
            stored = self._bundles.get(trust_domain)
            try:
                if stored is None:
                    raise NotFound(f"bundle of {trust_domain} doesn't exist")
                outcomes.append(self._put_bundle(change(stored)))
            except GatehouseError as error:
                outcomes.append(BundleOutcome(None, error))
        return outcomes

    async def set_bundles(self, bundles: Sequence[Bundle]) -> list[BundleOutcome]:
        return [self._put_bundle(bundle) for bundle in bundles]

    async def delete_bundles(
        self, trust_domains: Sequence[TrustDomain], mode: DeleteMode
    ) -> list[BundleOutcome]:
        outcomes = []
        for trust_domain in trust_domains:
            stored = self._bundles.get(trust_domain)
            try:
                if stored is None:
                    raise NotFound(f"bundle of {trust_domain} doesn't exist")
                self._release(trust_domain, mode)
            except GatehouseError as error:
                outcomes.append(BundleOutcome(None, error))
                continue
            del self._bundles[trust_domain]
            self._changed("bundle", trust_domain)
            outcomes.append(BundleOutcome(stored))
        return outcomes

    async def append_to_own(self, additions: Bundle) -> Bundle:
        grown = appended(self._own, additions)
        if grown != self._own:
            self._own = grown
            self._changed("authority", None)
        return self._own

    async def own_additions(self, trust_domain: TrustDomain) -> Bundle:
        if trust_domain != self._trust_domain:
            raise Bug(
                f"additions to the bundle of {trust_domain} were asked for, ours is {self._trust_domain}"
            )
        return self._own

    async def quarantine(self, member: Quarantined, trace: str = "") -> bool:
        members = self._quarantine.members
        if member.spiffe_id in members:
            return False
        check_quarantine([*members, member.spiffe_id])
        members = {**members, member.spiffe_id: member}
        self._quarantine = Quarantine(self._quarantine.revision + 1, members, trace)
        self._changed("quarantine", None)
        return True

    async def release(self, spiffe_id: SpiffeId, trace: str = "") -> bool:
        members = dict(self._quarantine.members)
        if members.pop(spiffe_id, None) is None:
            return False
        self._quarantine = Quarantine(self._quarantine.revision + 1, members, trace)
        self._changed("quarantine", None)
        return True

    async def changes_after(self, sequence: int) -> ChangeSet:
        head = self._forgotten + len(self._changes)
        if sequence < self._forgotten or sequence == 0:
            return ChangeSet(
                head,
                True,
                dict(self._entries),
                dict(self._agents),
                dict(self._bundles),
                True,
                True,
                self._quarantine,
                LOG,
            )
        changed = self._changes[sequence - self._forgotten :]
        return ChangeSet(
            head,
            False,
            {key: self._entries.get(key) for kind, key in changed if kind == "entry"},  # type: ignore[misc, call-overload]
            {key: self._agents.get(key) for kind, key in changed if kind == "agent"},  # type: ignore[misc, call-overload]
            {key: self._bundles.get(key) for kind, key in changed if kind == "bundle"},  # type: ignore[misc, call-overload]
            any(kind == "authority" for kind, _ in changed),
            quarantine=self._quarantine if ("quarantine", None) in changed else None,
            log=LOG,
        )

    def on_change(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    async def prune_changes(self, keep: int) -> int:
        count = max(0, len(self._changes) - keep)
        del self._changes[:count]
        self._forgotten += count
        return count

    def _attempt(self, work: Callable[[], EntryOutcome]) -> EntryOutcome:
        try:
            return work()
        except GatehouseError as error:
            return EntryOutcome(None, error)

    def _create(self, entry: Entry, now: int) -> EntryOutcome:
        check_federation(entry, self._bundles)
        for stored in self._entries.values():
            if stored.key == entry.key:
                return EntryOutcome(stored, AlreadyExists(f"registration entry {stored.id} exists already"))
        if entry.id in self._entries:
            raise id_taken_error(entry.id)
        entry_id = entry.id or new_entry_id(now, self._forgotten + len(self._changes), self._random_bytes)
        revision = sum(change == ("entry", entry_id) for change in self._changes)
        created = replace(entry, id=entry_id, revision=revision, created_at=now)
        self._entries[entry_id] = created
        self._changed("entry", entry_id)
        return EntryOutcome(created)

    def _update(self, update: EntryUpdate) -> EntryOutcome:
        stored = self._entries.get(update.id)
        if stored is None:
            raise NotFound(f"registration entry {update.id} doesn't exist")
        changed = checked_update(stored, update)
        check_federation(changed, self._bundles)
        for other in self._entries.values():
            if other.key == changed.key and other.id != changed.id:
                return EntryOutcome(other, AlreadyExists(f"registration entry {other.id} has the same key"))
        self._entries[update.id] = changed
        self._changed("entry", update.id)
        return EntryOutcome(changed)

    def _delete(self, entry_id: str) -> Entry:
        entry = self._entries.pop(entry_id, None)
        if entry is None:
            raise NotFound(f"registration entry {entry_id} doesn't exist")
        self._changed("entry", entry_id)
        return entry

    def _agent(self, agent_id: SpiffeId) -> AgentRecord:
        if agent_id not in self._agents:
            raise NotFound(f"agent {agent_id} doesn't exist")
        return self._agents[agent_id]

    def _put_agent(self, agent: AgentRecord) -> None:
        self._agents[agent.id] = agent
        self._changed("agent", agent.id)

    def _put_bundle(self, bundle: Bundle) -> BundleOutcome:
        self._bundles[bundle.trust_domain] = bundle
        self._changed("bundle", bundle.trust_domain)
        return BundleOutcome(bundle)

    def _release(self, trust_domain: TrustDomain, mode: DeleteMode) -> None:
        tied = [entry for entry in self._entries.values() if trust_domain in entry.federates_with]
        if tied and mode is DeleteMode.RESTRICT:
            raise federated_entries_error(trust_domain, len(tied))
        for entry in tied:
            if mode is DeleteMode.DELETE:
                self._delete(entry.id)
            else:
                kept = tuple(name for name in entry.federates_with if name != trust_domain)
                self._update(EntryUpdate(entry.id, lambda e, kept=kept: replace(e, federates_with=kept)))  # type: ignore[misc]

    def _changed(self, kind: str, key: object) -> None:
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise Bug("a MemoryStore was used from two event loops")
        self._loop = loop
        self._changes.append((kind, key))
        for callback in self._callbacks:
            loop.call_soon(callback)
