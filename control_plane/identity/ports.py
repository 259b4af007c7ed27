"""What identity needs from storage, as small ports, and the values that cross them.

Common promises of every port here:
- methods are coroutines and never block the event loop; each call is one transaction; when it returns, the
  change is durable (a power cut doesn't lose it) and has a number in the change log;
- the numbers of the change log are gapless and follow the order in which transactions took effect, across
  processes: who has applied all changes up to N has seen every write up to N and no half of a later one;
- nothing retries by itself. `Unavailable` means that the same call may succeed later (a busy or full
  store), `Corrupt` that an operator is needed. Caller's mistakes are `InvalidInput`, `NotFound`,
  `AlreadyExists`, `FailedPrecondition`;
- batches answer one outcome an item, in order; one bad item doesn't undo the others.

Implementations: `identity.memory` for tests and `control_plane.sql.store`; one contract suite tests both.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from control_plane.core.bundle import Bundle
from control_plane.core.entry import Entry
from control_plane.core.errors import GatehouseError
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.identity.agent_record import AgentRecord
from control_plane.identity.quarantine import Quarantine, Quarantined


@dataclass(frozen=True, slots=True)
class EntryOutcome:
    """What became of one entry of a batch. With AlreadyExists, `entry` is the one that has the same key, None
    if it is only the ID that is taken."""

    entry: Entry | None
    error: GatehouseError | None = None


@dataclass(frozen=True, slots=True)
class EntryUpdate:
    """A change to one entry: `change` is a pure function of the stored value, run inside the transaction.

    It may raise InvalidInput. It may not change `id`, `revision` or `created_at`.
    """

    id: str
    change: Callable[[Entry], Entry]


@dataclass(frozen=True, slots=True)
class BundleOutcome:
    """What became of one bundle of a batch."""

    bundle: Bundle | None
    error: GatehouseError | None = None


class DeleteMode(enum.Enum):
    """What deleting a federated bundle does to entries that federate with it."""

    RESTRICT = "restrict"  # refuse
    DELETE = "delete"  # delete the entries too
    DISSOCIATE = "dissociate"  # take the trust domain out of the entries


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A join token as stored: never the token, only its SHA-256. Unix seconds."""

    digest: bytes = field(repr=False)
    expires_at: int


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """Everything that changed after some number, folded to the latest values; None stands for gone.

    `full` says that this is the whole state: whatever isn't named doesn't exist. `sequence` is the number
    of the last change contained, in the log of the name `log` (see `core.log_position`). `authorities` says
    that the authority state or the additions to our own bundle changed and should be read again, `policies`
    the same of policy keys and assignments. `quarantine` is whole, or None where it didn't change.
    """

    sequence: int
    full: bool = False
    entries: Mapping[str, Entry | None] = field(default_factory=dict)
    agents: Mapping[SpiffeId, AgentRecord | None] = field(default_factory=dict)
    bundles: Mapping[TrustDomain, Bundle | None] = field(default_factory=dict)
    authorities: bool = False
    policies: bool = False
    quarantine: Quarantine | None = None
    log: str = ""

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to apply."""
        several = self.entries or self.agents or self.bundles or self.quarantine is not None
        return not (self.full or several or self.authorities or self.policies)


class Registry(Protocol):
    """Registration entries. Revisions start at 0 and grow by one with each change of an entry."""

    async def create_entries(self, entries: Sequence[Entry], now: int) -> list[EntryOutcome]:
        """Stores new entries (checked ones; an empty `id` gets a random one). An entry with the same key
        (SPIFFE ID, parent, selectors) makes that item AlreadyExists, with the stored entry; one with the same
        ID alone as well, without it."""

    async def update_entries(self, updates: Sequence[EntryUpdate]) -> list[EntryOutcome]:
        """Changes entries in place. NotFound for an unknown ID, AlreadyExists if the new key is taken."""

    async def delete_entries(self, ids: Sequence[str]) -> list[EntryOutcome]:
        """Deletes entries, answering each as it was. NotFound for an unknown ID."""

    async def prune_entries(self, expired_before: int, limit: int) -> list[Entry]:
        """Deletes at most `limit` entries whose `expires_at` is set and earlier. Answers what went."""


class Agents(Protocol):
    """Attested agents and the serial numbers of their certificates."""

    async def record_attestation(self, agent: AgentRecord) -> None:
        """Creates or replaces an agent. Raises PermissionDenied (AGENT_BANNED) if it is banned."""

    async def record_renewal(self, agent_id: SpiffeId, new_serial: int, new_expires_at: int) -> None:
        """Notes the certificate that a renewal hands out; the current one stays valid. Raises NotFound."""

    async def promote(self, agent_id: SpiffeId, serial: int) -> AgentRecord:
        """Makes the new certificate the current one, if it is still `serial`; idempotent for a serial that
        is current already. Raises NotFound, FailedPrecondition for any other serial."""

    async def ban(self, agent_id: SpiffeId) -> None:
        """Bans for good: serials are forgotten, selectors too. Raises NotFound."""

    async def evict(self, agent_id: SpiffeId) -> None:
        """Deletes the agent and its ban. Raises NotFound."""

    async def note_version(self, agent_id: SpiffeId, version: str) -> None:
        """Stores the version that the agent says it runs. Raises NotFound."""

    async def purge(self, expired_before: int, limit: int) -> list[SpiffeId]:
        """Deletes at most `limit` unbanned agents whose last certificate ended earlier and that can attest
        again (the others would be lost for good). Answers their IDs."""

    async def confirm_bundles(self, sequences: Mapping[SpiffeId, int]) -> None:
        """Notes which sequence of our bundle each agent has fetched; never lowers one. Unknown agents are
        skipped. Not in the change log."""

    async def count_unconfirmed(self, sequence: int, now: int) -> int:
        """How many live agents are not known to hold our bundle of `sequence` or a later one."""


class JoinTokens(Protocol):
    """Single-use tokens, by digest."""

    async def add_token(self, token: JoinToken, alias: Entry | None, now: int) -> None:
        """Stores a token and, in the same transaction, the node alias entry that goes with it. Raises
        AlreadyExists if the token is known (the alias may exist already)."""

    async def take_token(self, digest: bytes) -> JoinToken | None:
        """Deletes a token and answers it, expired or not; None if there is none. Of several concurrent
        callers in any process exactly one gets it. Not in the change log."""

    async def prune_tokens(self, expired_before: int) -> int:
        """Deletes tokens that ended earlier; answers how many."""


class FederatedBundles(Protocol):
    """Bundles of other trust domains, and what administrators append to our own."""

    async def create_bundles(self, bundles: Sequence[Bundle]) -> list[BundleOutcome]:
        """Stores new bundles. AlreadyExists if the trust domain has one."""

    async def update_bundles(
        self, updates: Sequence[tuple[TrustDomain, Callable[[Bundle], Bundle]]]
    ) -> list[BundleOutcome]:
        """Changes stored bundles by pure functions. NotFound if there is none."""

    async def set_bundles(self, bundles: Sequence[Bundle]) -> list[BundleOutcome]:
        """Stores bundles, new or not."""

    async def delete_bundles(
        self, trust_domains: Sequence[TrustDomain], mode: DeleteMode
    ) -> list[BundleOutcome]:
        """Deletes bundles; see DeleteMode. NotFound, or FailedPrecondition under RESTRICT while entries
        federate with it."""

    async def append_to_own(self, additions: Bundle) -> Bundle:
        """Adds authorities to our own bundle beside those of the authority state; duplicates are ignored.
        Answers all additions; their `sequence` counts the changes."""

    async def own_additions(self, trust_domain: TrustDomain) -> Bundle:
        """The additions, with no authorities and sequence 0 if there are none."""


class QuarantineStore(Protocol):
    """Who is cut off. Both methods are idempotent: what is so already changes nothing, revision included.
    `trace` is the trace context of the request that makes the change."""

    async def quarantine(self, member: Quarantined, trace: str = "") -> bool:
        """Cuts an identity off; False if it was (the first reason stays). Raises ResourceExhausted beyond
        the bounds of `identity.quarantine`."""

    async def release(self, spiffe_id: SpiffeId, trace: str = "") -> bool:
        """Lets an identity back in; False if it wasn't cut off."""


class ChangeLog(Protocol):
    """What all processes follow to know the state."""

    async def changes_after(self, sequence: int) -> ChangeSet:
        """The changes after `sequence`, read in one transaction; the whole state (`full`) if `sequence` is
        0 or older than what is kept."""

    def on_change(self, callback: Callable[[], None]) -> None:
        """Calls back in the event loop soon (50 ms at most) after any process committed a change. May call
        without need; never from another thread."""

    async def prune_changes(self, keep: int) -> int:
        """Forgets all but the last `keep` changes; answers how many went."""


class Store(Registry, Agents, JoinTokens, FederatedBundles, QuarantineStore, ChangeLog, Protocol):
    """All ports in one object, for wiring; functions ask for the one that they need."""
