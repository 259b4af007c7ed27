"""The target `network-policy`: Kubernetes NetworkPolicies for the segmentation question.

NetworkPolicy knows pods and addresses, not identities: a caller is said by the namespace and labels of its
workload, and only where those select nobody else. It has no negation, so that `allow and not deny` is
expanded over the inventory. A governed workload always gets a policy, which by itself refuses what isn't
listed. Whatever needs a request can't be said here.

What callers send to a pod of an ambient mesh comes through ztunnel's tunnel (HBONE) on port 15008, which
carries all ports. So whom a rule admits to every port is admitted to the tunnel too, and nobody else is. A
pod behind a waypoint sees the waypoint for its caller, and is refused: the waypoint holds segmentation.
"""

from collections.abc import Sequence
from typing import Final, cast

from policies.formula import (
    PORT,
    SOURCE_ID,
    SOURCE_IP,
    Decision,
    Disjunct,
    Origin,
    Question,
    all_of,
    atoms_of,
    negate,
)
from policies.inventory import Inventory, Mode, Workload
from policies.targets.clause import Clause, Group
from policies.targets.clauses import ClauseBuilder, Unsayable
from policies.targets.emission import Emission, Options, refusal
from policies.targets.istio_authorization import selector
from policies.targets.manifest import manifest
from policies.targets.patterns import PRESENT, Constraint, Pattern
from policies.targets.pod_peers import Node, pod_peers
from policies.targets.shortfall import Shortfall, Step

NAME: Final = "network-policy"
TUNNEL_PORT: Final = 15008


def emit_workload(
    question: Question, workload: Workload, inventory: Inventory, bundle: str, options: Options
) -> Emission:
    """The policy of one workload."""
    if workload.mode is Mode.WAYPOINT:
        return refusal(
            NAME,
            workload,
            "a pod behind a waypoint sees the waypoint for its caller: the policies of the target "
            "istio-waypoint hold segmentation there",
        )
    selection = selector(workload, inventory)
    if isinstance(selection, str):
        return refusal(NAME, workload, selection)
    builder = ClauseBuilder(inventory, workload)
    refused = negate(question.deny.formula)
    decision = Decision(
        tuple(Disjunct(all_of(one.formula, refused), one.origins) for one in question.allow.disjuncts)
    )
    rules: dict[str, tuple[Node, set[Origin]]] = {}
    shortfalls: list[Shortfall] = []
    try:
        # One group for all ports; as HTTP, so that conditions on requests stay visible as not sayable.
        clauses = builder.clauses(decision, Group(True, tuple(workload.ports)))
    except Unsayable as error:
        return refusal(NAME, workload, str(error))
    labels = (one.attribute for one in atoms_of(question.formula) if one.attribute.name == "source.labels")
    words = frozenset(label.path[0] for label in labels)
    for clause in clauses:
        rule, reasons = _rule(clause, words, workload, inventory, builder)
        if reasons:
            step = Step.REFUSED if options.exact_only else Step.NARROWED
            reason = "; ".join(dict.fromkeys(reasons))
            shortfalls.append(Shortfall(NAME, workload.key, step, reason, tuple(sorted(clause.origins))))
        if rule is not None:
            rules.setdefault(repr(rule), (rule, set()))[1].update(clause.origins)
    if any(one.step is Step.REFUSED for one in shortfalls):
        return Emission((), tuple(shortfalls))
    spec = {
        "podSelector": {"matchLabels": dict(workload.labels)},
        "policyTypes": ["Ingress"],
        "ingress": [rules[key][0] for key in sorted(rules)],
    }
    origins = [tuple(sorted(rules[key][1])) for key in sorted(rules)]
    place = (workload.namespace, workload.name, NAME, "net", bundle)
    document = manifest("networking.k8s.io/v1", "NetworkPolicy", *place, {"spec": spec}, origins)
    return Emission((document,), tuple(shortfalls))


