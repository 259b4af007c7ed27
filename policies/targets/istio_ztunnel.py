"""The target `istio-ztunnel`: policies for workloads in ambient mode without a waypoint.

ztunnel sees callers, addresses and ports, never requests. A rule that needs more can't be said here: its
ALLOW is left out, its DENY widened, and both are reported; put such a workload behind a waypoint.
"""

from typing import Final

from policies.formula import DESTINATION_IP, PORT, SOURCE_ID, SOURCE_IP, Attribute, Question
from policies.inventory import Inventory, Workload
from policies.targets.clause import port_groups
from policies.targets.emission import Emission, Options, refusal
from policies.targets.istio_authorization import Scope, authorization_policies, selector
from policies.targets.istio_companions import strict_mtls

NAME: Final = "istio-ztunnel"
_VISIBLE: Final = frozenset({SOURCE_ID, SOURCE_IP, DESTINATION_IP, PORT})


def emit_workload(
    question: Question, workload: Workload, inventory: Inventory, bundle: str, options: Options
) -> Emission:
    """Objects for one workload."""
    selection = selector(workload, inventory)
    if isinstance(selection, str):
        return refusal(NAME, workload, selection)
    scope = Scope(NAME, selection, port_groups(workload), visible_to_ztunnel, {}, custom=False)
    emission = authorization_policies(question, workload, inventory, scope, bundle, options)
    if emission.refused:
        return emission
    return Emission(
        (*emission.manifests, strict_mtls(workload, NAME, selection, bundle)), emission.shortfalls
    )


def visible_to_ztunnel(place: Attribute) -> bool:
    """What a connection shows."""
    return place in _VISIBLE
