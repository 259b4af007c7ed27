"""What a Rego question means for one workload, as a formula over dimensions.

Facts of the caller (namespace, service account, labels) follow from the SPIFFE ID by the inventory. The
workload's own facts are known. On a port that doesn't speak HTTP, `request` and `jwt` are absent. A port that
the inventory doesn't list is no question the policy answers: nothing may be admitted there.
"""

from collections.abc import Mapping

from control_plane.core.errors import Unimplemented
from policies.formula import (
    FALSE,
    HTTP_ONLY,
    TRUE,
    Atom,
    Attribute,
    Between,
    Cidr,
    Contains,
    Equal,
    Formula,
    Glob,
    In,
    Member,
    Opaque,
    Prefix,
    Present,
    Regex,
    Suffix,
    Value,
    substitute,
)
from policies.formula.glob import glob_expression
from policies.inventory import Inventory, Workload
from policies.proof import space as sp
from policies.proof.dimensions import Dimensions
from policies.proof.probes import (
    Constant,
    Dimension,
    Element,
    Ends,
    Interval,
    Matches,
    Probe,
    Starts,
    Within,
    network_span,
    quote,
)

MAX_DISAGREEMENTS_SHOWN = 3


class Undecidable(Unimplemented):
    """A question that the proof can't answer; it is refused, never assumed."""


