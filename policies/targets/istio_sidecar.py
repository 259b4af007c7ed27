"""The target `istio-sidecar`: policies that select a workload by its labels, read by its own proxy."""

from typing import Final

from policies.formula import Attribute, Question
from policies.inventory import Inventory, Workload
from policies.targets.clause import port_groups
from policies.targets.emission import Emission, Options, refusal, uses_claims
from policies.targets.istio_authorization import Scope, authorization_policies, selector
from policies.targets.istio_companions import checked_tokens, strict_mtls

NAME: Final = "istio-sidecar"


def emit_workload(
    question: Question, workload: Workload, inventory: Inventory, bundle: str, options: Options
) -> Emission:
    """Objects for one workload."""
    selection = selector(workload, inventory)
    if isinstance(selection, str):
        return refusal(NAME, workload, selection)
    scope = Scope(NAME, selection, port_groups(workload), _visible)
    emission = authorization_policies(question, workload, inventory, scope, bundle, options)
    if emission.refused:
        return emission
    companions = [strict_mtls(workload, NAME, selection, bundle)]
    if uses_claims(question) and inventory.issuers:
        companions.append(checked_tokens(workload, inventory, NAME, selection, bundle))
    return Emission((*emission.manifests, *companions), emission.shortfalls)


def _visible(place: Attribute) -> bool:
    return True
