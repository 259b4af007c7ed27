"""What an agent tells Prometheus; loaded only where the settings ask for it.

Everything is asked for when Prometheus looks, save calls, which are counted as they end. No label names a
workload. Names are in docs/operations.md.
"""

from typing import TYPE_CHECKING

from control_plane.runtime.clock import Clock
from control_plane.runtime.metrics import Metrics

if TYPE_CHECKING:
    from agent.wiring import Agent


def watch(metrics: Metrics, agent: "Agent", clock: Clock) -> None:
    """Has `metrics` ask the parts of a running agent."""
    begun = clock.monotonic()
    identities, sync, node = agent.identities, agent.sync, agent.node
    policies, tally, envoys = agent.policies, agent.tally, agent.envoys
    metrics.gauge("started", "1 while the process runs").set(1)
    metrics.watched("uptime_in_ms", "Since the process started", lambda: (clock.monotonic() - begun) * 1000)
    metrics.watched("agent_entries", "Entries that this agent serves", lambda: len(identities.entries))
    metrics.watched("agent_svids", "X.509-SVIDs that it holds", lambda: len(identities.held()))
    metrics.watched(
        "agent_svid_expires_timestamp_seconds",
        "When the first of its X.509-SVIDs ends, Unix; 0 without one",
        lambda: min((held.svid.not_after for held in identities.held().values()), default=0),
    )
    metrics.watched(
        "agent_svids_overdue",
        "X.509-SVIDs that should have been renewed by now",
        lambda: sum(held.renew_at < clock.unix() for held in identities.held().values()),
    )
    metrics.watched("agent_synced_timestamp_seconds", "When the server last answered", lambda: sync.last_sync)
    metrics.watched("agent_pushed", "1 while a push stream is open", lambda: float(sync.pushed))
    metrics.watched(
        "agent_bundle_sequence",
        "Of the trust bundle",
        lambda: identities.bundle.sequence if identities.bundle is not None else 0,
    )
    metrics.watched(
        "agent_connected", "1 while the server can be asked", lambda: float(node.session() is not None)
    )
    metrics.watched("agent_policy_sequence", "The assignment in force", lambda: policies.current.sequence)
    metrics.watched("agent_policy_version", "The version in force", lambda: policies.current.version)
    metrics.watched(
        "agent_policy_issued_timestamp_seconds", "When it was assigned", lambda: policies.current.issued_at
    )
    metrics.watched(
        "agent_policy_refused", "1 while a policy that came isn't taken", lambda: float(bool(policies.error))
    )
    metrics.watched(
        "agent_quarantined", "Identities that are cut off", lambda: len(policies.current.quarantined)
    )
    metrics.watched("agent_envoys", "Envoys with an open discovery stream", lambda: len(envoys))
    metrics.total("agent_envoy_rejections", "Configurations that an Envoy refused", lambda: envoys.rejections)
    metrics.watched(
        "agent_envoys_astray",
        "Envoys that run something else than they were sent",
        lambda: len(envoys.astray),
    )
    counts = agent.counts
    metrics.total(
        "agent_decisions", "Requests and connections that Envoys decided", lambda: counts.total.requests
    )
    metrics.total("agent_denials", "Those of them that policy denied", lambda: counts.total.denied)
    metrics.total("agent_rulings_allowed", "Requests that ext_authz allowed", lambda: tally.allowed)
    metrics.total("agent_rulings_denied", "Requests that ext_authz denied", lambda: tally.denied)
