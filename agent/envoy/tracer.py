"""Has an Envoy tell the agent of requests that belong to a trace, by spans over the agent's socket.

Only where the agent itself sends spans to a collector; otherwise Envoys have no tracer at all. An Envoy
begins no trace: what comes without a `traceparent` is passed on with one that is not sampled. That is for the
sampler to say, which looks at nothing else: neither at the headers by which callers can force Envoy's own
choice, which is therefore left at its default, nor at the digits of a request's ID. A caller who says that
its trace is sampled is believed, as everywhere (W3C Trace Context, section 3.2.2.5); how many spans that may
come to is bounded where they arrive (`spans`).
"""

from typing import Final

from agent.envoy.names import AGENT_CLUSTER, TYPE, Json

_SAMPLERS: Final = "envoy.tracers.opentelemetry.samplers"
_SAMPLER_TYPES: Final = f"{TYPE}envoy.extensions.tracers.opentelemetry.samplers.v3"

_NEVER: Final[Json] = {
    "name": f"{_SAMPLERS}.trace_id_ratio_based",
    "typed_config": {
        "@type": f"{_SAMPLER_TYPES}.TraceIdRatioBasedSamplerConfig",
        "sampling_percentage": {"numerator": 0},
    },
}
_AS_THE_CALLER_SAYS: Final[Json] = {
    "name": f"{_SAMPLERS}.parent_based",
    "typed_config": {"@type": f"{_SAMPLER_TYPES}.ParentBasedSamplerConfig", "wrapped_sampler": _NEVER},
}


def tracing_of(name: str) -> Json:
    """What the connection managers of a service say of it, to be merged into the whole."""
    tracer = {
        "@type": f"{TYPE}envoy.config.trace.v3.OpenTelemetryConfig",
        "grpc_service": {"envoy_grpc": {"cluster_name": AGENT_CLUSTER}, "timeout": "1s"},
        "service_name": name,
        "sampler": _AS_THE_CALLER_SAYS,
    }
    return {
        "tracing": {
            "provider": {"name": "envoy.tracers.opentelemetry", "typed_config": tracer},
            "max_path_tag_length": 1,  # of tags nothing is kept, so they may be short
        }
    }
