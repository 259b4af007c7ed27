"""Builds the agent from its parts and runs it: the only place that picks implementations.

Order of the start: lock the data directory, find the cache key, restore what was known, open the sockets
(until something is known they answer Unavailable, so that workloads may start first), then attest and follow
the server. The end is the reverse: sockets first, so that no workload is served half.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.admin import Admin, Debug
from agent.attest.digests import DigestCache
from agent.attest.sessions import Sessions
from agent.attest.unix import UnixAttestor
from agent.bootstrap import read_trust_bundle, unsafe_bundle
from agent.broadcast import Broadcast
from agent.cache import POLICY_FILE, CacheFile
from agent.cache_key import locate_key
from agent.enforcement.compiler import Compiler, judge_of
from agent.enforcement.counts import DecisionCounts
from agent.enforcement.policies import Policies
from agent.enforcement.tally import Tally
from agent.envoy.fleet import Fleet
from agent.envoy.wiring import build_envoy_parts
from agent.heard import Heard
from agent.identities import Identities
from agent.jwt_svids import JwtSvids
from agent.keeper import Keeper
from agent.logger import Logger
from agent.node import Node, Standing
from agent.node_attestors import JoinToken, NodeAttestor, X509ProofOfPossession
from agent.ports import Dial
from agent.refusals import Refusals
from agent.reporting import Reporter
from agent.server_api import GrpcDial
from agent.settings import AgentSettings
from agent.sockets import lock_data_dir, prepare_socket
from agent.storage import Storage, restore
from agent.sync import Synchroniser
from agent.trust import ServerTrust
from agent.workload_api import WorkloadApi
from control_plane.core.bundle import Bundle
from control_plane.core.errors import FailedPrecondition, PermissionDenied
from control_plane.proto import workloadapi_pb2
from control_plane.proto.gatehouse.agent.v1 import admin_pb2
from control_plane.proto.spire.api.agent.debug.v1 import debug_pb2
from control_plane.proto.spire.api.agent.logger.v1 import logger_pb2
from control_plane.runtime import log
from control_plane.runtime.clock import Clock, SystemClock
from control_plane.runtime.lifecycle import Ending, Service, run_services
from control_plane.runtime.transport import Limits, Server, health, reflection, service

WORKLOAD_SOCKET_MODE = 0o777  # who may have what is decided by attestation, not by the file's mode
ADMIN_SOCKET_MODE = 0o600
GRACE_SECONDS = 1.0  # for calls; streams never end by themselves, and their clients wait for the next agent

_log = log.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Agent:
    """The running parts, as tests and benchmarks want to get at them."""

    identities: Identities
    node: Node
    sync: Synchroniser
    policies: Policies
    tally: Tally
    counts: DecisionCounts
    reporter: Reporter
    compiler: Compiler
    envoys: Fleet
    keeper: Keeper
    sessions: Sessions
    broadcast: Broadcast
    storage: Storage
    workload_server: Server
    admin_server: Server
    more: dict[str, Service]

    def ready(self) -> str:
        """Why workloads can't be served yet; empty if they can."""
        return not_ready(self.identities, self.node)


def not_ready(identities: Identities, node: Node) -> str:
    """The agent knows whom to serve once it heard from the server, in this life or the one before."""
    if node.standing is Standing.BANNED:
        return "this agent was banned"
    if identities.bundle is None:
        return node.error or "it hasn't heard from the server yet"
    return ""


async def run_agent(
    settings: AgentSettings, stop: asyncio.Event, environment: Mapping[str, str] = os.environ
) -> None:
    """Runs the agent until `stop`.

    Raises FailedPrecondition if it can't start, or has nothing to serve and no way to attest;
    PermissionDenied if the server has banned it.
    """
    clock = SystemClock()
    lock = lock_data_dir(settings.data_dir)
    try:
        with Ending("agent") as ending:
            agent = await build_agent(settings, clock, environment)
            prepare_socket(settings.socket_path)
            prepare_socket(settings.admin_socket_path)
            await agent.workload_server.listen_unix(settings.socket_path, WORKLOAD_SOCKET_MODE)
            await agent.admin_server.listen_unix(settings.admin_socket_path, ADMIN_SOCKET_MODE)
            _log.info(
                "agent_serving", socket=str(settings.socket_path), admin=str(settings.admin_socket_path)
            )
            await serve(agent, stop, ending)
            if agent.node.standing is Standing.BANNED:
                raise PermissionDenied(
                    "the server has banned this agent",
                    hint="find out why; then evict it on the server and attest anew",
                )
    finally:
        os.close(lock)


async def serve(agent: Agent, stop: asyncio.Event, ending: Ending | None = None) -> None:
    """Runs all services until a signal, `stop`, or the agent's ban; closes everything."""

    services: dict[str, Service] = {
        "node": agent.node,
        "sync": agent.sync,
        "policies": agent.policies,
        "reporter": agent.reporter,
        "envoys": agent.envoys,
        "keeper": agent.keeper,
        "sessions": agent.sessions,
        "storage": agent.storage,
        **agent.more,
    }
    try:
        await run_services(services, stop=stop, ending=ending)
    finally:
        if agent.node.standing is Standing.BANNED:
            agent.identities.withdraw_everything()
            agent.broadcast.wake_all()
            agent.policies.forget()
            agent.storage.delete()
        await agent.workload_server.close(GRACE_SECONDS if stop.is_set() else 0)
        await agent.admin_server.close(0)
        await agent.compiler.close()
        agent.sessions.close()


