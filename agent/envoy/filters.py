"""Who gets through a listener: the filters of a workload's policy, as Envoy's JSON.

Every listener looks at the caller's certificate first, once a connection (`gatehouse.caller`).

An HTTP listener names two filters at all times, and their content comes by extension discovery (ECDS): a new
policy holds from the next request on and no connection ends. What Envoy runs before it has heard from the
agent is the default written here, which denies everything. A TCP listener carries its filters itself.

    gatehouse.quarantine   callers that are cut off; everybody, if the service itself is
    gatehouse.policy       one chain, replaced as a whole, so that no request meets half of two policies:
        gatehouse.tokens         checks tokens of end users and fills in their claims
        gatehouse.deny           the policy's DENY
        gatehouse.segmentation   the ALLOW of segmentation: which connections may be
        gatehouse.allow          the ALLOW of authorization: which requests may be; the rest is denied
      or, where Envoy can't say what Rego says, after the tokens
        gatehouse.external       the agent judges every request, and every connection of TCP

What the policy means isn't decided here: the filters are those of the target `envoy-rbac`, proved.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from agent.enforcement.ports import WorkloadPolicy
from agent.envoy.counters import QUARANTINE_PREFIX
from agent.envoy.names import (
    ADS,
    AGENT_CLUSTER,
    ALLOW,
    CALLER,
    COMPOSITE,
    DENY,
    DNS_NAMES,
    EXECUTE,
    EXT_AUTHZ,
    EXTERNAL,
    HTTP_RBAC,
    JWT_AUTHN,
    JWT_FILTER,
    MATCHING,
    NETWORK_EXT_AUTHZ,
    NETWORK_RBAC,
    POLICY,
    QUARANTINE,
    RBAC_ACTION,
    ROUTER,
    SEGMENTATION,
    TOKENS,
    URI_NAMES,
    Json,
)
from control_plane.core.errors import Bug, shown
from control_plane.core.spiffe_id import SpiffeId

FIRST_ANSWER: Final = "5s"  # how long a new listener waits for its filters before it opens, denying

ANSWER_SECONDS: Final = "20s"  # how long Envoy waits for a judgement, a restart included, before it denies

_KINDS: Final = {TOKENS: JWT_AUTHN, DENY: HTTP_RBAC, SEGMENTATION: HTTP_RBAC, ALLOW: HTTP_RBAC}
_TCP_KINDS: Final = dict.fromkeys((DENY, SEGMENTATION, ALLOW), NETWORK_RBAC)


def caller_check() -> Json:
    """A network filter that closes connections of callers whose certificate holds more than one SPIFFE ID.

    Envoy's SPIFFE validator picks the authorities by the first URI, while rules match any URI and, as if it
    were one, any DNS name. So a federated authority could add a name of ours to one of its own (X.509-SVID,
    section 2, has exactly one URI). Inputs join several names by commas.
    """
    one_id: Json = {"safe_regex": {"google_re2": {}, "regex": _ONE_ID}}
    names_that_fit = [
        _names_that("uri", URI_NAMES, one_id),
        {"not_matcher": _names_that("dns", DNS_NAMES, {"contains": "/"})},
    ]
    fitting = {"predicate": {"and_matcher": {"predicate": names_that_fit}}, "on_match": _action("ALLOW")}
    config = {
        "@type": NETWORK_RBAC,
        "stat_prefix": CALLER.replace(".", "_"),
        "matcher": {"matcher_list": {"matchers": [fitting]}, "on_no_match": _action("DENY")},
    }
    return {"name": CALLER, "typed_config": config}


_ONE_ID: Final = "spiffe://[a-z0-9._-]+/[A-Za-z0-9._/-]+"


def _names_that(name: str, names: str, match: Json) -> Json:
    return {
        "single_predicate": {"input": {"name": name, "typed_config": {"@type": names}}, "value_match": match}
    }


def _action(action: str) -> Json:
    return {
        "action": {"name": action, "typed_config": {"@type": RBAC_ACTION, "name": CALLER, "action": action}}
    }


def http_chain() -> list[Json]:
    """The HTTP filters of a listener in order, the router last."""
    router: Json = {"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}
    return [_discovered(QUARANTINE, HTTP_RBAC), _discovered(POLICY, MATCHING), router]


def http_contents(
    policy: WorkloadPolicy | None, own: SpiffeId, quarantined: frozenset[SpiffeId]
) -> dict[str, Json]:
    """What those filters hold now, by name. Without a policy everything is denied."""
    found = _by_name(policy.http_filters if policy is not None else (), _KINDS)
    if policy is not None and policy.custom:
        # Tokens are Envoy's to check all the same; everything else is judged by the agent.
        chain = {TOKENS: found[TOKENS]} if TOKENS in found else {}
        chain[EXTERNAL] = HTTP_EXTERNAL
    else:
        chain = {ALLOW: _everybody_denied(HTTP_RBAC)} | found
    ordered = [name for name in (*_KINDS, EXTERNAL) if name in chain]
    return {
        QUARANTINE: {**_quarantine(own, quarantined, HTTP_RBAC), "rules_stat_prefix": QUARANTINE_PREFIX},
        POLICY: _at_once([{"name": name, "typed_config": chain[name]} for name in ordered]),
    }


def tcp_chain(policy: WorkloadPolicy | None, own: SpiffeId, quarantined: frozenset[SpiffeId]) -> list[Json]:
    """The network filters of a TCP listener in order, without the proxy itself."""
    found = _by_name(policy.tcp_filters if policy is not None else (), _TCP_KINDS)
    contents = {QUARANTINE: _quarantine(own, quarantined, NETWORK_RBAC)}
    if policy is not None and policy.custom:
        contents[EXTERNAL] = {"@type": NETWORK_EXT_AUTHZ, **_ASK_THE_AGENT}
    else:
        contents |= {
            DENY: found.get(DENY, _nobody_denied(NETWORK_RBAC)),
            SEGMENTATION: found.get(SEGMENTATION, _nobody_denied(NETWORK_RBAC)),
            ALLOW: found.get(ALLOW, _everybody_denied(NETWORK_RBAC)),
        }
    return [
        {"name": name, "typed_config": {**config, "stat_prefix": name.replace(".", "_")}}
        for name, config in contents.items()
    ]


# To judge changes nothing, so Envoy may ask again: an agent that restarts costs requests time, no answer.
# What bounds it is the time, not the number.
_UNTIL_IT_IS_BACK: Final[Json] = {
    "retry_on": "connect-failure,refused-stream,reset,unavailable",
    "num_retries": 1000,
    "retry_back_off": {"base_interval": "0.05s", "max_interval": "0.25s"},
}

_ASK_THE_AGENT: Final[Json] = {
    "transport_api_version": "V3",
    "grpc_service": {
        "envoy_grpc": {"cluster_name": AGENT_CLUSTER},
        "timeout": ANSWER_SECONDS,
        "retry_policy": _UNTIL_IT_IS_BACK,
    },
    "failure_mode_allow": False,
    "include_tls_session": True,
}
HTTP_EXTERNAL: Final[Json] = {
    "@type": EXT_AUTHZ,
    **_ASK_THE_AGENT,
    "status_on_error": {"code": "ServiceUnavailable"},
    "metadata_context_namespaces": [JWT_FILTER],
}
"""The HTTP filter `gatehouse.external`."""


def _discovered(name: str, kind: str) -> Json:
    return {
        "name": name,
        "config_discovery": {
            "config_source": {**ADS, "initial_fetch_timeout": FIRST_ANSWER},
            "default_config": _everybody_denied(HTTP_RBAC),
            "type_urls": list(dict.fromkeys((kind, HTTP_RBAC))),
        },
    }


def _at_once(chain: list[Json]) -> Json:
    """Several filters as the content of one, so that Envoy replaces them together."""
    action = {
        "name": POLICY,
        "typed_config": {"@type": EXECUTE, "filter_chain": {"typed_config": chain}},
    }
    return {
        "@type": MATCHING,
        "extension_config": {"name": "composite", "typed_config": {"@type": COMPOSITE}},
        "xds_matcher": {"on_no_match": {"action": action}},
    }


def _quarantine(own: SpiffeId, quarantined: frozenset[SpiffeId], kind: str) -> Json:
    """DENY for callers that are cut off; without any, it lets everybody pass on to the policy."""
    if own in quarantined:
        return _everybody_denied(kind)
    if not quarantined:
        return _nobody_denied(kind)
    principals: list[Json] = [
        {"authenticated": {"principal_name": {"exact": str(one)}}} for one in sorted(quarantined)
    ]
    policies = {"quarantine": {"permissions": [{"any": True}], "principals": principals}}
    return {"@type": kind, "rules": {"action": "DENY", "policies": policies}}


def _everybody_denied(kind: str) -> Json:
    return {"@type": kind, "rules": {"action": "ALLOW", "policies": {}}}


def _nobody_denied(kind: str) -> Json:
    return {"@type": kind, "rules": {"action": "DENY", "policies": {}}}


def _by_name(filters: Iterable[Json], kinds: Mapping[str, str]) -> dict[str, Json]:
    """A policy's filters by name. Raises Bug for one that has no place: to leave it out would let through
    what it stops."""
    found: dict[str, Json] = {}
    for one in filters:
        name, config = one.get("name"), one.get("typed_config")
        if (
            not isinstance(name, str)
            or not isinstance(config, Mapping)
            or name in found
            or name not in kinds
            or kinds[name] != config.get("@type")
        ):
            raise Bug(f"delivering a policy: a filter came that has no place: {shown(dict(one))}")
        found[name] = config
    return found
