"""Has an Envoy tell the agent how many requests it decided, and how many of them policy denied.

Envoy counts anyway; here it is told to send the sums, every two seconds, as OpenTelemetry metrics over the
socket that it has (its sink `envoy.stat_sinks.open_telemetry`). So a decision costs nothing more, however
many there are: access logs would cost the agent a message each. Only the counters of inbound listeners are
sent, added up to four numbers; what they mean is told apart here, and read in `counting`.

A request that policy denies is counted once by the one filter that denies it. Requests of callers in
quarantine are nobody's policy and are counted by themselves.
"""

from typing import Final

from agent.envoy.description import ServiceDescription
from agent.envoy.names import AGENT_CLUSTER, TYPE, Json

FLUSH_SECONDS: Final = 2
REQUESTS: Final = "gatehouse.requests"
DENIED: Final = "gatehouse.denied"
DENIED_REQUEST: Final = "gatehouse.denied_request"
CUT_OFF: Final = "gatehouse.cut_off"
WORKLOAD: Final = "gatehouse.spiffe_id"
"""The metrics, and the label that says whose they are. HTTP requests that were denied are in `REQUESTS` too,
of TCP connections only those that a later filter denied; `DENIED_REQUEST` are the others."""

QUARANTINE_PREFIX: Final = "cut_off"
"""What Envoy puts before the counters of the filter `gatehouse.quarantine` (`rules_stat_prefix`)."""

_SINK: Final = f"{TYPE}envoy.extensions.stat_sinks.open_telemetry.v3.SinkConfig"
_CONVERT: Final = f"{_SINK}.ConversionAction"
_DROP: Final = f"{_SINK}.DropAction"
_NAME: Final = f"{TYPE}envoy.extensions.matching.common_inputs.stats.v3.StatFullNameMatchInput"

_HTTP: Final = {
    REQUESTS: ("downstream_rq_completed",),
    CUT_OFF: (f"rbac.{QUARANTINE_PREFIX}.denied",),
    DENIED: ("rbac.denied", "ext_authz.denied", "ext_authz.error", "jwt_authn.denied"),
}
_TCP: Final = {
    REQUESTS: ("gatehouse_deny.rbac.allowed",),
    DENIED_REQUEST: ("gatehouse_deny.rbac.denied",),
    DENIED: ("gatehouse_segmentation.rbac.denied", "gatehouse_allow.rbac.denied"),
}


def counter_sink(service: ServiceDescription) -> Json:
    """What the bootstrap says of it, to be merged into the whole."""
    metric_of = {counter: metric for metric, counters in _TCP.items() for counter in counters}
    metric_of |= {
        f"http.{one.name}.{counter}": metric
        for one in service.inbound
        if one.protocol.is_http
        for metric, counters in _HTTP.items()
        for counter in counters
    }
    label = {"key": WORKLOAD, "value": {"string_value": str(service.spiffe_id)}}
    conversions = {counter: _converted(metric, label) for counter, metric in metric_of.items()}
    sink = {
        "@type": _SINK,
        "grpc_service": {"envoy_grpc": {"cluster_name": AGENT_CLUSTER}},
        "report_counters_as_deltas": True,
        "emit_tags_as_attributes": False,
        "use_tag_extracted_name": False,
        "custom_metric_conversions": {
            "matcher_tree": {
                "input": {"name": "name", "typed_config": {"@type": _NAME}},
                "exact_match_map": {"map": conversions},
            },
            "on_no_match": {"action": {"name": "drop", "typed_config": {"@type": _DROP}}},
        },
    }
    return {
        "stats_sinks": [{"name": "envoy.stat_sinks.open_telemetry", "typed_config": sink}],
        "stats_flush_interval": f"{FLUSH_SECONDS}s",
    }


def _converted(metric: str, label: Json) -> Json:
    config = {"@type": _CONVERT, "metric_name": metric, "static_metric_labels": [label]}
    return {"action": {"name": metric, "typed_config": config}}
