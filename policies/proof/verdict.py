"""The proof of one workload: what its guards let through against what Rego says, with a witness.

`exact`: the same for every request. `narrower`: nothing more is let through, and a shortest request shows
what isn't. `wider` and `undecided` are refusals. Every witness is checked again with the plain evaluator
before it is shown; a disagreement is a bug in the proof and stops everything.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from control_plane.core.errors import Bug, InvalidInput, ResourceExhausted, Unimplemented
from policies.formula import (
    DESTINATION_IP,
    HOST,
    METHOD,
    MTLS,
    NAMESPACE,
    PATH,
    PORT,
    SERVICE_ACCOUNT,
    SNI,
    SOURCE_ID,
    SOURCE_IP,
    TRUST_DOMAIN,
    Attribute,
    Formula,
    Opaque,
    Origin,
    Question,
    Request,
    Value,
    atoms_of,
    evaluate,
)
from policies.inventory import ClaimShape, Inventory, Mode, Workload
from policies.proof import space as sp
from policies.proof.dimensions import Dimensions
from policies.proof.guards import Guards
from policies.proof.manifests import Manifests, requires_mtls
from policies.proof.probes import ABSENT, Interval, Other, Probe, Within
from policies.proof.question import QuestionMeaning, destination_facts

HEADERS: Final = "request.headers"
PLAIN_TEXT: Final = "plain text is refused"
SEVERAL_LINES: Final = (
    "a header that comes several times is matched as one text, joined by commas: where Envoy 1.40 or newer "
    'guards, its runtime value envoy.reloadable_features.rbac_match_headers_individually is "false"'
)


class Outcome(enum.StrEnum):
    """How a layer compares with its question."""

    EXACT = "exact"
    NARROWER = "narrower"
    WIDER = "wider"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome for one layer of one workload."""

    workload: str
    layer: str
    outcome: Outcome
    witness: Request | None = None
    origins: tuple[Origin, ...] = ()
    reason: str = ""
    assumptions: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether nothing is let through that Rego refuses."""
        return self.outcome in (Outcome.EXACT, Outcome.NARROWER)

    def __str__(self) -> str:
        lines = f" ({', '.join(map(str, self.origins))})" if self.origins else ""
        shown = f": {self.witness}" if self.witness is not None else f": {self.reason}" if self.reason else ""
        return f"{self.workload} {self.layer}: {self.outcome}{shown}{lines}"


@dataclass(frozen=True, slots=True)
class Layer:
    """One guard and the formula it is held against."""

    name: str
    guard: sp.Literal
    question: sp.Literal


def prove_workload(
    question: Question, workload: Workload, inventory: Inventory, manifests: Manifests
) -> tuple[Verdict, ...]:
    """One verdict for each layer that the workload's mode calls for.

    A governed workload refuses plain text, whatever its policy says: where the manifests don't see to that, a
    request without an identity that gets in is one too many.
    """
    space = sp.Space()
    shapes = claim_shapes(inventory)
    name = f"istio-{workload.mode}" if workload.mode is not Mode.ENVOY else "envoy-rbac"
    try:
        strict = workload.mode is Mode.ENVOY or requires_mtls(manifests, workload, inventory)
        dimensions = Dimensions.of(strict=True, claim_shapes=shapes, authenticated=strict)
        meaning = QuestionMeaning(space, dimensions, inventory, workload).of(question.formula)
        if not strict:
            meaning = space.all_of([meaning, space.test(Probe(dimensions.identity))])
        guards = Guards(space, dimensions, inventory, manifests, meaning)
        layers = _layers(workload, inventory, guards, space, dimensions, meaning)
        assumed = _assumed(question.formula, workload.mode, strict)
        return tuple(
            _compare(layer, space, question, workload, inventory, strict, assumed) for layer in layers
        )
    except (Unimplemented, ResourceExhausted, InvalidInput) as error:
        return (Verdict(workload.key, name, Outcome.UNDECIDED, reason=error.message),)


def _assumed(formula: Formula, mode: Mode, strict: bool) -> tuple[str, ...]:
    """What the manifests can't see to. Our own bootstrap sees to how headers are matched, a mesh may not."""
    headers = mode is not Mode.ENVOY and any(
        atom.attribute.name == HEADERS for atom in atoms_of(formula) if not isinstance(atom, Opaque)
    )
    return (*((PLAIN_TEXT,) if strict else ()), *((SEVERAL_LINES,) if headers else ()))


def _layers(
    workload: Workload,
    inventory: Inventory,
    guards: Guards,
    space: sp.Space,
    dimensions: Dimensions,
    meaning: sp.Literal,
) -> list[Layer]:
    if workload.mode is Mode.SIDECAR:
        return [Layer("istio-sidecar", guards.sidecar(workload), meaning)]
    if workload.mode is Mode.AMBIENT:
        return [Layer("istio-ztunnel", guards.ztunnel(workload), meaning)]
    if workload.mode is Mode.ENVOY:
        return [Layer("envoy-rbac", guards.envoy(workload), meaning)]
    if workload.mode is Mode.WAYPOINT and workload.waypoint is not None:
        found = []
        for service in workload.services:
            spans = tuple((port.target_port, port.target_port) for port in service.ports)
            here = space.test(Interval(dimensions.port, spans)) if spans else sp.FALSE
            asked = space.all_of([here, meaning])
            found.append(Layer(f"istio-waypoint {service.name}", guards.waypoint(workload, service), asked))
        from_waypoint = _only(
            space, dimensions, workload, inventory.mesh.names_of(workload.waypoint.spiffe_id)
        )
        return [*found, Layer("istio-ztunnel", guards.ztunnel(workload), from_waypoint)]
    raise InvalidInput(f"proving {workload.key}: mode {workload.mode} has no guard")


