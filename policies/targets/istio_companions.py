"""Objects that authorization rests on: mTLS required, tokens checked.

PeerAuthentication STRICT, for identities mean nothing on plain text. RequestAuthentication rejects invalid
tokens only, so that a rule on claims still has to demand the claim (it does: an absent claim never matches).
"""

from collections.abc import Mapping
from typing import Final

from policies.inventory import Inventory, Workload
from policies.targets.manifest import Manifest, manifest

API: Final = "security.istio.io/v1"


def strict_mtls(workload: Workload, target: str, selection: Mapping[str, object], bundle: str) -> Manifest:
    """PeerAuthentication STRICT for one workload."""
    spec = {**selection, "mtls": {"mode": "STRICT"}}
    body = {"spec": spec}
    return manifest(
        API, "PeerAuthentication", workload.namespace, workload.name, target, "mtls", bundle, body
    )


def checked_tokens(
    workload: Workload, inventory: Inventory, target: str, selection: Mapping[str, object], bundle: str
) -> Manifest:
    """RequestAuthentication with every issuer of the inventory."""
    rules = []
    for issuer in inventory.issuers:
        rule: dict[str, object] = {"issuer": issuer.issuer}
        if issuer.audiences:
            rule["audiences"] = list(issuer.audiences)
        rule |= {"jwksUri": issuer.jwks_uri} if issuer.jwks_uri else {"jwks": issuer.jwks}
        rules.append(rule | {"forwardOriginalToken": True})
    spec = {**selection, "jwtRules": rules}
    body = {"spec": spec}
    place = (workload.namespace, workload.name)
    return manifest(API, "RequestAuthentication", *place, target, "tokens", bundle, body)
