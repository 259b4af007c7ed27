"""Everything that a process knows of the registry, in memory, fed by the change log alone.

Not thread-safe: it belongs to the event loop. It never writes and never reads storage; `Replica` feeds it.
Answers are therefore at most as old as the change log's delay (50 ms), except after one's own writes, for
which `Replica` waits.
"""

import bisect
from collections.abc import Container, Iterator
from dataclasses import dataclass, field

from control_plane.core.bundle import Bundle
from control_plane.core.entry import Entry
from control_plane.core.selectors import Selectors
from control_plane.core.spiffe_id import SpiffeId, TrustDomain, server_id
from control_plane.identity.agent_record import AgentRecord
from control_plane.identity.authorized import AuthorizedView, EntryGraph, Views
from control_plane.identity.ports import ChangeSet
from control_plane.identity.quarantine import Quarantine


@dataclass(slots=True)
class Effects:
    """Who has to learn of applied changes.

    `entries`: agent -> IDs of entries that it gained, lost or sees changed. `reset`: agents for whom
    anything may have changed. `agents`: agents whose own record changed or went, or who were cut off.
    `since` is the number of the last change before these.
    """

    since: int = 0

    entries: dict[SpiffeId, set[str]] = field(default_factory=dict)
    reset: set[SpiffeId] = field(default_factory=set)
    agents: set[SpiffeId] = field(default_factory=set)
    bundles: set[TrustDomain] = field(default_factory=set)
    authorities: bool = False
    policies: bool = False
    quarantine: bool = False

    def note(self, agents: set[SpiffeId], entry_id: str) -> None:
        """Notes that these agents are affected by a change of one entry."""
        for agent_id in agents:
            self.entries.setdefault(agent_id, set()).add(entry_id)


class Index:
    """Entries, agents and federated bundles, with the questions that the services ask."""

    def __init__(self, trust_domain: TrustDomain) -> None:
        self.trust_domain = trust_domain
        self.log = ""
        self.sequence = 0
        self.agents: dict[SpiffeId, AgentRecord] = {}
        self.bundles: dict[TrustDomain, Bundle] = {}
        self.quarantine = Quarantine()
        self._graph = EntryGraph(server_id(trust_domain))
        self._views = Views(self._graph, self._selectors_of)
        self._entry_ids: list[str] = []  # sorted, for pages
        self._agent_ids: list[SpiffeId] = []

    def entry(self, entry_id: str) -> Entry | None:
        """One entry."""
        return self._graph.by_id.get(entry_id)

    def entries_of(self, spiffe_id: SpiffeId) -> list[Entry]:
        """All entries that give this identity."""
        return list(self._graph.by_spiffe_id.get(spiffe_id, {}).values())

    def children_of(self, parent_id: SpiffeId) -> list[Entry]:
        """All entries directly below this parent."""
        return list(self._graph.by_parent.get(parent_id, {}).values())

    def entries_after(self, entry_id: str) -> Iterator[Entry]:
        """All entries in order of ID, beginning behind `entry_id`. Don't hold it across an await."""
        for position in range(bisect.bisect_right(self._entry_ids, entry_id), len(self._entry_ids)):
            yield self._graph.by_id[self._entry_ids[position]]

    def agents_after(self, agent_id: SpiffeId | None) -> Iterator[AgentRecord]:
        """All agents in order of ID, beginning behind `agent_id`. Don't hold it across an await."""
        start = bisect.bisect_right(self._agent_ids, agent_id) if agent_id else 0
        for position in range(start, len(self._agent_ids)):
            yield self.agents[self._agent_ids[position]]

    @property
    def entry_count(self) -> int:
        """How many entries there are."""
        return len(self._entry_ids)

    def authorized_entries(self, agent_id: SpiffeId) -> AuthorizedView:
        """What the agent may serve."""
        return self._views.view(agent_id)

    @property
    def view_count(self) -> int:
        """For how many agents the answer is kept ready."""
        return len(self._views)

    def forget_idle_views(self, keep: Container[SpiffeId]) -> None:
        """Frees the answers that nobody asked for since the last call, but for those of the agents in `keep`,
        who are to be told of changes. A later question builds one anew."""
        self._views.forget_idle(keep)

    def apply(self, changes: ChangeSet) -> Effects:
        """Takes in changes that follow `sequence` (or all, if `full`) and says who is affected."""
        effects = Effects(
            since=0 if changes.full else self.sequence,
            authorities=changes.authorities or changes.full,
            policies=changes.policies or changes.full,
        )
        entries, agents, bundles = dict(changes.entries), dict(changes.agents), dict(changes.bundles)
        if changes.full:
            entries |= {id: None for id in self._entry_ids if id not in entries}
            agents |= {id: None for id in self._agent_ids if id not in agents}
            bundles |= {name: None for name in self.bundles if name not in bundles}
        for agent_id, record in agents.items():
            self._apply_agent(agent_id, record, effects)
        for entry_id, entry in entries.items():
            self._apply_entry(entry_id, entry, effects)
        for trust_domain, bundle in bundles.items():
            self._apply_bundle(trust_domain, bundle, effects)
        if changes.quarantine is not None and changes.quarantine != self.quarantine:
            effects.quarantine = True
            effects.agents |= (
                changes.quarantine.spiffe_ids - self.quarantine.spiffe_ids
            ) & self.agents.keys()
            self.quarantine = changes.quarantine
        self.log, self.sequence = changes.log, changes.sequence
        return effects

    def _selectors_of(self, agent_id: SpiffeId) -> Selectors:
        record = self.agents.get(agent_id)
        return record.selectors if record else frozenset()

    def _apply_agent(self, agent_id: SpiffeId, new: AgentRecord | None, effects: Effects) -> None:
        old = self.agents.get(agent_id)
        if old == new:
            return
        effects.agents.add(agent_id)
        if new is None:
            del self.agents[agent_id]
            del self._agent_ids[bisect.bisect_left(self._agent_ids, agent_id)]
        else:
            if old is None:
                bisect.insort(self._agent_ids, agent_id)
            self.agents[agent_id] = new
        selectors_changed = (old.selectors if old else frozenset()) != (new.selectors if new else frozenset())
        if (selectors_changed or new is None) and self._views.forget(agent_id):
            effects.reset.add(agent_id)

    def _apply_entry(self, entry_id: str, new: Entry | None, effects: Effects) -> None:
        old = self._graph.by_id.get(entry_id)
        if old == new:
            return
        if (
            old is not None
            and new is not None
            and old.key[:2] == new.key[:2]
            and not self._graph.is_alias(new)
        ):
            self._graph.remove(old)
            self._graph.add(new)
            effects.note(self._views.entry_replaced(new), entry_id)
            return
        if old is not None:
            self._graph.remove(old)
            if new is None:
                del self._entry_ids[bisect.bisect_left(self._entry_ids, entry_id)]
            self._note(self._views.entry_removed(old), entry_id, effects)
        if new is not None:
            self._graph.add(new)
            if old is None:
                bisect.insort(self._entry_ids, entry_id)
            self._note(self._views.entry_added(new), entry_id, effects)

    @staticmethod
    def _note(outcome: tuple[set[SpiffeId], set[SpiffeId]], entry_id: str, effects: Effects) -> None:
        changed, reset = outcome
        effects.note(changed, entry_id)
        effects.reset |= reset

    def _apply_bundle(self, trust_domain: TrustDomain, new: Bundle | None, effects: Effects) -> None:
        if self.bundles.get(trust_domain) == new:
            return
        effects.bundles.add(trust_domain)
        if new is None:
            del self.bundles[trust_domain]
        else:
            self.bundles[trust_domain] = new