async def build_agent(settings: AgentSettings, clock: Clock, environment: Mapping[str, str]) -> Agent:
    """All parts, connected, nothing started. Reads the cache and the trust bundle."""
    key = locate_key(settings.data_dir, settings.cache_key_file, environment)
    _log.info("cache_key", source=key.source, survives_reboot=key.survives_reboot)
    identities = Identities(settings.trust_domain, soft_cap=settings.svid_cache_size)
    heard = Heard()
    storage = Storage(settings.data_dir, identities, heard, key, clock)
    known = storage.load_agent()
    node = Node(
        settings.trust_domain,
        attestor=_node_attestor(settings),
        dial=_dial(settings, clock, heard),
        trust=ServerTrust(
            known.bundle if known is not None else await _first_bundle(settings, clock),
            known.withdrawn if known is not None else (),
            _operators_file(settings),
        ),
        credential=known.credential if known is not None else None,
        save=storage.save_agent,
        clock=clock,
    )
    stored = storage.load_workloads()
    if stored is not None:
        valid = restore(identities, stored, clock.unix())
        heard.position = stored.heard
        _log.info(
            "cache_restored", entries=len(stored.entries), valid_svids=valid, written_at=stored.synced_at
        )
    broadcast = Broadcast(identities)
    keeper = Keeper(identities, node, broadcast, clock, storage.dirty)
    broadcast.on_change = keeper.wake
    jwt_svids = JwtSvids(keeper, clock.unix)
    compiler = Compiler()
    policies = Policies(
        settings.trust_domain,
        lambda: {entry.spiffe_id for entry in identities.entries.values()},
        CacheFile(settings.data_dir / POLICY_FILE, key),
        compiler.compile_for,
        judge_of,
        clock,
    )
    counts = DecisionCounts(policies)
    reporter = Reporter(node, counts)
    sync = Synchroniser(identities, node, keeper, jwt_svids, clock, storage.dirty, policies, reporter)
    sync.last_sync = stored.synced_at if stored is not None else 0
    sessions = Sessions(UnixAttestor(DigestCache(settings.executable_size_limit_bytes)))

    def ready() -> str:
        return not_ready(identities, node)

    def unheard() -> str:
        return sync.error or node.error or "no answer yet"

    refusals = Refusals(clock, sync.first_word, unheard)
    api = WorkloadApi(identities, sessions, broadcast, jwt_svids, clock, ready, refusals)
    tally = Tally(policies)
    envoy = build_envoy_parts(
        identities, sessions, broadcast, policies, tally, clock, refusals, ready, counts
    )
    healthy = health(lambda: not ready())
    public = [service(workloadapi_pb2.DESCRIPTOR.services_by_name["SpiffeWorkloadAPI"], api), healthy]
    private = [
        service(
            admin_pb2.DESCRIPTOR.services_by_name["Admin"], Admin(identities, sessions, node, sync, policies)
        ),
        service(
            logger_pb2.DESCRIPTOR.services_by_name["Logger"],
            Logger(settings.log_level, json=settings.log_json),
        ),
        service(
            debug_pb2.DESCRIPTOR.services_by_name["Debug"], Debug(identities, node, sync, jwt_svids, clock)
        ),
        healthy,
    ]
    limits = Limits(idle_timeout_seconds=0, max_connection_age_seconds=0)
    metrics = None
    if settings.metrics_bind is not None:
        from control_plane.runtime.metrics import Metrics  # who doesn't ask for it doesn't pay for it

        metrics = Metrics()
    agent = Agent(
        identities=identities,
        node=node,
        sync=sync,
        policies=policies,
        tally=tally,
        counts=counts,
        reporter=reporter,
        compiler=compiler,
        envoys=envoy.fleet,
        keeper=keeper,
        sessions=sessions,
        broadcast=broadcast,
        storage=storage,
        workload_server=Server(
            [*public, *reflection(public), *envoy.services],
            limits=limits,
            observe=metrics.calls() if metrics is not None else None,
        ),
        admin_server=Server([*private, *reflection(private)], limits=limits),
        more={},
    )
    if metrics is not None and settings.metrics_bind is not None:
        from agent.metrics import watch
        from control_plane.runtime.metrics_server import MetricsServer

        watch(metrics, agent, clock)
        agent.more["metrics"] = MetricsServer(metrics, *settings.metrics_bind)
    return agent


def _node_attestor(settings: AgentSettings) -> NodeAttestor | None:
    if settings.join_token is not None:
        return JoinToken(settings.join_token)
    if settings.x509pop is not None:
        return X509ProofOfPossession(*settings.x509pop, random_bytes=os.urandom)
    return None


def _dial(settings: AgentSettings, clock: Clock, heard: Heard) -> Dial:
    return GrpcDial(settings.server_host, settings.server_port, settings.trust_domain, clock, heard)


def _operators_file(settings: AgentSettings) -> Callable[[], Bundle] | None:
    path = settings.trust_bundle
    return None if path is None else lambda: read_trust_bundle(path, settings.trust_domain)


async def _first_bundle(settings: AgentSettings, clock: Clock) -> Bundle:
    if settings.trust_bundle is not None:
        return read_trust_bundle(settings.trust_bundle, settings.trust_domain)
    if settings.insecure_bootstrap:
        _log.warning("insecure_bootstrap", danger="whatever answers at the server's address is trusted")
        return await unsafe_bundle(settings.server_host, settings.server_port, settings.trust_domain, clock)
    raise FailedPrecondition(
        "starting the agent: it doesn't know whom to trust",
        hint="give --trust-bundle (on the server: gatehouse bundle show > bundle.pem)",
    )