def _rule(
    clause: Clause, words: frozenset[str], workload: Workload, inventory: Inventory, builder: ClauseBuilder
) -> tuple[Node | None, list[str]]:
    """An ingress rule that admits no more than the clause, and why it admits less where it does."""
    reasons: list[str] = []
    for place, constraint in clause.constraints:
        if place in (PORT, SOURCE_ID, SOURCE_IP):
            for pattern in _others(constraint):
                return None, [builder.reasons.get(pattern.text, pattern.text)]
        else:
            return None, [f"{place} isn't visible to a NetworkPolicy"]
    callers, addresses = clause.get(SOURCE_ID), clause.get(SOURCE_IP)
    peers: Sequence[Node] = []
    if callers is not None and addresses is not None:
        return None, ["a caller and its address at once"]
    if callers is not None:
        if not callers.unions:
            reasons.append("callers outside the inventory can't be told by what they are not")
        peers, unsaid = _pods(callers, words, inventory)
        reasons += unsaid
    elif addresses is not None:
        peers = _blocks(addresses, reasons)
    if (callers is not None or addresses is not None) and not peers:
        return None, reasons
    ports = clause.get(PORT)
    numbers = sorted(int(one.text) for one in ports.unions[0]) if ports is not None else []
    if not numbers:
        return None, reasons  # nothing listens; a rule without ports would be one for all of them
    if workload.mode is Mode.AMBIENT:
        if set(numbers) >= workload.ports.keys():
            numbers.append(TUNNEL_PORT)
        else:
            reasons.append(
                f"callers in an ambient mesh come through port {TUNNEL_PORT}, which carries every port"
            )
    rule: dict[str, object] = {"from": peers} if peers else {}
    rule["ports"] = [{"port": number, "protocol": "TCP"} for number in numbers]
    return rule, reasons


def _others(constraint: Constraint) -> list[Pattern]:
    every = [*constraint.excluded, *(one for union in constraint.unions for one in union)]
    return [one for one in every if one.kind == "other"]


def _pods(
    callers: Constraint, words: frozenset[str], inventory: Inventory
) -> tuple[Sequence[Node], Sequence[str]]:
    """Peers for the workloads whose identity satisfies the constraint, and why some aren't among them."""
    known = inventory.spelled
    if (callers, words) not in known:
        known[callers, words] = _spelled_pods(callers, words, inventory)
    return cast("tuple[Sequence[Node], Sequence[str]]", known[callers, words])


def _spelled_pods(
    callers: Constraint, words: frozenset[str], inventory: Inventory
) -> tuple[Sequence[Node], Sequence[str]]:
    reasons: list[str] = []
    admitted = set(inventory.identities)
    for union in callers.unions:
        named = {one.text for one in union if one.kind == "exact"}
        others = [one for one in union if one.kind != "exact"]
        unknown = sorted(named - inventory.identities)
        reasons += [f"{identity} is no workload of the inventory" for identity in unknown]
        if any(one != PRESENT for one in others):
            reasons.append("callers outside the inventory have no labels to select")
        admitted &= named | {one for one in admitted if any(other.matches(one) for other in others)}
    excluded = {one.text for one in callers.excluded if one.kind == "exact"}
    others = [one for one in callers.excluded if one.kind != "exact"]
    admitted -= excluded | {one for one in admitted if any(other.matches(one) for other in others)}
    peers = pod_peers(frozenset(admitted), words, inventory, reasons)
    return peers, reasons


def _blocks(addresses: Constraint, reasons: list[str]) -> list[Node]:
    """Peers for networks; whether pods are among them is up to the network plugin."""
    if PRESENT in addresses.excluded:
        reasons.append("every connection has an address")
        return []
    unions = addresses.unions or (frozenset({PRESENT}),)
    if len(unions) > 1:
        reasons.append("two networks at once")
        return []
    found: list[Node] = []
    for pattern in sorted(unions[0]):
        for block in ["0.0.0.0/0", "::/0"] if pattern == PRESENT else [pattern.text]:
            inside = [one.text for one in sorted(addresses.excluded) if (":" in one.text) == (":" in block)]
            body: dict[str, object] = {"cidr": block}
            if inside:
                body["except"] = inside
            found.append({"ipBlock": body})
    return found
