"""What an issuer and the management process have in common: storage, index, authority, issuance, context."""

import asyncio
import os
from collections.abc import Mapping
from typing import Final

from control_plane.api.context import ServerContext, Ttls
from control_plane.api.limits import Limiter, Limiters
from control_plane.authority.disk_keys import DiskKeyManager
from control_plane.authority.ports import X509Signer
from control_plane.authority.state import AuthorityState, bundle_of
from control_plane.authority.vault import Switch
from control_plane.core.bundle import Bundle
from control_plane.core.errors import GatehouseError, InvalidInput, Unavailable
from control_plane.core.log_position import LogPosition
from control_plane.identity.attestors import NodeAttestor
from control_plane.identity.attestors.join_token import JoinTokenAttestor
from control_plane.identity.attestors.x509pop import X509PopAttestor
from control_plane.identity.confirmations import Confirmations
from control_plane.identity.index import Effects, Index
from control_plane.identity.issuance import IssuanceSettings, Issuer
from control_plane.identity.journal import Journal
from control_plane.identity.ledger import AuthorityMark
from control_plane.identity.replica import Replica
from control_plane.identity.trust import Trust, merged
from control_plane.rollout.push import PushedPolicies
from control_plane.rollout.reports import DecisionReports
from control_plane.runtime.clock import Clock, SystemClock
from control_plane.runtime.files import read_bounded
from control_plane.runtime.log import get_logger
from control_plane.settings import ServerSettings
from control_plane.sql.authority_store import SqlAuthorityStore
from control_plane.sql.rollout_store import SqlRolloutStore
from control_plane.sql.store import SqlStore
from control_plane.wiring.follower import Follower
from control_plane.wiring.vault import authority_of, vault_of

MANAGEMENT_JOURNAL: Final = 0  # issuers count from 1
CATCH_UP_SECONDS: Final = 5.0
MAX_BUNDLE_FILE_BYTES: Final = 4 << 20


