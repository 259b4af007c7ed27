"""Which registration entries an agent may serve, kept up to date as entries and agents change.

The authorised set (SPIRE, pkg/server/authorizedentries; reference spire.md b.4) is every entry below the
agent's own ID or below one of its node aliases, transitively: an entry is a child of its parent ID, and its
own SPIFFE ID may again be a parent. A node alias is an entry whose parent is the server's ID and whose
selectors are among the node's; the alias itself isn't served. Cycles of parents end the walk.

`Views` holds one view an agent that asked. A change touches the views that walked through the entry's
parent and nothing else, so that a change costs the same with ten entries or ten thousand. What isn't done
here: storing entries, deciding who may ask, and expiry of entries (the registry prunes them).
"""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from control_plane.core.entry import Entry
from control_plane.core.selectors import Selector, Selectors
from control_plane.core.spiffe_id import SpiffeId

K = TypeVar("K")


class EntryGraph:
    """Entries by ID, by parent and by SPIFFE ID, and the node aliases among them."""

    def __init__(self, server: SpiffeId) -> None:
        self._server = server
        self.by_id: dict[str, Entry] = {}
        self.by_parent: dict[SpiffeId, dict[str, Entry]] = {}
        self.by_spiffe_id: dict[SpiffeId, dict[str, Entry]] = {}
        # Each alias is filed under one of its selectors only: the one that had the fewest aliases then.
        self._aliases: dict[Selector, dict[str, Entry]] = {}
        self._alias_selector: dict[str, Selector] = {}

    def is_alias(self, entry: Entry) -> bool:
        """True for entries that give a second name to nodes instead of an identity to workloads."""
        return entry.parent_id == self._server

    def add(self, entry: Entry) -> None:
        """Files a new entry."""
        self.by_id[entry.id] = entry
        self.by_parent.setdefault(entry.parent_id, {})[entry.id] = entry
        self.by_spiffe_id.setdefault(entry.spiffe_id, {})[entry.id] = entry
        if self.is_alias(entry):
            selector = min(entry.selectors, key=lambda one: (len(self._aliases.get(one, ())), one))
            self._aliases.setdefault(selector, {})[entry.id] = entry
            self._alias_selector[entry.id] = selector

    def remove(self, entry: Entry) -> None:
        """Takes an entry out of every file."""
        del self.by_id[entry.id]
        _discard(self.by_parent, entry.parent_id, entry.id)
        _discard(self.by_spiffe_id, entry.spiffe_id, entry.id)
        selector = self._alias_selector.pop(entry.id, None)
        if selector is not None:
            _discard(self._aliases, selector, entry.id)

    def aliases_of(self, selectors: Selectors) -> list[Entry]:
        """The alias entries that match a node with these selectors."""
        return [
            alias
            for selector in selectors
            for alias in self._aliases.get(selector, {}).values()
            if alias.selectors <= selectors
        ]


@dataclass(slots=True, eq=False)
class AuthorizedView:
    """The entries that one agent may serve. Read it, never change it; `revision` grows with each change."""

    agent_id: SpiffeId
    entries: dict[str, Entry] = field(default_factory=dict)
    revision: int = 0
    walked: set[SpiffeId] = field(default_factory=set)
    asked_for: bool = True  # since the views were last swept
    _ordered: tuple[Entry, ...] | None = None

    @property
    def ordered(self) -> tuple[Entry, ...]:
        """The entries sorted by ID: an unchanging snapshot that may be held across awaits."""
        if self._ordered is None:
            self._ordered = tuple(self.entries[id] for id in sorted(self.entries))
        return self._ordered

    def touch(self) -> None:
        """To be called after each change of `entries`."""
        self.revision += 1
        self._ordered = None


