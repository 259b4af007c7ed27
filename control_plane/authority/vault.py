"""The authority whose leaves Vault signs, and which goes on without Vault: a state machine of two states.

            one call fails, or a look: sealed, unreachable, too slow, refused, wrong
        VAULT  ──────────────────────────────────────────────────────────────▶  STANDBY
          ▲                                                                        │
          └── several good looks in a row, the last one a whole rehearsed leaf ────┘

On standby, an intermediate that Vault signed beforehand signs here, and each leaf is marked. Both lead to the
same root, so no bundle changes. A refusal of one name (FailedPrecondition) isn't an absence: whoever asked
gets it, and a rehearsal tells whether Vault refuses everything.

Each process decides for itself by what it sees, and tells nobody but the ledger. What is active here while
the settings have just changed, and belongs to no Vault, signs as it always did.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from control_plane.authority.embedded import EmbeddedAuthority
from control_plane.authority.ports import Active, KeyManager, SigningStatus, WhoSigns, X509Signer
from control_plane.authority.state import AuthorityState, X509Slot
from control_plane.authority.vault_ports import VaultHealth, VaultPki
from control_plane.authority.vault_signer import VaultX509Signer
from control_plane.core.bundle import subject_key_id
from control_plane.core.errors import FailedPrecondition, GatehouseError, InvalidInput, Unavailable
from control_plane.core.jwt_svid import JwtRequest
from control_plane.core.lifetime import MIN_LEAF_TTL_SECONDS
from control_plane.core.profile import SigningRequest
from control_plane.core.svid import JwtSvid, X509Svid
from control_plane.runtime.clock import Clock
from control_plane.runtime.log import get_logger

STANDBY: Final = "standby"
LOOK_SECONDS: Final = 3.0
GOOD_LOOKS: Final = 3
MAX_GOOD_LOOKS: Final = 48
UNSTEADY_SECONDS: Final = 600.0  # who goes away again within this has to be good for twice as long
SILENCES: Final = 2
MAX_STANDBYS: Final = 8
SIGNING_HEALTH: Final = frozenset({VaultHealth.ACTIVE, VaultHealth.STANDBY, VaultHealth.PERFORMANCE_STANDBY})

_log = get_logger("authority")


@dataclass(frozen=True, slots=True)
class Switch:
    """From `at` (Unix seconds) on this process signs with this mark; empty means Vault signs."""

    at: int
    authority_id: str
    mark: str
    reason: str


Rehearse = Callable[[X509Signer], Awaitable[None]]
Record = Callable[[Switch], Awaitable[None]]


class VaultAuthority:
    """See `ports.Authority`; a service as well: `run` looks whether Vault is back.

    `rehearse` has one leaf signed that never leaves and raises if it isn't right; `record` makes a switch
    durable. `permits` is how many calls of this process may be under way at once.
    """

    def __init__(
        self,
        keys: KeyManager,
        pki: VaultPki,
        clock: Clock,
        *,
        permits: int,
        rehearse: Rehearse,
        record: Record,
    ) -> None:
        self._local = EmbeddedAuthority(keys, mark=STANDBY)
        self._pki = pki
        self._clock = clock
        self._permits = asyncio.Semaphore(permits)
        self._rehearse = rehearse
        self._record = record
        self._slot: X509Slot | None = None
        self._by_vault: VaultX509Signer | None = None
        self._given_up = asyncio.Event()
        self._since = clock.unix()
        self._good_looks = 0
        self._needed_looks = GOOD_LOOKS
        self._returned_at: float | None = None
        self._suspicion: GatehouseError | None = None
        self._silences = 0
        self._switched_just_now = asyncio.Event()
        self._standbys: tuple[bytes, ...] = ()
        self._unrecorded: deque[Switch] = deque()
        self._last_error = ""
        self._last_error_at = 0

    def reload(self, state: AuthorityState) -> None:
        """Signs by what is active in `state` from now on. Raises as `EmbeddedAuthority.reload`."""
        self._local.reload(state)
        slot = state.active_x509
        if slot is self._slot or slot == self._slot:
            return
        self._slot = slot
        self._by_vault = self._signer()
        if slot is not None and slot.issuing.upstream is not None:
            # Leaves of a standby that was replaced since may be about for as long as they live.
            key_id = bytes.fromhex(subject_key_id(slot.issuing.certificate))
            self._standbys = tuple(dict.fromkeys((*self._standbys, key_id)))[-MAX_STANDBYS:]

    @property
    def stand_ins(self) -> tuple[bytes, ...]:
        """See `ports.Authority`: the standbys that this process has known."""
        return () if self._by_vault is None or self._given_up.is_set() else self._standbys

    def active(self) -> Active:
        """What signs now. Raises Unavailable while there is nothing, or if the standby has run out."""
        local = self._local.active()
        if self._by_vault is None:
            return local
        if not self._given_up.is_set():
            return Active(self._by_vault, local.jwt)
        left = local.x509.issuer.not_after - self._clock.unix()
        if left < MIN_LEAF_TTL_SECONDS:
            raise Unavailable(
                f"signing: Vault is away since {self._since} ({self._last_error}), and the standby CA has "
                f"{left} s left",
                hint="bring Vault back: issuing goes on by itself then",
                retry_after_seconds=LOOK_SECONDS,
            )
        return local

    def here(self) -> X509Signer:
        """The standby's, which is there before it is needed."""
        return self._local.here()

    async def sign_x509(self, requests: Sequence[SigningRequest]) -> list[X509Svid]:
        """By the standby: a self-test has no CSR to show to Vault."""
        return await self._local.sign_x509(requests)

    async def sign_jwt(self, requests: Sequence[JwtRequest]) -> list[JwtSvid]:
        """See `ports.Authority`."""
        return await self._local.sign_jwt(requests)

    @property
    def status(self) -> SigningStatus:
        """See `ports.Authority`."""
        local = self._local.status
        if self._by_vault is None:
            return local
        return SigningStatus(
            WhoSigns.STANDBY if self._given_up.is_set() else WhoSigns.VAULT,
            self._since,
            local.authority_id,
            local.issuing_ends,
            self._last_error,
            self._last_error_at,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Looks every few seconds, and at once if there is a switch to be recorded."""
        while not stop.is_set():
            await self.look()
            waiting = [asyncio.ensure_future(event.wait()) for event in (stop, self._switched_just_now)]
            await asyncio.wait(waiting, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for one in waiting:
                one.cancel()

    async def look(self) -> None:
        """One look at how Vault is. Never raises what Vault did."""
        suspicion, self._suspicion = self._suspicion, None
        if self._by_vault is not None:
            if self._given_up.is_set():
                await self._look_for_return(self._by_vault)
            else:
                await self._look_after()
                if suspicion is not None and not self._given_up.is_set():
                    await self._look_into(self._by_vault)
        self._suspicion = None  # a rehearsal that is refused suspects itself
        self._switched_just_now.clear()
        await self._tell()

    async def _look_after(self) -> None:
        """While Vault signs: a sealed one is noticed before somebody waits for it. Silence has to repeat."""
        health = await self._pki.health()
        if health in SIGNING_HEALTH:
            self._silences = 0
            return
        self._silences += 1
        if health is not VaultHealth.UNREACHABLE or self._silences >= SILENCES:
            self._silences = 0
            self._hand_over(Unavailable(f"looking after Vault: it is {health}"))

    async def _look_for_return(self, signer: VaultX509Signer) -> None:
        if await self._pki.health() not in SIGNING_HEALTH:
            self._good_looks = 0
            return
        self._good_looks += 1
        if self._good_looks < self._needed_looks and self._standby_is_usable():
            return
        try:
            await self._rehearse(self._signer(asyncio.Event()) or signer)
        except GatehouseError as error:
            self._note(error)
            self._good_looks = 0
            return
        self._hand_back()

    async def _look_into(self, signer: VaultX509Signer) -> None:
        """A leaf was refused. If one of ours is signed, it was that leaf's fault."""
        try:
            await self._rehearse(signer)
        except GatehouseError as error:
            self._hand_over(error)

    def _failed(self, error: GatehouseError) -> None:
        """Hears of a failed call, from `VaultX509Signer`."""
        self._note(error)
        if isinstance(error, FailedPrecondition | InvalidInput):
            self._suspicion = error
        else:
            self._hand_over(error)

    def _note(self, error: GatehouseError) -> None:
        self._last_error, self._last_error_at = str(error), self._clock.unix()

    def _hand_over(self, error: GatehouseError) -> None:
        if self._given_up.is_set():
            return
        self._note(error)
        self._given_up.set()
        self._good_looks = 0
        steady = self._returned_at is None or self._clock.monotonic() - self._returned_at > UNSTEADY_SECONDS
        self._needed_looks = GOOD_LOOKS if steady else min(2 * self._needed_looks, MAX_GOOD_LOOKS)
        self._switched(STANDBY, str(error))
        _log.error("vault_away", reason=str(error), kind=error.kind, standby_ends_at=self._standby_end())

    def _hand_back(self) -> None:
        self._given_up = asyncio.Event()
        self._by_vault = self._signer()
        self._returned_at = self._clock.monotonic()
        self._switched("", "Vault signs again")
        _log.info("vault_back", good_looks=self._good_looks)

    def _switched(self, mark: str, reason: str) -> None:
        self._since = self._clock.unix()
        authority_id = self._slot.authority_id if self._slot is not None else ""
        self._unrecorded.append(Switch(self._since, authority_id, mark, reason))
        self._switched_just_now.set()

    async def _tell(self) -> None:
        """Makes switches durable, in order; what can't be now is tried at the next look."""
        while self._unrecorded:
            try:
                await self._record(self._unrecorded[0])
            except GatehouseError as error:
                _log.error("vault_switch_not_recorded", reason=str(error))
                return
            self._unrecorded.popleft()

    def _signer(self, given_up: asyncio.Event | None = None) -> VaultX509Signer | None:
        if self._slot is None or self._slot.issuing.upstream is None:
            return None
        return VaultX509Signer(
            self._slot,
            self._pki,
            self._clock,
            permits=self._permits,
            failed=self._failed,
            given_up=given_up or self._given_up,
        )

    def _standby_end(self) -> int:
        return self._slot.issuing.not_after if self._slot is not None else 0

    def _standby_is_usable(self) -> bool:
        return self._standby_end() - self._clock.unix() >= MIN_LEAF_TTL_SECONDS
