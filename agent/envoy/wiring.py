"""Builds the parts that face Envoy. Nothing of Envoy's messages is loaded before the first Envoy asks."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.attest.sessions import Sessions
from agent.broadcast import Broadcast
from agent.enforcement.counts import DecisionCounts
from agent.enforcement.ports import Decisions, EnforcementSource
from agent.envoy.fleet import Fleet
from agent.envoy.services import envoy_services
from agent.identities import Identities
from agent.refusals import Refusals
from control_plane.runtime import tracing
from control_plane.runtime.clock import Clock
from control_plane.runtime.transport import Service

if TYPE_CHECKING:
    from agent.envoy.streams import Streams


@dataclass(frozen=True, slots=True)
class EnvoyParts:
    """The services for the agent's socket, and the Envoys that are connected; `fleet` is to be run."""

    services: list[Service]
    fleet: Fleet


def build_envoy_parts(
    identities: Identities,
    sessions: Sessions,
    broadcast: Broadcast,
    enforcement: EnforcementSource,
    decisions: Decisions,
    clock: Clock,
    refusals: Refusals,
    ready: Callable[[], str],
    counts: DecisionCounts | None = None,
) -> EnvoyParts:
    """`ready` says why no identity can be served yet, and is empty once that is over; `counts` takes what the
    Envoys decided."""
    fleet = Fleet(enforcement)

    @functools.cache
    def streams() -> "Streams":
        from agent.envoy.streams import Streams

        return Streams(sessions, ready)

    def secrets() -> object:
        from agent.envoy.sds import SecretDiscovery

        return SecretDiscovery(identities, streams(), broadcast, clock, refusals)

    def aggregated() -> object:
        from agent.envoy.ads import AggregatedDiscovery
        from agent.envoy.catalogue import Encoder

        def new_mark() -> str:
            return format(int(clock.now().timestamp() * 1_000_000), "x")

        return AggregatedDiscovery(
            identities,
            streams(),
            broadcast,
            enforcement,
            fleet,
            refusals,
            Encoder(),
            new_mark,
            traced=tracing.exports(),
        )

    def authorization() -> object:
        from agent.envoy.authorization import Authorization

        return Authorization(identities, sessions, decisions, refusals)

    def running() -> object:
        from agent.envoy.running import RunningRequests

        return RunningRequests(identities, sessions, enforcement, decisions, fleet, clock)

    def counting() -> object:
        from agent.envoy.counting import Counting

        return Counting(identities, sessions, counts or DecisionCounts(enforcement))

    def spans() -> object:
        from agent.envoy.spans import Spans

        return Spans(identities, sessions, refusals, clock.monotonic, tracing.hand_on)

    services = envoy_services(secrets, aggregated, authorization, running, counting, spans)
    return EnvoyParts(services, fleet)