class Parts:
    """One process's parts. Open with `open`, close with `close`; `run` keeps authority and trust current."""

    def __init__(self, settings: ServerSettings, journal_index: int, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock: Clock = clock or SystemClock()
        self.log = get_logger("process")
        trust_domain = settings.trust_domain
        self.store = SqlStore(settings.database, trust_domain, os.urandom)
        self.authority_store = SqlAuthorityStore(self.store.thread, trust_domain)
        self.rollout_store = SqlRolloutStore(self.store.thread)
        self.policies = PushedPolicies()
        self.reports = DecisionReports(self.rollout_store, self.policies)
        self.replica = Replica(self.store, Index(trust_domain))
        self.trust = Trust(trust_domain, self.replica.index)
        self.keys = DiskKeyManager(settings.key_dir, settings.key_passphrase, random_bytes=os.urandom)
        self.vault = vault_of(settings)
        self.authority = authority_of(
            settings, self.vault, self.keys, self.clock, rehearse=self._rehearse, record=self._record_switch
        )
        self.journal = Journal(settings.ledger_dir, journal_index, self.clock)
        self.issuer = Issuer(
            self.authority,
            self.journal,
            IssuanceSettings(
                trust_domain,
                default_x509_ttl_seconds=settings.written.default_x509_svid_ttl_seconds,
                max_x509_ttl_seconds=settings.max_leaf_ttl_seconds,
                default_jwt_ttl_seconds=settings.written.default_jwt_svid_ttl_seconds,
            ),
            self.clock,
            random_bytes=os.urandom,
        )
        self.confirmations = Confirmations(self.store)
        self._authorities = Follower(self.reload, "authority_not_loaded", self.log)
        self._pushed = Follower(self.reload_policies, "policies_not_loaded", self.log)
        self.replica.listen(self._on_changes)
        self.context = self._context()

    async def open(self) -> None:
        """Loads everything. Raises what storage raises."""
        await self.replica.refresh()
        await self.reload()
        await self.reload_policies()
        await self.journal.start()
        if self.vault is not None:
            self.vault.login.bind(self.issuer)

    async def close(self) -> None:
        """Gives everything back; what was answered is durable already."""
        try:
            await self.confirmations.flush()
        except GatehouseError as error:
            self.log.warning("confirmations_not_written", reason=str(error))
        await self.journal.close()
        await self.store.close()
        if self.vault is not None:
            self.vault.door.close()

    async def reload(self) -> None:
        """Signs and judges by the authority state that is stored now."""
        _, state = await self.authority_store.load()
        additions = await self.store.own_additions(self.settings.trust_domain)
        await self.replica.refresh()  # so that what is told of the bundle comes with the number of its change
        self._take(state, additions)

    async def use(self, state: AuthorityState) -> None:
        """Signs and judges by `state`."""
        self._take(state, await self.store.own_additions(self.settings.trust_domain))

    def _take(self, state: AuthorityState, additions: Bundle) -> None:
        # The bundle comes first: never sign by what it doesn't hold.
        before = self.trust.own
        if self.trust.set_own(merged(bundle_of(state), additions)):
            self._report(before)
            self.replica.tell_all()
        self.authority.reload(state)

    async def reload_policies(self) -> None:
        """Pushes what is assigned now, by the keys that are published now."""
        pushed = await self.rollout_store.pushed()
        await self.replica.refresh()
        if self.policies.swap(pushed):
            self.replica.tell_all()

    async def reach(self, heard: LogPosition) -> None:
        """Returns once this process holds everything that somebody was told of at `heard`, by another process
        of this server. Raises Unavailable if it can't be had within a few seconds.

        A position in another log says nothing: whoever came by it heard it before this server's start, when
        everything was read.
        """
        index = self.replica.index
        if heard.log != index.log:
            return
        try:
            async with asyncio.timeout(CATCH_UP_SECONDS):
                if index.sequence < heard.sequence:
                    await self.replica.refresh()
                for follower in (self._authorities, self._pushed):
                    if not follower.holds(heard.sequence):
                        await follower.reach(heard.sequence)
        except TimeoutError:
            behind = f"its change log couldn't be read within {CATCH_UP_SECONDS:.0f} s"
        else:
            if index.sequence >= heard.sequence:
                return
            behind = f"the last change here is {index.sequence}"
        raise Unavailable(
            f"this process of the server is behind: you heard of change {heard.sequence}, {behind}",
            hint="it is to be asked again in a moment",
            retry_after_seconds=1,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Reloads whenever the change log says so."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._authorities.run(stop))
            both.create_task(self._pushed.run(stop))

    async def _rehearse(self, signer: X509Signer) -> None:
        await self.issuer.rehearse(signer)

    async def _record_switch(self, switch: Switch) -> None:
        await self.journal.append([AuthorityMark(switch.at, switch.authority_id, switch.mark, switch.reason)])
        self.replica.tell_all()  # streams look again at who stood in

    def _on_changes(self, effects: Effects) -> None:
        if effects.authorities:
            self._authorities.tell(effects.since)
        if effects.policies:
            self._pushed.tell(effects.since)
        if effects.bundles:
            self.trust.changed()

    def _report(self, before: Bundle) -> None:
        own = self.trust.own
        self.log.info(
            "bundle_changed",
            sequence=own.sequence,
            x509=[one.subject_key_id for one in own.x509_authorities],
            jwt=[one.key_id for one in own.jwt_authorities],
            before=before.sequence,
        )

    def _context(self) -> ServerContext:
        written = self.settings.written
        rates = written.rate_limits
        signing = (rates.signing_per_second, rates.signing_burst, self.clock.monotonic)
        return ServerContext(
            trust_domain=self.settings.trust_domain,
            store=self.store,
            replica=self.replica,
            trust=self.trust,
            policies=self.policies,
            reports=self.reports,
            issuer=self.issuer,
            confirmations=self.confirmations,
            attestors=self._attestors(),
            limiters=Limiters(
                Limiter(
                    "attestations",
                    rates.attestation_per_second,
                    rates.attestation_burst,
                    self.clock.monotonic,
                ),
                Limiter("X.509-SVIDs", *signing),
                Limiter("JWT-SVIDs", *signing),
                Limiter(
                    "published keys",
                    rates.publishing_per_second,
                    rates.publishing_per_second,
                    self.clock.monotonic,
                ),
                Limiter("status reports", rates.status_per_second, rates.status_burst, self.clock.monotonic),
            ),
            ttls=Ttls(
                x509_svid=written.default_x509_svid_ttl_seconds,
                jwt_svid=written.default_jwt_svid_ttl_seconds,
                agent=written.agent_ttl_seconds,
            ),
            clock=self.clock,
            random_bytes=os.urandom,
            started_at=self.clock.unix(),
            stand_ins=lambda: self.authority.stand_ins,
            reload_trust=self.reload,
        )

    def _attestors(self) -> Mapping[str, NodeAttestor]:
        trust_domain = self.settings.trust_domain
        attestors: list[NodeAttestor] = [JoinTokenAttestor(trust_domain, self.store)]
        path = self.settings.x509pop_ca_bundle
        if path is not None:
            try:
                bundle = Bundle.parse_pem(trust_domain, read_bounded(path, MAX_BUNDLE_FILE_BYTES))
            except OSError as error:
                raise InvalidInput(f"settings: x509pop.ca_bundle {path}: {error.strerror}") from error
            authorities = [authority.certificate for authority in bundle.x509_authorities]
            attestors.append(X509PopAttestor(trust_domain, authorities, os.urandom))
        return {attestor.type: attestor for attestor in attestors}