class Views:
    """The authorised entries of agents, built when first asked for and maintained until they are idle."""

    def __init__(self, graph: EntryGraph, selectors_of: Callable[[SpiffeId], Selectors]) -> None:
        self._graph = graph
        self._selectors_of = selectors_of
        self._views: dict[SpiffeId, AuthorizedView] = {}
        self._walkers: dict[SpiffeId, set[SpiffeId]] = {}  # parent ID -> agents whose walk came there

    def __len__(self) -> int:
        return len(self._views)

    def view(self, agent_id: SpiffeId) -> AuthorizedView:
        """The view of an agent, built if need be. O(entries of the agent) the first time, then O(1)."""
        view = self._views.get(agent_id)
        if view is not None:
            view.asked_for = True
        else:
            view = self._views[agent_id] = AuthorizedView(agent_id)
            self._walk(view, agent_id)
            for alias in self._graph.aliases_of(self._selectors_of(agent_id)):
                self._walk(view, alias.spiffe_id)
        return view

    def forget(self, agent_id: SpiffeId) -> bool:
        """Drops a view; the next question builds it anew. False if there was none."""
        view = self._views.pop(agent_id, None)
        if view is None:
            return False
        for node in view.walked:
            walkers = self._walkers[node]
            walkers.discard(agent_id)
            if not walkers:
                del self._walkers[node]
        return True

    def forget_idle(self, keep: Container[SpiffeId]) -> None:
        """Drops the views that nobody asked for since the last call, but for those of agents in `keep`."""
        for view in list(self._views.values()):
            if not view.asked_for and view.agent_id not in keep:
                self.forget(view.agent_id)
            view.asked_for = False

    def entry_added(self, entry: Entry) -> tuple[set[SpiffeId], set[SpiffeId]]:
        """After `graph.add`: agents that gained this entry, and agents whose view was dropped."""
        if self._graph.is_alias(entry):
            return set(), self._forget_matching(entry.selectors)
        agents = set(self._walkers.get(entry.parent_id, ()))
        for holder in self._graph.by_spiffe_id.get(entry.parent_id, {}).values():
            # The parent was a leaf of these agents' walks until now.
            if not self._graph.is_alias(holder):
                agents |= self._walkers.get(holder.parent_id, set())
        dropped = set()
        for agent_id in agents:
            view = self._views[agent_id]
            if entry.parent_id not in view.walked or entry.spiffe_id in self._graph.by_parent:
                # The walk grows by more than this entry: rare, so build anew rather than be clever.
                self.forget(agent_id)
                dropped.add(agent_id)
            else:
                view.entries[entry.id] = entry
                view.touch()
        return agents - dropped, dropped

    def entry_removed(self, entry: Entry) -> tuple[set[SpiffeId], set[SpiffeId]]:
        """After `graph.remove`: agents that lost this entry, and agents whose view was dropped."""
        if self._graph.is_alias(entry):
            return set(), self._forget_matching(entry.selectors)
        agents = set(self._walkers.get(entry.parent_id, ()))
        dropped = set()
        for agent_id in agents:
            view = self._views[agent_id]
            if entry.spiffe_id in view.walked:
                self.forget(agent_id)
                dropped.add(agent_id)
            else:
                view.entries.pop(entry.id, None)
                view.touch()
        return agents - dropped, dropped

    def entry_replaced(self, entry: Entry) -> set[SpiffeId]:
        """After a change that kept parent and SPIFFE ID (and isn't an alias): agents that see it."""
        agents = set(self._walkers.get(entry.parent_id, ()))
        for agent_id in agents:
            view = self._views[agent_id]
            view.entries[entry.id] = entry
            view.touch()
        return agents

    def _walk(self, view: AuthorizedView, start: SpiffeId) -> None:
        waiting = [start]
        while waiting:
            node = waiting.pop()
            if node in view.walked:
                continue
            view.walked.add(node)
            self._walkers.setdefault(node, set()).add(view.agent_id)
            for entry in self._graph.by_parent.get(node, {}).values():
                view.entries[entry.id] = entry
                if entry.spiffe_id in self._graph.by_parent:
                    waiting.append(entry.spiffe_id)
        view.touch()

    def _forget_matching(self, selectors: Selectors) -> set[SpiffeId]:
        matching = {agent_id for agent_id in self._views if selectors <= self._selectors_of(agent_id)}
        for agent_id in matching:
            self.forget(agent_id)
        return matching


def authorized_by_definition(
    agent_id: SpiffeId, selectors: Selectors, entries: Iterable[Entry], server: SpiffeId
) -> Mapping[str, Entry]:
    """The same answer straight from the definition: slow, obvious, the oracle of the tests and `explain`."""
    everything = list(entries)
    reached = {agent_id}
    reached |= {e.spiffe_id for e in everything if e.parent_id == server and e.selectors <= selectors}
    found: dict[str, Entry] = {}
    grew = True
    while grew:
        below = {e.id: e for e in everything if e.parent_id in reached and e.id not in found}
        grew = bool(below)
        found |= below
        reached |= {e.spiffe_id for e in below.values()}
    return found


def _discard(files: dict[K, dict[str, Entry]], key: K, id: str) -> None:
    file = files[key]
    del file[id]
    if not file:
        del files[key]
