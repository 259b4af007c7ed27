"""The agent's own identity: how it gets it, keeps it, and what it does when the server refuses it.

The life of the credential:
- cached from the last run, else obtained by attestation;
- renewed at the instant drawn for it: by RenewAgent, or by attesting anew where the method allows that
  (the server then refuses RenewAgent). A new certificate is on disk before it is first used, since its first
  use makes the server refuse the old one;
- refused by the server, or signed by an authority that was withdrawn: attested anew if the method allows
  it, else reported, and what is still valid goes on being served. Only a banned agent stops serving.

A server that the bundle doesn't verify is asked nothing, until the operator's file verifies it (`trust`).

`Node` doesn't know entries or workloads. Others get the connection by `session()` and report denials back.
"""

import asyncio
import enum
import hashlib
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from typing import Final

from agent.backoff import ATTESTATION, RENEWAL, Backoff
from agent.cache_content import AgentContent, AgentCredential
from agent.connection import Connection, ServerSession
from agent.holdings import compromised, issuer_key_id
from agent.keys import FreshKey
from agent.node_attestors import NodeAttestor
from agent.ports import Dial
from agent.trust import ServerTrust
from agent.waiting import wait_any
from control_plane.core.bundle import Bundle
from control_plane.core.errors import (
    DenialReason,
    FailedPrecondition,
    GatehouseError,
    InvalidInput,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from control_plane.core.lifetime import early_renewal_instant
from control_plane.core.spiffe_id import TrustDomain, is_agent_id
from control_plane.core.svid import X509Svid
from control_plane.runtime.clock import Clock
from control_plane.runtime.log import get_logger
from control_plane.runtime.tls import UntrustedServer

TICK_SECONDS: Final = 1.0
ATTEST_BY_HAND: Final = (
    "make a token on the server (gatehouse token generate) and start the agent with --join-token"
)
REFUSED_SECONDS: Final = 300  # a server that was restored from a backup may know us again later

_log = get_logger(__name__)


class Standing(enum.StrEnum):
    """How the agent stands with the server."""

    STARTING = "starting"
    ATTESTED = "attested"
    REFUSED = "refused"  # the server knows us no more, and we can't attest again by ourselves
    BANNED = "banned"


class Node:
    """Keeps credential and connection. `save` makes them and the trust durable before it returns."""

    def __init__(
        self,
        trust_domain: TrustDomain,
        *,
        attestor: NodeAttestor | None,
        dial: Dial,
        trust: ServerTrust,
        credential: AgentCredential | None,
        save: Callable[[AgentContent], None],
        clock: Clock,
    ) -> None:
        self.trust_domain = trust_domain
        self.credential = credential
        self.standing = Standing.STARTING if credential is None else Standing.ATTESTED
        self.error = ""
        self.changed = asyncio.Event()  # set when `session()` would answer differently
        self._trust = trust
        self._attestor = attestor
        self._dial = dial
        self._save = save
        self._clock = clock
        self._wake = asyncio.Event()
        self._connection = Connection(dial, lambda: self.bundle)
        self._attempts = 0
        self._attempted_at = 0.0
        self._retry_at = 0.0
        self._refused_at = 0.0
        self._renew_now = False
        self._server_is_untrusted = False
        self._attest_again = credential is None or self._has_new_token()

    # ------------------------------------------------------------------ for the others

    @property
    def bundle(self) -> Bundle:
        """The bundle that the server is verified by, as the server last told it."""
        return self._trust.bundle

    def session(self) -> ServerSession | None:
        """The connection as this agent; None while there is no valid credential."""
        if self.credential is None or self.standing in (Standing.REFUSED, Standing.BANNED):
            return None
        if self.credential.held.svid.not_after <= self._clock.unix():
            return None
        return self._connection.session(self.credential)

    def denied(self, session: ServerSession, error: PermissionDenied) -> None:
        """A call of `session` was refused. Refusals of an earlier certificate mean nothing any more."""
        if self.credential is None or session.serial != self.credential.held.svid.serial:
            return
        if error.reason is DenialReason.UNKNOWN:
            return  # the call was refused, not the agent
        self.error = f"the server refuses this agent ({error.reason.name}): {error}"
        if error.reason is DenialReason.AGENT_BANNED:
            self.standing = Standing.BANNED
            _log.error("agent_banned", agent_id=str(self.credential.spiffe_id))
        elif self._may_attest():
            self._attest_again = True
            _log.warning("agent_refused", reason=error.reason.name, next="attesting again")
        else:
            if self.standing is not Standing.REFUSED:
                _log.error("agent_refused", reason=error.reason.name, next="serving what is still valid")
            self.standing = Standing.REFUSED
            self._refused_at = self._clock.monotonic()
        self._drop_session()
        self._wake.set()

    def failed(self, session: ServerSession, error: GatehouseError) -> None:
        """A call of `session` failed; looks at what that says about this agent, or about the server."""
        if isinstance(error, PermissionDenied):
            self.denied(session, error)
        elif isinstance(error, UntrustedServer):
            self._server_is_untrusted = True
            self._wake.set()

    def reconnect(self) -> None:
        """The next call makes a new connection, perhaps to another process of the server; calls that are
        under way go on."""
        self._connection.drop()

    def answered(self) -> None:
        """The server served this agent."""
        if self._server_is_untrusted:
            self._server_is_untrusted = False
            self._attempts = 0
            self.error = ""

    async def take_bundle(self, bundle: Bundle) -> None:
        """The server's bundle as it is now. An authority that was tainted or withdrawn takes our own
        certificate with it."""
        if bundle == self.bundle:
            return
        bad = compromised(self.bundle, bundle)
        self._trust.take(bundle)
        if self.credential is not None and self.credential.held.svid.authority_id in bad:
            self._renew_now = True
            self._wake.set()
        await self._store()

    def renew_early(self, issuer_key_ids: Collection[bytes], within_seconds: int) -> None:
        """Our own certificate is renewed within the span if one of these CAs has signed it."""
        if self.credential is None or issuer_key_id(self.credential.held.svid) not in issuer_key_ids:
            return
        held = self.credential.held
        instant = early_renewal_instant(
            held.svid.spiffe_id, held.svid.serial, self._clock.unix(), within_seconds
        )
        if instant < held.renew_at:
            self.credential = replace(self.credential, held=replace(held, renew_at=instant))

    async def run(self, stop: asyncio.Event) -> None:
        """Obtains and renews the credential until `stop`. Raises FailedPrecondition when the agent has
        nothing to serve and no way left to attest."""
        try:
            while not stop.is_set() and self.standing is not Standing.BANNED:
                self._wake.clear()
                await self._step()
                await wait_any(stop, self._wake, timeout_seconds=TICK_SECONDS)
        finally:
            if self.standing is Standing.BANNED:
                stop.set()
            self._drop_session()
            await self._connection.close()

    # ------------------------------------------------------------------ inside

    async def _step(self) -> None:
        now = self._clock.unix()
        if self._attempts and self._attempted_at <= now < self._retry_at:
            return
        if self._server_is_untrusted and self.session() is not None:
            await self._attempt("verifying the server", ATTESTATION, self._find_trust)
        elif self._attest_again or self.credential is None:
            await self._attempt("attesting this node", ATTESTATION, self._attest)
        elif why := self._worthless(self.credential.held.svid, now):
            if self._may_attest():
                self._attest_again = True
            elif self.standing is not Standing.REFUSED:
                self.standing = Standing.REFUSED
                self.error = f"{why}, and its attestation can't be repeated — {ATTEST_BY_HAND}"
                _log.error(
                    "agent_credential_worthless", reason=self.error, next="serving what is still valid"
                )
                self._drop_session()
        elif self.standing is Standing.REFUSED:
            if self._clock.monotonic() >= self._refused_at + REFUSED_SECONDS:
                self.standing = Standing.ATTESTED
                self.changed.set()
        elif self._renew_now or self.credential.held.renew_at <= now:
            await self._attempt("renewing the agent's certificate", RENEWAL, self._renew)

    async def _attempt(self, what: str, backoff: Backoff, work: Callable[[], Awaitable[None]]) -> None:
        try:
            try:
                await work()
            except UntrustedServer:
                await self._find_trust()
                await work()
        except GatehouseError as error:
            self._attempts += 1
            self._attempted_at = self._clock.unix()
            delay = backoff.delay(self._attempts, f"{self.trust_domain}/{self._evidence()}")
            self._retry_at = self._attempted_at + delay
            self.error = f"{what}: {error}"
            _log.warning(
                "agent_credential_failed", doing=what, error=str(error), retry_seconds=round(delay, 1)
            )
            if isinstance(error, PermissionDenied) and self._connection.current is not None:
                self.denied(self._connection.current, error)
            self._give_up_if_hopeless(error)
        else:
            self._attempts = 0
            self.error = ""

    def _give_up_if_hopeless(self, error: GatehouseError) -> None:
        """A join token that was refused once is refused for ever: asking again would only fill the logs."""
        final = isinstance(error, InvalidInput | NotFound | PermissionDenied | FailedPrecondition)
        if not self._attest_again or not final:
            return
        if self._attestor is not None and not self._attestor.single_use:
            return
        if self.credential is None:
            if self._attestor is None:
                raise error  # nothing was asked for yet: its own words say what is missing
            raise FailedPrecondition(
                f"attesting this node: {error.message}",
                hint=f"a join token works once and for a limited time; {ATTEST_BY_HAND}",
            ) from error
        self._attestor = None
        self._attest_again = False
        self._attempts = 0
        _log.warning("join_token_refused", next="going on with the certificate that is there")

    async def _find_trust(self) -> None:
        """Takes the server's bundle by the word of an authority that the operator brought meanwhile."""
        brought = await asyncio.to_thread(self._trust.newly_brought)
        api = self._dial(None, lambda: brought)
        try:
            bundle = await api.bundle()
        except UntrustedServer as error:
            raise Unauthenticated(
                f"{error.message}, nor by what is new in the operator's trust bundle", hint=error.hint
            ) from error
        finally:
            await api.close()
        await self.take_bundle(bundle)
        self._server_is_untrusted = False
        self._drop_session()
        _log.warning("server_trusted_anew", by="the trust bundle of the operator", sequence=bundle.sequence)

    async def _attest(self) -> None:
        attestor = self._attestor
        if attestor is None:
            raise FailedPrecondition(
                "attesting this node: no method is configured",
                hint="give --join-token, or node attestation by x509pop in the configuration",
            )
        key = FreshKey()
        api = self._dial(None, lambda: self.bundle)
        try:
            attested = await api.attest(attestor, key.csr)
            svid = self._accept(key, attested.chain)
            try:
                self._trust.take(await api.bundle())
            except GatehouseError as error:
                # The token is spent: what it bought is kept, and the bundle comes with the first sync.
                _log.info("bundle_not_fetched", error=str(error))
        finally:
            await api.close()
        await self._adopt(
            AgentCredential(
                key.hold(svid, self._clock.unix()), attested.reattestable, attestor.type, attestor.evidence
            )
        )
        self._attest_again = False
        _log.info(
            "agent_attested", agent_id=str(svid.spiffe_id), method=attestor.type, expires_at=svid.not_after
        )

    async def _renew(self) -> None:
        credential = self.credential
        session = self.session()
        if credential is None or session is None:
            return
        if credential.reattestable and self._may_attest():
            await self._attest()
            return
        key = FreshKey()
        svid = self._accept(key, await session.api.renew(key.csr))
        await self._adopt(
            AgentCredential(
                key.hold(svid, self._clock.unix()),
                credential.reattestable,
                credential.attestation_type,
                credential.evidence,
            )
        )
        _log.info("agent_renewed", agent_id=str(svid.spiffe_id), expires_at=svid.not_after)

    def _accept(self, key: FreshKey, chain: tuple[bytes, ...]) -> X509Svid:
        svid = key.accept(chain, None, self._clock.unix())
        if svid.spiffe_id.trust_domain != self.trust_domain or not is_agent_id(svid.spiffe_id):
            raise PermissionDenied(
                f"the server calls this agent {svid.spiffe_id}, which is no agent of {self.trust_domain}"
            )
        return svid

    async def _adopt(self, credential: AgentCredential) -> None:
        self.credential = credential
        # A crash before this line leaves the old certificate in force on both sides; after it, the new one.
        await self._store()
        self.standing = Standing.ATTESTED
        self._renew_now = False
        self._drop_session()
        self.changed.set()

    async def _store(self) -> None:
        try:
            content = AgentContent(self.trust_domain, self.credential, self.bundle, self._trust.withdrawn)
            await asyncio.to_thread(self._save, content)
        except GatehouseError as error:
            # A full disk must not cost us the identity that we have: it lives on in memory.
            self.error = str(error)
            _log.error("agent_cache_not_written", error=str(error))

    def _worthless(self, svid: X509Svid, now: int) -> str:
        """Why the server can't take our certificate any more; empty if it can."""
        if svid.not_after <= now:
            return "the agent's certificate has expired"
        if svid.authority_id in self._trust.withdrawn:
            return "the authority that signed the agent's certificate was withdrawn"
        return ""

    def _may_attest(self) -> bool:
        if self._attestor is None:
            return False
        return not self._attestor.single_use or self._has_new_token()

    def _has_new_token(self) -> bool:
        """A single-use proof that this credential was not obtained with."""
        attestor, credential = self._attestor, self.credential
        if attestor is None or not attestor.single_use:
            return False
        return credential is None or credential.evidence != attestor.evidence

    def _evidence(self) -> str:
        return hashlib.sha256(self._attestor.evidence.encode()).hexdigest() if self._attestor else ""

    def _drop_session(self) -> None:
        self._connection.drop()
        self.changed.set()
