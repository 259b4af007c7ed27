"""What the proxies in front of a workload let through, as one formula: the conjunction of its layers.

A layer is what one proxy enforces: CUSTOM, then DENY, then ALLOW, as Istio orders them.
Which proxy there is follows from the workload's mode.
"""

from collections.abc import Iterable, Mapping, Sequence

from control_plane.core.errors import shown
from policies.inventory import Inventory, Service, Workload
from policies.proof import space as sp
from policies.proof.dimensions import Dimensions
from policies.proof.envoy_policy import RbacReader
from policies.proof.envoy_tokens import split_token_filters
from policies.proof.istio_policy import Chain, Reader
from policies.proof.manifests import Document, Manifests, attached, checks_tokens, mapping, selecting
from policies.proof.probes import Interval
from policies.proof.question import Undecidable
from policies.proof.webhook import refusals
from policies.proof.ztunnel_policy import ZtunnelReader

AuthorizationPolicy = "AuthorizationPolicy"
Policy = tuple[Document, str]
"""An AuthorizationPolicy and its action."""

_IGNORED_ANNOTATION = "istio.io/dry-run"


class Guards:
    """Builds the layers of one workload in one space. `agent` is what the agent's own decision means."""

    def __init__(
        self,
        space: sp.Space,
        dimensions: Dimensions,
        inventory: Inventory,
        manifests: Manifests,
        agent: sp.Literal,
    ) -> None:
        self._space = space
        self._dimensions = dimensions
        self._inventory = inventory
        self._manifests = manifests
        self._agent = agent

    def sidecar(self, workload: Workload) -> sp.Literal:
        """The workload's own proxy: HTTP chains on HTTP ports, TCP chains on others, both on unknown ones."""
        policies = _in_force(selecting(self._manifests, AuthorizationPolicy, workload, self._inventory))
        tokens = selecting(self._manifests, "RequestAuthentication", workload, self._inventory)
        claims = checks_tokens(tokens, self._inventory)
        http = self._chain(policies, Chain.HTTP, claims, {})
        tcp = self._chain(policies, Chain.TCP, False, {})
        return self._by_protocol(workload, http, tcp)

    def waypoint(self, workload: Workload, service: Service) -> sp.Literal:
        """The waypoint for one service, whose policies name the service's ports."""
        policies = _in_force(attached(self._manifests, AuthorizationPolicy, workload, service.name))
        tokens = attached(self._manifests, "RequestAuthentication", workload, service.name)
        claims = checks_tokens(tokens, self._inventory)
        ports = {port.port: port.target_port for port in service.ports}
        http = self._chain(policies, Chain.HTTP, claims, ports)
        tcp = self._chain(policies, Chain.TCP, False, ports)
        listed = tuple((port.target_port, port.target_port) for port in service.ports)
        here = self._space.test(Interval(self._dimensions.port, listed)) if listed else sp.FALSE
        return self._space.all_of([here, self._by_protocol(workload, http, tcp)])

    def ztunnel(self, workload: Workload) -> sp.Literal:
        """The node's ztunnel, which knows no CUSTOM."""
        reader = ZtunnelReader(self._space, self._dimensions)
        deny: list[sp.Literal] = []
        allow: list[sp.Literal] | None = None
        for one in selecting(self._manifests, AuthorizationPolicy, workload, self._inventory):
            matched = reader.policy(one.namespace, one.spec)
            if _action(one) == "DENY":
                deny.append(matched)
            elif _action(one) == "ALLOW":
                allow = [*(allow or []), matched]
        return self._decided(deny, allow)

    def envoy(self, workload: Workload) -> sp.Literal:
        """An Envoy without a mesh: the filters written for it."""
        http: list[sp.Literal] = []
        tcp: list[sp.Literal] = []
        for one in self._manifests.of("EnvoyRbac", workload.namespace):
            if one.body.get("workload") == workload.key:
                for name, into, is_http in (("http", http, True), ("tcp", tcp, False)):
                    filters = one.body.get(name, [])
                    if not isinstance(filters, list):
                        raise Undecidable(f"reading {one.name}: {name} is {shown(filters)}, not a list")
                    claims, rest = split_token_filters(filters, self._inventory)
                    into.append(RbacReader(self._space, self._dimensions, is_http, claims).filters(rest))
        if not http:
            return sp.TRUE
        return self._by_protocol(workload, self._space.all_of(http), self._space.all_of(tcp))

    def _chain(
        self, policies: Sequence[Policy], chain: Chain, claims: bool, ports: Mapping[int, int]
    ) -> sp.Literal:
        reader = Reader(
            self._space,
            self._dimensions,
            chain,
            (self._inventory.mesh.trust_domain, *self._inventory.mesh.trust_domain_aliases),
            claims,
            (lambda port: ports.get(port, -1)) if ports else (lambda port: port),
        )
        deny: list[sp.Literal] = []
        allow: list[sp.Literal] | None = None
        for one, action in policies:
            matched = reader.policy(one.namespace, one.spec)
            if action == "ALLOW":
                allow = [*(allow or []), matched]
            elif action == "DENY":
                deny.append(matched)
            elif action == "CUSTOM":
                deny.append(self._space.all_of([matched, self._agent ^ 1]))
        return self._decided(deny, allow)

    def _decided(self, deny: list[sp.Literal], allow: list[sp.Literal] | None) -> sp.Literal:
        """No DENY matches, and an ALLOW does or there is none at all."""
        admitted = sp.TRUE if allow is None else self._space.any_of(allow)
        return self._space.all_of([self._space.any_of(deny) ^ 1, admitted])

    def _by_protocol(self, workload: Workload, http: sp.Literal, tcp: sp.Literal) -> sp.Literal:
        space, port = self._space, self._dimensions.port
        spans = {
            kind: tuple(
                (number, number) for number, protocol in workload.ports.items() if protocol.is_http == kind
            )
            for kind in (True, False)
        }
        at_http, at_tcp = (
            space.test(Interval(port, spans[kind])) if spans[kind] else sp.FALSE for kind in (True, False)
        )
        return space.any_of([
            space.all_of([at_http, http]), space.all_of([at_tcp, tcp]),
            space.all_of([at_http ^ 1, at_tcp ^ 1, space.any_of([http, tcp])]),
        ])  # fmt: skip


def _in_force(documents: Iterable[Document]) -> list[Policy]:
    """The policies that decide something, with what they do."""
    found = []
    for one in documents:
        metadata = mapping(one.body.get("metadata"), one.name)
        if _IGNORED_ANNOTATION not in mapping(metadata.get("annotations") or {}, one.name):
            found.append((one, _action(one)))  # a dry run decides nothing
    return found


def _action(document: Document) -> str:
    for why in refusals(document.body):
        raise Undecidable(f"reading {document.name}: Istio would refuse {why}")
    action = document.spec.get("action", "ALLOW")
    if action not in ("ALLOW", "DENY", "CUSTOM", "AUDIT"):
        raise Undecidable(f"reading {document.name}: action {shown(action)} isn't modelled")
    return str(action)
