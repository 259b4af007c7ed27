"""Callers of the inventory as peers of a NetworkPolicy: by labels that the policy speaks of, or one by one.

A rule about `input.source.labels.tier` is said by that label, in the namespaces where it selects none but
admitted callers: so a policy grows with its words, not with the callers. A caller that no such selector
takes is said by its namespace and all its labels, and only where these select nobody else.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from policies.inventory import Inventory, Workload

NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"

Node = Mapping[str, object]


def pod_peers(
    admitted: frozenset[str], words: Iterable[str], inventory: Inventory, reasons: list[str]
) -> list[Node]:
    """Peers for the workloads of the `admitted` SPIFFE IDs; `reasons` gets those that can't be said.

    `words` are the labels that the policy asks about.
    """
    callers = {workload.key: workload for one in sorted(admitted) for workload in inventory.by_identity[one]}
    peers: list[Node] = []
    for label in sorted(words):
        shared, covered = _by_label(label, callers, admitted, inventory)
        if len(covered) > len(shared):
            peers += shared
            callers = {key: workload for key, workload in callers.items() if key not in covered}
    alone: dict[str, Node] = {}
    for workload in callers.values():
        taken = inventory.selected_by(workload.namespace, workload.labels)
        strangers = [one.key for one in taken if one.spiffe_id not in admitted]
        if strangers:
            reasons.append(f"the labels of {workload.key} select {strangers[0]} as well")
            continue
        peer = {
            "namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: workload.namespace}},
            "podSelector": {"matchLabels": dict(workload.labels)},
        }
        alone[repr(peer)] = peer
    return peers + [alone[key] for key in sorted(alone)]


def _by_label(
    label: str, callers: Mapping[str, Workload], admitted: frozenset[str], inventory: Inventory
) -> tuple[list[Node], set[str]]:
    """Peers that say callers by one label, and the callers that they cover.

    Namespaces in which the same values select none but admitted callers share a peer.
    """
    values = {
        (one.namespace, value) for one in callers.values() if (value := one.labels.get(label)) is not None
    }
    sound: dict[str, set[str]] = {}
    covered: set[str] = set()
    for namespace, value in values:
        taken = inventory.selected_by(namespace, {label: value})
        if all(one.spiffe_id in admitted for one in taken):
            sound.setdefault(namespace, set()).add(value)
            covered.update(one.key for one in taken)
    alike: dict[tuple[str, ...], list[str]] = {}
    for namespace in sorted(sound):
        alike.setdefault(tuple(sorted(sound[namespace])), []).append(namespace)
    peers: list[Node] = [
        {
            "namespaceSelector": _selector(NAMESPACE_LABEL, namespaces),
            "podSelector": _selector(label, several),
        }
        for several, namespaces in sorted(alike.items())
    ]
    return peers, covered


def _selector(label: str, values: Iterable[str]) -> Node:
    """A label selector that takes any of these values."""
    listed = list(values)
    if len(listed) == 1:
        return {"matchLabels": {label: listed[0]}}
    return {"matchExpressions": [{"key": label, "operator": "In", "values": listed}]}
