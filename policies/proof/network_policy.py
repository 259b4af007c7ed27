"""What Kubernetes NetworkPolicies let through to a pod, and the segmentation question in the same terms.

A caller is a workload of the inventory or something outside it with an address; pods that the inventory
doesn't know are outside this model (an assumption that every verdict names). Whether an ipBlock covers pods
is up to the network plugin: it does in the upper bound that must not be wider, and doesn't in the lower
bound that is compared for exactness. In an ambient mesh a caller comes to the port or, whatever the port,
through ztunnel's tunnel (HBONE), which reaches whatever listens: either in the upper bound, and both in the
lower. A pod behind a waypoint sees nobody else, so that its policies aren't judged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from control_plane.core.errors import InvalidInput, ResourceExhausted, Unimplemented, shown
from policies.formula import Atom, Attribute, Opaque, Question
from policies.inventory import Inventory, Mode, Workload
from policies.proof import space as sp
from policies.proof.dimensions import Dimensions
from policies.proof.manifests import Document, Manifests, mapping
from policies.proof.probes import Dimension, Interval, Probe, Within, network_span
from policies.proof.question import QuestionMeaning, Undecidable
from policies.proof.verdict import Outcome, Verdict, concrete

NAMESPACE_LABEL = "kubernetes.io/metadata.name"
CALLER = Dimension(2, "workload", "text")
TUNNEL_PORT = 15008
MAX_PORT = 65535
ASSUMPTION = "every pod is a workload of the inventory"
_IDENTITY = (
    "source.spiffe_id",
    "source.namespace",
    "source.service_account",
    "source.trust_domain",
    "source.labels",
)


@dataclass(frozen=True, slots=True)
class Way:
    """One of the ways that packets may take.

    `blocks_cover_pods`: whether an ipBlock does. `tunnelled`: whether they come by the tunnel. `ports`: where
    this way can lead, as spans; None for anywhere.
    """

    blocks_cover_pods: bool
    tunnelled: bool = False
    ports: tuple[tuple[int, int], ...] | None = None

    @staticmethod
    def to(workload: Workload, blocks_cover_pods: bool) -> Sequence["Way"]:
        """The ways to a workload."""
        if workload.mode is not Mode.AMBIENT:
            return (Way(blocks_cover_pods),)
        listening = tuple((port, port) for port in workload.ports)
        return (
            Way(blocks_cover_pods, False, ((0, TUNNEL_PORT - 1), (TUNNEL_PORT + 1, MAX_PORT))),
            Way(blocks_cover_pods, True, listening),
        )


class SegmentationMeaning(QuestionMeaning):
    """The question with the calling workload, not its SPIFFE ID, as what is looked at."""

    def _atom(self, atom: Atom) -> sp.Literal:
        name = atom.attribute.name
        own = name.startswith("source.") or name == "connection.mtls"
        if isinstance(atom, Opaque) or not own or name == "source.ip":
            return super()._atom(atom)
        if name not in _IDENTITY:
            raise Undecidable(f"proving a NetworkPolicy: {atom.attribute} isn't visible to it")
        known = self._inventory.callers
        if atom not in known:
            known[atom] = frozenset(one.key for one in self._inventory.workloads if _holds(atom, one))
        return self._space.test(Within(CALLER, known[atom])) if known[atom] else sp.FALSE


def _holds(atom: Atom, workload: Workload) -> bool:
    facts = {
        "source.spiffe_id": workload.spiffe_id,
        "source.namespace": workload.namespace,
        "source.service_account": workload.service_account,
        "source.trust_domain": workload.spiffe_id.split("/")[2],
    }
    name = atom.attribute.name
    value = workload.labels.get(atom.attribute.path[0]) if name == "source.labels" else facts[name]
    return value is not None and atom.holds(value)


def prove_segmentation(
    question: Question, workload: Workload, inventory: Inventory, manifests: Manifests
) -> Verdict:
    """The verdict on the NetworkPolicies that select one workload."""
    space, dimensions = sp.Space(), Dimensions.of(strict=True)
    try:
        asked = SegmentationMeaning(space, dimensions, inventory, workload).of(question.formula)
        policies = [
            one for one in manifests.of("NetworkPolicy", workload.namespace) if _selects(one, workload)
        ]
        if workload.mode is Mode.WAYPOINT:
            raise Undecidable(
                "proving a NetworkPolicy: the callers of a pod behind a waypoint aren't its peers"
            )
        upper, lower = (
            join([_admitted(policies, inventory, space, dimensions, way) for way in Way.to(workload, pods)])
            for join, pods in ((space.any_of, True), (space.all_of, False))
        )
        outside = space.test(Probe(CALLER)) ^ 1
        given = space.any_of([space.test(Within(CALLER, inventory.keys)), outside])
        for left, right, outcome in ((upper, asked, Outcome.WIDER), (asked, lower, Outcome.NARROWER)):
            witness = space.difference(space.all_of([left, given]), right)
            if witness is not None:
                return _verdict(witness, outcome, question, workload, inventory)
    except (Unimplemented, ResourceExhausted, InvalidInput) as error:
        return Verdict(workload.key, "network-policy", Outcome.UNDECIDED, reason=error.message)
    return Verdict(workload.key, "network-policy", Outcome.EXACT, assumptions=(ASSUMPTION,))


def _verdict(
    witness: sp.Witness, outcome: Outcome, question: Question, workload: Workload, inventory: Inventory
) -> Verdict:
    request, _ = concrete(witness, workload, inventory)
    key = witness.get(CALLER)
    if isinstance(key, str):
        caller = inventory.by_key[key]
        request = request.of({**request.values, Attribute("source.spiffe_id"): caller.spiffe_id})
    rules = question.allow if outcome is Outcome.NARROWER else question.deny
    origins = tuple(sorted({origin for one in rules.disjuncts for origin in one.origins}))
    return Verdict(workload.key, "network-policy", outcome, request, origins, f"caller {key}", (ASSUMPTION,))


def _selects(policy: Document, workload: Workload) -> bool:
    types = policy.spec.get("policyTypes", ["Ingress"])
    ingress = isinstance(types, list) and "Ingress" in types
    return ingress and _takes(_selector(policy.spec.get("podSelector", {}), policy), workload.labels)


def _admitted(
    policies: Sequence[Document],
    inventory: Inventory,
    space: sp.Space,
    dimensions: Dimensions,
    way: Way,
) -> sp.Literal:
    """Everything, where no policy selects the pod; else what some ingress rule admits."""
    if not policies:
        return sp.TRUE
    found = []
    for policy in policies:
        rules = policy.spec.get("ingress", [])
        for rule in rules if isinstance(rules, list) else []:
            node = mapping(rule, f"a rule of {policy.name}")
            if set(node) - {"from", "ports"}:
                raise Undecidable(f"reading {policy.name}: a rule with {shown(sorted(node))}")
            parts = []
            for field, read in (("from", _peer), ("ports", _port)):
                entries = node.get(field)
                if isinstance(entries, list) and entries:
                    several = [
                        read(mapping(one, field), policy, inventory, space, dimensions, way)
                        for one in entries
                    ]
                    parts.append(space.one_of(several))
            found.append(space.all_of(parts))
    admitted = space.any_of(found)
    if way.ports is None:
        return admitted
    return space.all_of([admitted, space.test(Interval(dimensions.port, way.ports))])


def _peer(
    node: Mapping[str, object],
    policy: Document,
    inventory: Inventory,
    space: sp.Space,
    dimensions: Dimensions,
    way: Way,
) -> sp.Literal:
    if "ipBlock" in node:
        block = mapping(node["ipBlock"], "an ipBlock")
        excepted = block.get("except", [])
        inside = space.test(Interval(dimensions.source_ip, (network_span(str(block.get("cidr"))),)))
        spans = tuple(network_span(str(one)) for one in excepted) if isinstance(excepted, list) else ()
        outside = space.test(Interval(dimensions.source_ip, spans)) ^ 1 if spans else sp.TRUE
        who = sp.TRUE if way.blocks_cover_pods else space.test(Probe(CALLER)) ^ 1
        return space.all_of([inside, outside, who])
    if set(node) - {"namespaceSelector", "podSelector"}:
        raise Undecidable(f"reading {policy.name}: a peer with {shown(sorted(node))}")
    pods = _selector(node.get("podSelector", {}), policy)
    if "namespaceSelector" in node:
        namespaces = _selector(node["namespaceSelector"], policy)
    else:
        namespaces = (Requirement(NAMESPACE_LABEL, "In", frozenset({policy.namespace})),)
    for one in namespaces:
        if one.key != NAMESPACE_LABEL:
            raise Undecidable(
                f"reading {policy.name}: namespace label {shown(one.key)} isn't in the inventory"
            )
    known = inventory.callers
    if (namespaces, pods) not in known:
        known[namespaces, pods] = frozenset(
            one.key
            for one in inventory.workloads
            if _takes(namespaces, {NAMESPACE_LABEL: one.namespace}) and _takes(pods, one.labels)
        )
    keys = known[namespaces, pods]
    return space.test(Within(CALLER, keys)) if keys else sp.FALSE


def _port(
    node: Mapping[str, object],
    policy: Document,
    inventory: Inventory,
    space: sp.Space,
    dimensions: Dimensions,
    way: Way,
) -> sp.Literal:
    if node.get("protocol", "TCP") != "TCP":
        return sp.FALSE  # the question is about TCP
    low = node.get("port")
    if low is None:
        return sp.TRUE
    high = node.get("endPort", low)
    if not isinstance(low, int) or not isinstance(high, int):
        raise Undecidable(f"reading {policy.name}: port {shown(low)} isn't a number")
    if way.tunnelled:
        return sp.TRUE if low <= TUNNEL_PORT <= high else sp.FALSE
    return space.test(Interval(dimensions.port, ((low, high),)))


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a label selector asks of one label (Kubernetes, LabelSelectorRequirement)."""

    key: str
    operator: str
    values: frozenset[str]

    def holds(self, value: str | None) -> bool:
        """Whether a label with this value, None for none, fulfils it."""
        if self.operator == "In":
            return value in self.values
        if self.operator == "NotIn":
            return value not in self.values  # an object without the label is taken as well
        return (value is not None) == (self.operator == "Exists")