class QuestionMeaning:
    """Translates formulas about one workload into one space."""

    def __init__(
        self, space: sp.Space, dimensions: Dimensions, inventory: Inventory, workload: Workload
    ) -> None:
        self._space = space
        self._dimensions = dimensions
        self._inventory = inventory
        self._own = destination_facts(inventory, workload)
        self._ports = workload.ports
        self._done: dict[Formula, sp.Literal] = {}

    def of(self, formula: Formula) -> sp.Literal:
        """The meaning at the workload's listed ports; false elsewhere. Without any, nothing is asked."""
        if not self._ports:
            return sp.FALSE
        space = self._space
        with_http = self._at_ports(http=True)
        without = self._at_ports(http=False)
        plain = substitute(
            formula,
            lambda atom: False if atom.attribute.name in HTTP_ONLY and not isinstance(atom, Opaque) else None,
        )
        return space.any_of([
            space.all_of([with_http, self._formula(formula)]), space.all_of([without, self._formula(plain)])
        ])  # fmt: skip

    def _at_ports(self, http: bool) -> sp.Literal:
        chosen = tuple((port, port) for port, protocol in self._ports.items() if protocol.is_http is http)
        return self._space.test(Interval(self._dimensions.port, chosen)) if chosen else sp.FALSE

    def _formula(self, formula: Formula) -> sp.Literal:
        found = self._done.get(formula)
        if found is None:
            if formula is TRUE or formula is FALSE:
                found = sp.TRUE if formula is TRUE else sp.FALSE
            elif formula.atom is not None:
                found = self._atom(formula.atom) ^ int(formula.negated)
            else:
                join = self._space.all_of if formula.kind == "and" else self._space.any_of
                found = join([self._formula(child) for child in formula.children])
            self._done[formula] = found
        return found

    def _atom(self, atom: Atom) -> sp.Literal:
        attribute, dimensions = atom.attribute, self._dimensions
        if isinstance(atom, Opaque):
            return self._space.test(Probe(dimensions.opaque(atom.digest)))
        if attribute in self._own:
            known = self._own[attribute]
            return sp.TRUE if known is not None and atom.holds(known) else sp.FALSE
        name = attribute.name
        if name in ("source.namespace", "source.service_account", "source.labels"):
            return self._fact(atom)
        if name == "source.trust_domain":
            return self._trust_domain(atom)
        if name == "connection.mtls":
            return self._mtls(atom)
        if name == "destination.port":
            return self._number(atom)
        places: dict[str, Dimension] = {
            "source.spiffe_id": dimensions.identity,
            "source.ip": dimensions.source_ip,
            "destination.ip": dimensions.destination_ip,
            "request.method": dimensions.method,
            "request.path": dimensions.path,
            "request.host": dimensions.host,
            "connection.sni": dimensions.sni,
        }
        if name == "request.headers":
            return self._test(atom, dimensions.header(attribute.path[0]))
        if name == "jwt.claims":
            return self._test(atom, dimensions.claim(*attribute.path))
        if name in places:
            return self._test(atom, places[name])
        if name == "destination.labels":
            return sp.FALSE  # the workload doesn't carry the label
        raise Undecidable(f"proving a condition on {attribute}: nothing is known about it")

    def _fact(self, atom: Atom) -> sp.Literal:
        """A fact looked up by SPIFFE ID: the identities for which the atom holds."""
        known = self._inventory.holding
        holding = known.get(atom)
        if holding is None:
            holding = known[atom] = self._identities(atom)
        return self._space.test(Within(self._dimensions.identity, holding)) if holding else sp.FALSE

    def _identities(self, atom: Atom) -> frozenset[str]:
        if atom.attribute.name == "source.labels":
            key = atom.attribute.path[0]
            agreed, torn = self._inventory.label_values(key)
            if torn:
                raise Undecidable(disagreement(key, torn))
            return frozenset(identity for identity, value in agreed.items() if atom.holds(value))
        by_namespace = atom.attribute.name == "source.namespace"
        table = self._inventory.namespaces if by_namespace else self._inventory.service_accounts
        claimed = [identity for _, several in table.items() for identity in several]
        if len(claimed) != len(set(claimed)):
            raise Undecidable(f"proving a condition on {atom.attribute}: one SPIFFE ID has two values of it")
        chosen = [several for value, several in table.items() if atom.holds(value)]
        return frozenset().union(*chosen)

    def _trust_domain(self, atom: Atom) -> sp.Literal:
        identity = self._dimensions.identity
        if isinstance(atom, Present):
            return self._space.test(Probe(identity))
        if isinstance(atom, Equal | In):
            values = (atom.value,) if isinstance(atom, Equal) else atom.values
            return self._space.any_of(
                [self._space.test(Starts(identity, f"spiffe://{value}/")) for value in values]
            )
        if isinstance(atom, Prefix):
            return self._space.test(Starts(identity, f"spiffe://{atom.text}"))
        if isinstance(atom, Suffix):
            return self._space.test(Matches(identity, f"spiffe://[^/]*{quote(atom.text)}/.*"))
        raise Undecidable(
            "proving a condition on input.source.trust_domain: only ==, in and startswith are decided"
        )

    def _mtls(self, atom: Atom) -> sp.Literal:
        """mTLS means an authenticated peer; `input.connection.mtls` itself is always there."""
        authenticated = self._space.test(Probe(self._dimensions.identity))
        if isinstance(atom, Present):
            return sp.TRUE
        truths = [value for value in (True, False) if atom.holds(value)]
        return self._space.any_of([authenticated if value else authenticated ^ 1 for value in truths])

    def _number(self, atom: Atom) -> sp.Literal:
        if isinstance(atom, Present):
            return sp.TRUE
        if isinstance(atom, Between):
            spans: tuple[tuple[int, int], ...] = ((max(atom.low, 0), min(atom.high, 65535)),)
        elif isinstance(atom, Equal | In):
            values = (atom.value,) if isinstance(atom, Equal) else atom.values
            spans = tuple((value, value) for value in values if type(value) is int)
        else:
            return sp.FALSE
        return self._space.test(Interval(self._dimensions.port, spans)) if spans else sp.FALSE

    def _test(self, atom: Atom, dimension: Dimension) -> sp.Literal:
        space = self._space
        if isinstance(atom, Present):
            return space.test(Probe(dimension))
        if isinstance(atom, Equal | In):
            values = (atom.value,) if isinstance(atom, Equal) else atom.values
            texts = frozenset(value for value in values if isinstance(value, str))
            if dimension.kind == "address":
                return space.any_of([self._address(dimension, text) for text in texts])
            rest = [Constant(dimension, str(value).lower()) for value in values if not isinstance(value, str)]
            exact = [space.test(Within(dimension, texts))] if texts else []
            return space.any_of([*exact, *(space.test(one) for one in rest if dimension.kind == "claim")])
        if isinstance(atom, Cidr):
            if dimension.kind != "address":
                raise Undecidable(f"proving a network condition on {atom.attribute}: it isn't an address")
            return space.test(Interval(dimension, (network_span(atom.network),)))
        if dimension.kind == "address":
            raise Undecidable(f"proving a text condition on {atom.attribute}: write net.cidr_contains")
        if isinstance(atom, Prefix):
            return space.test(Starts(dimension, atom.text))
        if isinstance(atom, Suffix):
            return space.test(Ends(dimension, atom.text))
        if isinstance(atom, Contains):
            return space.test(Matches(dimension, f"(?s:.)*{quote(atom.text)}(?s:.)*"))
        if isinstance(atom, Glob):
            return space.test(Matches(dimension, f"(?:{glob_expression(atom.pattern, atom.delimiters)})"))
        if isinstance(atom, Regex):
            return space.test(Matches(dimension, atom.pattern))
        if isinstance(atom, Member):
            return space.test(Element(dimension, Within(dimension, frozenset(atom.values))))
        raise Undecidable(f"proving a condition on {atom.attribute}: {type(atom).__name__} isn't decided")

    def _address(self, dimension: Dimension, text: str) -> sp.Literal:
        """Equality with an address as text: only its canonical spelling ever comes."""
        try:
            low, high = network_span(text)
        except ValueError:
            return sp.FALSE
        return (
            self._space.test(Interval(dimension, ((low, high),)))
            if low == high and "/" not in text
            else sp.FALSE
        )


def destination_facts(inventory: Inventory, workload: Workload) -> Mapping[Attribute, Value | None]:
    """What is known of the workload itself; labels that it doesn't have are not listed."""
    domain = workload.spiffe_id.removeprefix("spiffe://").partition("/")[0]
    facts: dict[Attribute, Value | None] = {
        Attribute("destination.spiffe_id"): workload.spiffe_id,
        Attribute("destination.trust_domain"): domain,
        Attribute("destination.namespace"): workload.namespace,
        Attribute("destination.service_account"): workload.service_account,
    }
    if len(workload.services) == 1:
        facts[Attribute("destination.service")] = workload.services[0].name
    return facts | {Attribute("destination.labels", (key,)): value for key, value in workload.labels.items()}


def disagreement(key: str, torn: Mapping[str, tuple[str, ...]]) -> str:
    """The sentence about a label that workloads of one identity don't agree on."""
    shown = [
        f"{', '.join(keys)} ({identity})" for identity, keys in list(torn.items())[:MAX_DISAGREEMENTS_SHOWN]
    ]
    return f"deciding input.source.labels[{key!r}]: workloads of one SPIFFE ID disagree: {'; '.join(shown)}"
