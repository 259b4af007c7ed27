"""What a server process tells Prometheus. Names are in docs/operations.md; labels have few values.

Nearly everything is asked for when Prometheus looks; only calls and ledger records are counted as they come.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from control_plane.authority.ports import WhoSigns
from control_plane.core.errors import Unavailable
from control_plane.identity.ledger import JwtRecord, Record, X509Record, X509Withheld
from control_plane.runtime.lifecycle import Service
from control_plane.runtime.metrics import Metrics
from control_plane.runtime.metrics_server import MetricsServer
from control_plane.wiring.process import Parts

Observe = Callable[[str, str, float], None]


def metrics_of(parts: Parts) -> tuple[Metrics, Observe]:
    """The metrics of this process, and what its transport tells of calls."""
    metrics = Metrics()
    clock, index = parts.clock, parts.replica.index
    begun = clock.monotonic()
    metrics.gauge("started", "1 while the process runs").set(1)
    metrics.watched("uptime_in_ms", "Since the process started", lambda: (clock.monotonic() - begun) * 1000)
    metrics.watched("entries", "Registration entries", lambda: index.entry_count)
    metrics.watched("agents", "Agents that are known", lambda: len(index.agents))
    metrics.watched("quarantined", "Identities that are cut off", lambda: len(index.quarantine.members))
    metrics.watched(
        "change_sequence", "The last change that this process has taken in", lambda: index.sequence
    )
    metrics.watched("bundle_sequence", "Of the trust bundle", lambda: parts.trust.own.sequence)
    metrics.watched(
        "authority_expires_timestamp_seconds",
        "When the active X.509 authority ends, Unix; 0 without one",
        lambda: _authority_ends(parts),
    )
    metrics.watched(
        "policy_sequence", "The assignment in force", lambda: parts.policies.current.in_force.sequence
    )
    metrics.watched("policy_version", "The version in force for all agents", lambda: _policy(parts)[0])
    metrics.watched("policy_applied_timestamp_seconds", "When it came into force", lambda: _policy(parts)[1])
    metrics.watched("policy_canary_percent", "Of agents with a canary", lambda: _policy(parts)[2])
    _watch_standby(metrics, parts)
    withheld = metrics.counter("svids_withheld", "Certificates that weren't what was asked for")
    issued = metrics.counter("svids_issued", "SVIDs and agent certificates", ("kind",))
    appended = metrics.seconds("ledger_append_seconds", "Until a ledger record is durable, flush included")

    def durable(records: Sequence[Record], seconds: float) -> None:
        appended.observe(seconds)
        for kind, count in Counter(map(type, records)).items():  # counted first: each look at a label is dear
            if kind is X509Record:
                issued.labels("x509").inc(count)
            elif kind is JwtRecord:
                issued.labels("jwt").inc(count)
            elif kind is X509Withheld:
                withheld.inc(count)

    parts.journal.observe = durable
    return metrics, metrics.calls()


def metrics_service(parts: Parts, metrics: Metrics | None, offset: int) -> dict[str, Service]:
    """The listener of the process that is `offset` ports above the one in the settings; empty without one."""
    bind = parts.settings.metrics_bind
    if bind is None or metrics is None:
        return {}
    host, port = bind
    return {"metrics": MetricsServer(metrics, host, port + offset if port else 0)}


def _watch_standby(metrics: Metrics, parts: Parts) -> None:
    authority, clock = parts.authority, parts.clock

    def signs(who: WhoSigns) -> float:
        return 1 if authority.status.signer is who else 0

    def left() -> float:
        status = authority.status
        has_standby = status.signer in (WhoSigns.VAULT, WhoSigns.STANDBY)
        return max(0, status.issuing_ends - clock.unix()) if has_standby else 0

    metrics.watched(
        "authority_vault_up", "1 while Vault signs the leaves of this process", lambda: signs(WhoSigns.VAULT)
    )
    metrics.watched(
        "authority_standby_signing", "1 while the standby CA does", lambda: signs(WhoSigns.STANDBY)
    )
    metrics.watched("authority_standby_seconds_left", "How long issuing could go on without Vault", left)


def _authority_ends(parts: Parts) -> float:
    try:
        return parts.authority.active().x509.issuer.not_after
    except Unavailable:
        return 0


def _policy(parts: Parts) -> tuple[int, int, int]:
    """Version, when it came, percent of a canary; 0 for what there isn't."""
    now = parts.policies.current.in_force
    percent = now.canary.percent if now.canary is not None else 0
    return (now.full.version, now.full.at, percent) if now.full is not None else (0, 0, percent)
