"""Who gets through a listener: the filters of a workload's policy, as Envoy's JSON.

An HTTP listener names five filters at all times, and their content comes by extension discovery (ECDS):
a new policy holds from the next request on and no connection ends. What Envoy runs before it has heard from
the agent is the default written here, which denies everything. A TCP listener carries its filters itself.

    gatehouse.quarantine   callers that are cut off; everybody, if the service itself is
    gatehouse.tokens       checks tokens of end users and fills in their claims
    gatehouse.deny         the policy's DENY
    gatehouse.segmentation the ALLOW of segmentation: which connections may be
    gatehouse.allow        the ALLOW of authorization: which requests may be; what it doesn't name is denied

What the policy means isn't decided here: the filters are those of the target `envoy-rbac`, proved.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from agent.enforcement.ports import WorkloadPolicy
from agent.envoy.names import (
    ADS,
    ALLOW,
    DENY,
    HTTP_RBAC,
    JWT_AUTHN,
    NETWORK_RBAC,
    QUARANTINE,
    ROUTER,
    SEGMENTATION,
    TOKENS,
    Json,
)
from control_plane.core.errors import Bug, shown
from control_plane.core.spiffe_id import SpiffeId

FIRST_ANSWER: Final = "5s"  # how long a new listener waits for its filters before it opens, denying

_KINDS: Final = {
    QUARANTINE: HTTP_RBAC,
    TOKENS: JWT_AUTHN,
    DENY: HTTP_RBAC,
    SEGMENTATION: HTTP_RBAC,
    ALLOW: HTTP_RBAC,
}
_TCP_KINDS: Final = dict.fromkeys((DENY, SEGMENTATION, ALLOW), NETWORK_RBAC)


def http_chain(external: Sequence[Json] = ()) -> list[Json]:
    """The HTTP filters of a listener in order, the router last; `external` comes between ALLOW and it."""
    router: Json = {"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}
    return [*(_discovered(name) for name in _KINDS), *external, router]


def http_contents(
    policy: WorkloadPolicy | None, own: SpiffeId, quarantined: frozenset[SpiffeId]
) -> dict[str, Json]:
    """What those filters hold now, by name. Without a policy everything is denied."""
    found = _by_name(policy.http_filters if policy is not None else (), _KINDS)
    return {
        QUARANTINE: _quarantine(own, quarantined, HTTP_RBAC),
        TOKENS: found.get(TOKENS, {"@type": JWT_AUTHN}),
        DENY: found.get(DENY, _nobody_denied(HTTP_RBAC)),
        SEGMENTATION: found.get(SEGMENTATION, _nobody_denied(HTTP_RBAC)),
        ALLOW: found.get(ALLOW, _everybody_denied(HTTP_RBAC)),
    }


def tcp_chain(policy: WorkloadPolicy | None, own: SpiffeId, quarantined: frozenset[SpiffeId]) -> list[Json]:
    """The network filters of a TCP listener in order, without the proxy itself."""
    found = _by_name(policy.tcp_filters if policy is not None else (), _TCP_KINDS)
    contents = {
        QUARANTINE: _quarantine(own, quarantined, NETWORK_RBAC),
        DENY: found.get(DENY, _nobody_denied(NETWORK_RBAC)),
        SEGMENTATION: found.get(SEGMENTATION, _nobody_denied(NETWORK_RBAC)),
        ALLOW: found.get(ALLOW, _everybody_denied(NETWORK_RBAC)),
    }
    return [
        {"name": name, "typed_config": {**config, "stat_prefix": name.replace(".", "_")}}
        for name, config in contents.items()
    ]


def _discovered(name: str) -> Json:
    kind = _KINDS[name]
    denying = _everybody_denied(HTTP_RBAC)
    kinds = list(dict.fromkeys((kind, HTTP_RBAC)))
    return {
        "name": name,
        "config_discovery": {
            "config_source": {**ADS, "initial_fetch_timeout": FIRST_ANSWER},
            "default_config": denying,
            "type_urls": kinds,
        },
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
            or kinds.get(name) != config.get("@type")
        ):
            raise Bug(f"delivering a policy: a filter came that has no place: {shown(dict(one))}")
        found[name] = config
    return found
