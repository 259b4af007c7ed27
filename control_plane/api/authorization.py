"""Which caller may call which method: one table, and what isn't in it is denied.

The classes are SPIRE's (pkg/server/authpolicy; reference spire.md b.1), tried in its order: anybody, local,
admin by configuration, admin or downstream by registration entry, agent. A local caller is never an agent.
An agent is judged anew at each call: certificate expiry, ban, and which of its two known serial numbers it
presents. Before refusing, storage is asked: another process may have changed the agent a moment ago.
"""

import enum
from collections.abc import Callable, Collection
from typing import Final

from control_plane.api.caller import Caller, caller_of
from control_plane.core.errors import (
    DenialReason,
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from control_plane.core.spiffe_id import SpiffeId, is_agent_id
from control_plane.identity.agent_record import Verdict, judge_serial
from control_plane.identity.ports import Agents
from control_plane.identity.replica import Replica
from control_plane.runtime.log import get_logger
from control_plane.runtime.transport import Call


class Who(enum.Enum):
    """Classes of callers."""

    ANY = "any"
    LOCAL = "local"
    ADMIN = "admin"
    DOWNSTREAM = "downstream"
    AGENT = "agent"


_ANY: Final = frozenset({Who.ANY})
_LOCAL: Final = frozenset({Who.LOCAL})
_ADMINS: Final = frozenset({Who.LOCAL, Who.ADMIN})
_AGENT: Final = frozenset({Who.AGENT})
_DOWNSTREAM: Final = frozenset({Who.DOWNSTREAM})


def _methods(service: str, who: frozenset[Who], names: str) -> dict[str, frozenset[Who]]:
    return {f"/{service}/{name}": who for name in names.split()}


_SERVER: Final = "spire.api.server"
METHODS: Final[dict[str, frozenset[Who]]] = {
    **_methods(f"{_SERVER}.agent.v1.Agent", _ANY, "AttestAgent"),
    **_methods(f"{_SERVER}.agent.v1.Agent", _AGENT, "RenewAgent PostStatus"),
    **_methods(
        f"{_SERVER}.agent.v1.Agent",
        _ADMINS,
        "CreateJoinToken ListAgents CountAgents GetAgent DeleteAgent BanAgent",
    ),
    **_methods(f"{_SERVER}.bundle.v1.Bundle", _ANY, "GetBundle"),
    **_methods(f"{_SERVER}.bundle.v1.Bundle", _ADMINS | _AGENT, "GetFederatedBundle"),
    **_methods(
        f"{_SERVER}.bundle.v1.Bundle",
        _ADMINS,
        "AppendBundle CountBundles ListFederatedBundles BatchCreateFederatedBundle "
        "BatchUpdateFederatedBundle BatchSetFederatedBundle BatchDeleteFederatedBundle",
    ),
    **_methods(f"{_SERVER}.bundle.v1.Bundle", _DOWNSTREAM, "PublishJWTAuthority PublishWITAuthority"),
    **_methods(f"{_SERVER}.entry.v1.Entry", _AGENT, "GetAuthorizedEntries SyncAuthorizedEntries"),
    **_methods(
        f"{_SERVER}.entry.v1.Entry",
        _ADMINS,
        "CountEntries ListEntries GetEntry BatchCreateEntry BatchUpdateEntry BatchDeleteEntry",
    ),
    **_methods(f"{_SERVER}.svid.v1.SVID", _AGENT, "BatchNewX509SVID NewJWTSVID BatchNewWITSVID"),
    **_methods(f"{_SERVER}.svid.v1.SVID", _DOWNSTREAM, "NewDownstreamX509CA"),
    **_methods(f"{_SERVER}.svid.v1.SVID", _ADMINS, "MintX509SVID MintJWTSVID MintWITSVID"),
    **_methods(
        f"{_SERVER}.trustdomain.v1.TrustDomain",
        _ADMINS,
        "ListFederationRelationships GetFederationRelationship BatchCreateFederationRelationship "
        "BatchUpdateFederationRelationship BatchDeleteFederationRelationship RefreshBundle",
    ),
    **_methods(
        f"{_SERVER}.localauthority.v1.LocalAuthority",
        _ADMINS,
        "GetJWTAuthorityState PrepareJWTAuthority ActivateJWTAuthority TaintJWTAuthority RevokeJWTAuthority "
        "GetX509AuthorityState PrepareX509Authority ActivateX509Authority TaintX509Authority "
        "TaintX509UpstreamAuthority RevokeX509Authority RevokeX509UpstreamAuthority "
        "GetWITAuthorityState PrepareWITAuthority ActivateWITAuthority TaintWITAuthority RevokeWITAuthority",
    ),
    **_methods(f"{_SERVER}.logger.v1.Logger", _LOCAL, "GetLogger SetLogLevel ResetLogLevel"),
    **_methods(f"{_SERVER}.debug.v1.Debug", _LOCAL, "GetInfo"),
    **_methods("grpc.health.v1.Health", _LOCAL, "Check List Watch"),
    **_methods("grpc.reflection.v1.ServerReflection", _LOCAL, "ServerReflectionInfo"),
    **_methods("grpc.reflection.v1alpha.ServerReflection", _LOCAL, "ServerReflectionInfo"),
    **_methods("gatehouse.node.v1.Node", _AGENT, "Watch ReportDecisions"),
    **_methods("gatehouse.server.v1.Entry", _ADMINS, "BatchCreateEntry BatchUpdateEntry GetPriorities"),
    **_methods("gatehouse.server.v1.Quarantine", _ADMINS, "GetQuarantined"),
}


class Authorization:
    """The interceptor that runs before every call."""

    def __init__(
        self, replica: Replica, agents: Agents, admin_ids: Collection[SpiffeId], unix: Callable[[], int]
    ) -> None:
        self._replica = replica
        self._agents = agents
        self._admin_ids = frozenset(admin_ids)
        self._unix = unix
        self._log = get_logger("authorization")

    async def __call__(self, call: Call) -> None:
        """Returns if the call may go on. Raises PermissionDenied, with the reason that agents act upon."""
        allowed = METHODS.get(call.method)
        caller = caller_of(call)
        if allowed is None:
            raise PermissionDenied(f"{call.method}: is not served here")
        if Who.ANY in allowed:
            return
        if caller.local:
            if Who.LOCAL in allowed:
                return
            raise PermissionDenied(f"{call.method}: is not for local callers")
        if caller.spiffe_id is None:
            raise PermissionDenied(f"{call.method}: needs a client certificate")
        if caller.not_after < self._unix():
            raise self._expired(caller)
        self._replica.index.quarantine.check(caller.spiffe_id)
        if self._is_administrator(caller.spiffe_id, allowed):
            return
        if Who.AGENT in allowed:
            await self.authorize_agent(caller)
            return
        raise PermissionDenied(f"{call.method}: {caller} may not call it")

    async def authorize_agent(self, caller: Caller) -> None:
        """Returns if the caller is an attested agent in good standing, with a serial that is known."""
        spiffe_id = caller.spiffe_id
        if spiffe_id is None or not is_agent_id(spiffe_id):
            raise PermissionDenied(f"{caller} is no agent", reason=DenialReason.AGENT_NOT_ATTESTED)
        # Without a reason that agents act upon: it tries again, and goes on once it is released.
        self._replica.index.quarantine.check(spiffe_id)
        verdict = judge_serial(self._replica.index.agents.get(spiffe_id), caller.serial)
        if verdict is Verdict.ACTIVE:
            return
        await self._replica.refresh()
        verdict = judge_serial(self._replica.index.agents.get(spiffe_id), caller.serial)
        if verdict is Verdict.PROMOTE:
            verdict = await self._promote(spiffe_id, caller.serial)
        if verdict is Verdict.ACTIVE:
            return
        if verdict is Verdict.REPLAYED:
            # Two holders of one identity, or a restored backup: somebody should look.
            self._log.warning("agent_serial_replayed", agent=str(spiffe_id), serial=f"{caller.serial:x}")
        raise PermissionDenied(f"agent {spiffe_id}: {_TEXTS[verdict]}", reason=verdict.reason)

    async def _promote(self, spiffe_id: SpiffeId, serial: int) -> Verdict:
        try:
            await self._agents.promote(spiffe_id, serial)
        except FailedPrecondition:
            return Verdict.REPLAYED
        except NotFound:
            return Verdict.NOT_ATTESTED
        await self._replica.refresh()
        self._log.info("agent_certificate_promoted", agent=str(spiffe_id), serial=f"{serial:x}")
        return Verdict.ACTIVE

    def _is_administrator(self, spiffe_id: SpiffeId, allowed: frozenset[Who]) -> bool:
        if Who.ADMIN in allowed and spiffe_id in self._admin_ids:
            return True
        if not allowed & {Who.ADMIN, Who.DOWNSTREAM}:
            return False
        return any(
            (entry.admin and Who.ADMIN in allowed) or (entry.downstream and Who.DOWNSTREAM in allowed)
            for entry in self._replica.index.entries_of(spiffe_id)
            if not 0 < entry.expires_at < self._unix()
        )

    def _expired(self, caller: Caller) -> PermissionDenied | Unauthenticated:
        message = f"the certificate of {caller} has expired"
        if caller.spiffe_id is not None and is_agent_id(caller.spiffe_id):
            return PermissionDenied(message, reason=DenialReason.AGENT_EXPIRED)
        return Unauthenticated(message)


_TEXTS: Final = {
    Verdict.NOT_ATTESTED: "is not attested",
    Verdict.BANNED: "is banned",
    Verdict.REPLAYED: "presents a certificate that is neither its current nor its new one",
}