def _only(space: sp.Space, dimensions: Dimensions, workload: Workload, names: Sequence[str]) -> sp.Literal:
    """Connections from one identity to listed ports: what ztunnel owes a workload behind a waypoint."""
    spans = tuple((port, port) for port in workload.ports)
    here = space.test(Interval(dimensions.port, spans)) if spans else sp.FALSE
    return space.all_of([here, space.test(Within(dimensions.identity, frozenset(names)))])


def _compare(
    layer: Layer,
    space: sp.Space,
    question: Question,
    workload: Workload,
    inventory: Inventory,
    strict: bool,
    assumptions: tuple[str, ...],
) -> Verdict:
    for left, right, outcome in (
        (layer.guard, layer.question, Outcome.WIDER),
        (layer.question, layer.guard, Outcome.NARROWER),
    ):
        witness = space.difference(left, right)
        if witness is None:
            continue
        request, opaque = concrete(witness, workload, inventory)
        own = layer.name != "istio-ztunnel" or workload.mode is Mode.AMBIENT
        listed = request.get(PORT) in workload.ports
        known = strict or request.get(SOURCE_ID) is not None
        answer = listed and known and _holds(question.formula, request, opaque)
        if own and answer != (outcome is Outcome.NARROWER):
            raise Bug(f"proving {workload.key}: the witness {request} isn't one for {outcome}")
        decision = question.allow if outcome is Outcome.NARROWER else question.deny
        holding = [one for one in decision.disjuncts if _holds(one.formula, request, opaque)]
        origins = tuple(sorted({origin for one in holding for origin in one.origins}))
        return Verdict(workload.key, layer.name, outcome, request, origins if own else (), "", assumptions)
    return Verdict(workload.key, layer.name, Outcome.EXACT, assumptions=assumptions)


def _holds(formula: Formula, request: Request, opaque: frozenset[str]) -> bool:
    return evaluate(formula, request, lambda atom: atom.digest in opaque)


def concrete(witness: sp.Witness, workload: Workload, inventory: Inventory) -> tuple[Request, frozenset[str]]:
    """The witness as a request with everything that follows from it, and the opaque conditions that hold.

    What the witness leaves open gets an ordinary value: a listed port, GET, the root path.
    """
    places = {
        "identity": SOURCE_ID,
        "port": PORT,
        "source_ip": SOURCE_IP,
        "destination_ip": DESTINATION_IP,
        "method": METHOD,
        "path": PATH,
        "host": HOST,
        "sni": SNI,
    }
    values: dict[Attribute, Value] = {}
    opaque = set()
    named = {dimension.name for dimension, _ in witness.values}
    for dimension, value in witness.values:
        if value is ABSENT:
            continue
        if dimension.name == "opaque":
            opaque.add(dimension.key[0])
        elif dimension.name == "claim":
            values[Attribute("jwt.claims", dimension.key)] = _claim_value(value)
        elif dimension.name == "header":
            values[Attribute("request.headers", dimension.key)] = str(value)
        elif dimension.name in places and isinstance(value, str | int):
            values[places[dimension.name]] = value
    ports = workload.ports
    port = values.setdefault(PORT, next(iter(ports), 0))
    protocol = ports.get(port) if isinstance(port, int) else None
    if protocol is not None and protocol.is_http:
        usual = {"method": (METHOD, "GET"), "host": (HOST, "a"), "path": (PATH, "/")}
        values |= dict(place for name, place in usual.items() if name not in named)
    if protocol is not None and not protocol.is_http:
        values = {
            place: value for place, value in values.items() if not place.name.startswith(("request.", "jwt."))
        }
    values |= caller_facts(values.get(SOURCE_ID), inventory)
    values |= {
        place: value for place, value in destination_facts(inventory, workload).items() if value is not None
    }
    values[MTLS] = SOURCE_ID in values
    return Request.of(values), frozenset(opaque)


def _claim_value(value: object) -> Value:
    if isinstance(value, Other):
        if value.json in ("true", "false"):
            return value.json == "true"
        return int(value.json) if value.json.lstrip("-").isdecimal() else 0
    return value if isinstance(value, str | tuple) else str(value)


def caller_facts(identity: Value | None, inventory: Inventory) -> Mapping[Attribute, Value]:
    """Trust domain, namespace, service account and labels of a caller, as a witness shows them."""
    if not isinstance(identity, str):
        return {}
    facts: dict[Attribute, Value] = {TRUST_DOMAIN: identity.split("/")[2]}
    several: Sequence[Workload] = inventory.by_identity.get(identity, ())
    if several:
        facts |= {NAMESPACE: several[0].namespace, SERVICE_ACCOUNT: several[0].service_account}
        shared = set.intersection(*(set(one.labels.items()) for one in several))
        facts |= {Attribute("source.labels", (key,)): value for key, value in shared}
    return facts


def claim_shapes(inventory: Inventory) -> Mapping[tuple[str, ...], str]:
    """Claims whose shape all issuers promise alike: `string` or `list` by claim path."""
    issuers = inventory.issuers
    promised: Mapping[str, ClaimShape] = issuers[0].claims if issuers else {}
    return {
        (name,): shape.value
        for name, shape in promised.items()
        if all(one.claims.get(name) is shape for one in issuers)
    }


__all__ = ["Outcome", "Verdict", "caller_facts", "claim_shapes", "concrete", "prove_workload"]
