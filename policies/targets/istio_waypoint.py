"""The target `istio-waypoint`: policies attached to services, and a ztunnel that admits only the waypoint.

The waypoint answers both questions of a workload, since nobody behind it sees who called (`registry`).
Policies there name the service's own ports, so each service gets its policies. The connection that
arrives is the waypoint's inner one: server name and source address aren't the caller's, so conditions on
them count as not sayable. Waypoints ignore selectors; ztunnel ignores targetRefs.
"""

from typing import Final

from policies.formula import (
    SNI,
    SOURCE_ID,
    SOURCE_IP,
    Attribute,
    Decision,
    Disjunct,
    Question,
    one_of,
)
from policies.inventory import Inventory, Workload
from policies.targets.clause import Group, port_groups
from policies.targets.emission import Emission, Options, joined, refusal, uses_claims
from policies.targets.istio_authorization import Scope, authorization_policies, selector
from policies.targets.istio_companions import checked_tokens, strict_mtls
from policies.targets.istio_ztunnel import visible_to_ztunnel

NAME: Final = "istio-waypoint"


def emit_workload(
    question: Question, workload: Workload, inventory: Inventory, bundle: str, options: Options
) -> Emission:
    """Objects for one workload: for the waypoint of each service, and for the ztunnel behind."""
    selection = selector(workload, inventory)
    if isinstance(selection, str):
        return refusal(NAME, workload, selection)
    if workload.waypoint is None:
        return refusal(NAME, workload, "the inventory names no waypoint")
    found = []
    for service in workload.services:
        ports: dict[int, tuple[str, ...]] = {}
        for port in service.ports:
            ports[port.target_port] = (*ports.get(port.target_port, ()), str(port.port))
        groups = tuple(
            Group(group.http, tuple(port for port in group.ports if port in ports))
            for group in port_groups(workload)
        )
        refs = [{"group": "", "kind": "Service", "name": service.name}]
        scope = Scope(NAME, {"targetRefs": refs}, tuple(one for one in groups if one.ports), _visible, ports)
        found.append(authorization_policies(question, workload, inventory, scope, bundle, options))
        if uses_claims(question) and inventory.issuers:
            found.append(Emission((checked_tokens(workload, inventory, NAME, {"targetRefs": refs}, bundle),)))
    names = inventory.mesh.names_of(workload.waypoint.spiffe_id)
    caller = Question(Decision((Disjunct(one_of(SOURCE_ID, names)),)))
    behind = Scope(NAME, selection, port_groups(workload), visible_to_ztunnel, {}, custom=False)
    found.append(authorization_policies(caller, workload, inventory, behind, bundle, options))
    found.append(Emission((strict_mtls(workload, NAME, selection, bundle),)))
    whole = joined(found)
    return Emission((), whole.shortfalls) if whole.refused else whole


def _visible(place: Attribute) -> bool:
    return place not in (SNI, SOURCE_IP)