def _takes(selector: tuple[Requirement, ...], labels: Mapping[str, str]) -> bool:
    return all(one.holds(labels.get(one.key)) for one in selector)


def _selector(node: object, policy: Document) -> tuple[Requirement, ...]:
    """The requirements of a label selector, all of which must hold; an empty one takes everything."""
    selector = mapping(node, f"a selector of {policy.name}")
    if set(selector) - {"matchLabels", "matchExpressions"}:
        raise Undecidable(f"reading {policy.name}: a selector with {shown(sorted(selector))}")
    labels = mapping(selector.get("matchLabels", {}), "labels")
    found = [Requirement(str(key), "In", frozenset({str(value)})) for key, value in labels.items()]
    expressions = selector.get("matchExpressions", [])
    for one in expressions if isinstance(expressions, list) else [expressions]:
        expression = mapping(one, f"an expression of {policy.name}")
        key, operator, values = (expression.get(field) for field in ("key", "operator", "values"))
        listed = values if isinstance(values, list) else []
        if (
            set(expression) - {"key", "operator", "values"}
            or not isinstance(key, str)
            or operator not in ("In", "NotIn", "Exists", "DoesNotExist")
            or bool(listed) != (operator in ("In", "NotIn"))
        ):
            raise Undecidable(f"reading {policy.name}: a selector with {shown(dict(expression))}")
        found.append(Requirement(key, str(operator), frozenset(map(str, listed))))
    return tuple(found)
