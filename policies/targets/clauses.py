"""A decision as clauses: each a conjunction of constraints, one for an attribute, with its Rego lines.

The caller's facts become sets of SPIFFE IDs here (the inventory is known), ports become listed ports, and
what only the policy's evaluator can decide stays as a pattern of kind `other`.
"""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Final, cast

from control_plane.core.errors import ResourceExhausted, Unimplemented
from policies.formula import (
    DESTINATION_IP,
    HOST,
    HTTP_ONLY,
    METHOD,
    PATH,
    PORT,
    SNI,
    SOURCE_ID,
    SOURCE_IP,
    TRUE,
    Atom,
    Attribute,
    Cidr,
    Contains,
    Decision,
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
    substitute,
)
from policies.inventory import Inventory, Workload
from policies.targets.clause import Clause, Group, join_clauses, ordered
from policies.targets.patterns import PRESENT, Constraint, Pattern, Union, both

MAX_CLAUSES: Final = 20_000


class Unsayable(Unimplemented):
    """A condition that can't be compiled at all, whatever the target: it is refused with its Rego line."""


class ClauseBuilder:
    """Turns decisions about one workload into clauses."""

    def __init__(self, inventory: Inventory, workload: Workload) -> None:
        self._inventory = inventory
        self._workload = workload
        self.reasons: dict[str, str] = {}

    def clauses(self, decision: Decision, group: Group) -> list[Clause]:
        """The decision at one group of ports, joined and in stable order.

        Raises Unsayable naming the Rego line, ResourceExhausted where the clauses multiply beyond bounds.
        """
        found: list[Clause] = []
        for disjunct in decision.disjuncts:
            formula = substitute(disjunct.formula, lambda atom: self._known(atom, group))
            try:
                parts = self._expand(formula, group)
            except Unsayable as error:
                lines = ", ".join(map(str, disjunct.origins)) or "a rule without a line"
                raise Unsayable(f"compiling {lines} for {self._workload.key}: {error.message}") from error
            every = Constraint((frozenset(Pattern("exact", str(port)) for port in group.ports),))
            for part in parts:
                whole = {PORT: every} | part
                found.append(Clause(ordered(whole), frozenset(disjunct.origins)))
            if len(found) > MAX_CLAUSES:
                raise ResourceExhausted(
                    f"compiling the policy of {self._workload.key}: more than {MAX_CLAUSES} clauses",
                    hint="split conditions into fewer alternatives",
                )
        return join_clauses(found)

    def _known(self, atom: Atom, group: Group) -> bool | None:
        """The destination's facts, and the absence of requests where no HTTP is spoken."""
        name = atom.attribute.name
        if isinstance(atom, Opaque):
            return None
        if not group.http and name in HTTP_ONLY:
            return False
        workload = self._workload
        if name == "destination.labels":
            value = workload.labels.get(atom.attribute.path[0])
            return value is not None and atom.holds(value)
        known = {
            "destination.spiffe_id": workload.spiffe_id,
            "destination.trust_domain": workload.spiffe_id.split("/")[2],
            "destination.namespace": workload.namespace,
            "destination.service_account": workload.service_account,
        }
        if name in known:
            return atom.holds(known[name])
        if name == "destination.service":
            if not workload.services:
                return False
            if len(workload.services) != 1:
                raise Unsayable(f"input.destination.service of {workload.key} isn't one service")
            return atom.holds(workload.services[0].name)
        return None

    def _expand(self, formula: Formula, group: Group) -> list[dict[Attribute, Constraint]]:
        """Disjunctive form; alternatives on one attribute stay together as one union."""
        if formula.atom is not None:
            one = self._literal(formula.atom, formula.negated, group)
            return [] if one is None else [one]
        if formula.kind == "or":
            found: list[dict[Attribute, Constraint]] = []
            for child in formula.children:
                found += self._expand(child, group)
                if len(found) > MAX_CLAUSES:
                    raise ResourceExhausted(
                        f"compiling {self._workload.key}: more than {MAX_CLAUSES} clauses"
                    )
            return _unite(found)
        if formula.kind == "and":
            results: list[dict[Attribute, Constraint]] = [{}]
            for child in formula.children:
                parts = self._expand(child, group)
                if len(results) * len(parts) > MAX_CLAUSES:
                    raise ResourceExhausted(
                        f"compiling {self._workload.key}: more than {MAX_CLAUSES} clauses"
                    )
                results = [
                    met
                    for left, right in product(results, parts)
                    if (met := _conjoin(left, right)) is not None
                ]
            return results
        return [{}] if formula is TRUE else []

    def _literal(self, atom: Atom, negated: bool, group: Group) -> dict[Attribute, Constraint] | None:
        """One literal as a constraint; None for never, an empty mapping for always."""
        place, union = self._patterns(atom, group)
        if not union:
            return {} if negated else None
        if place == PORT and negated:
            # A port is always there: everything but these is the listed rest.
            union = frozenset(Pattern("exact", str(port)) for port in group.ports) - union
            return {place: Constraint((union,))} if union else None
        return {place: Constraint((), union) if negated else Constraint((union,))}

    def _patterns(self, atom: Atom, group: Group) -> tuple[Attribute, Union]:
        attribute = atom.attribute
        name = attribute.name
        if isinstance(atom, Opaque):
            self.reasons[atom.digest] = f"{atom.span}: {atom.reason}"
            return METHOD if group.http else SOURCE_ID, frozenset({Pattern("other", atom.digest)})
        if name in ("source.namespace", "source.service_account", "source.labels"):
            return SOURCE_ID, self._callers(atom)
        if name == "source.trust_domain":
            return SOURCE_ID, frozenset(self._trust_domains(atom))
        if name == "connection.mtls":
            return self._mtls(atom, group)
        if name == "destination.port":
            ports = (port for port in group.ports if isinstance(atom, Present) or atom.holds(port))
            return PORT, frozenset(Pattern("exact", str(port)) for port in ports)
        if attribute in (SOURCE_IP, DESTINATION_IP):
            return attribute, frozenset(self._networks(atom))
        return attribute, frozenset(one for one in _text_patterns(atom) if _possible(attribute, one))

    def _callers(self, atom: Atom) -> Union:
        """The SPIFFE IDs for which a fact holds; one object for all workloads, so that comparing is quick."""
        known = self._inventory.spelled
        if atom not in known:
            known[atom] = frozenset(Pattern("exact", identity) for identity in self._identities(atom))
        return cast("Union", known[atom])

    def _identities(self, atom: Atom) -> Iterable[str]:
        inventory = self._inventory
        if atom.attribute.name == "source.labels":
            key = atom.attribute.path[0]
            agreed, torn = inventory.label_values(key)
            for identity, keys in torn.items():
                split = " and ".join(keys)
                raise Unsayable(
                    f"input.source.labels[{key!r}] isn't a fact about {identity}: {split} disagree",
                    hint="give the workloads separate service accounts, or the same label",
                )
            return [identity for identity, value in agreed.items() if atom.holds(value)]
        by_namespace = atom.attribute.name == "source.namespace"
        table = inventory.namespaces if by_namespace else inventory.service_accounts
        return {identity for value, several in table.items() if atom.holds(value) for identity in several}

    def _trust_domains(self, atom: Atom) -> Iterable[Pattern]:
        if isinstance(atom, Present):
            return [PRESENT]
        if isinstance(atom, Equal | In):
            values = (atom.value,) if isinstance(atom, Equal) else atom.values
            return [Pattern("prefix", f"spiffe://{value}/") for value in values]
        if isinstance(atom, Prefix):
            return [Pattern("prefix", f"spiffe://{atom.text}")]
        raise Unsayable("input.source.trust_domain is compiled for ==, in and startswith only")

    def _mtls(self, atom: Atom, group: Group) -> tuple[Attribute, Union]:
        """Authenticated means that there is a SPIFFE ID; the attribute itself is always there."""
        if isinstance(atom, Present) or (atom.holds(True) and atom.holds(False)):
            return PORT, frozenset(Pattern("exact", str(port)) for port in group.ports)
        # False never holds: every governed workload refuses plain text, and the proof checks that it does.
        return SOURCE_ID, frozenset({PRESENT} if atom.holds(True) else ())

    def _networks(self, atom: Atom) -> Iterable[Pattern]:
        if isinstance(atom, Cidr):
            return [Pattern("cidr", atom.network)]
        if isinstance(atom, Present):
            return [PRESENT]
        if isinstance(atom, Equal | In):
            values = (atom.value,) if isinstance(atom, Equal) else atom.values
            return [
                Pattern("cidr", f"{value}/{128 if ':' in str(value) else 32}")
                for value in values
                if Cidr(SOURCE_IP, "0.0.0.0/0").holds(value) or Cidr(SOURCE_IP, "::/0").holds(value)
            ]
        raise Unsayable(f"{atom.attribute} as a text", hint="write net.cidr_contains")


def _text_patterns(atom: Atom) -> Iterable[Pattern]:
    if isinstance(atom, Present):
        return [PRESENT]
    if isinstance(atom, Equal | In):
        values = (atom.value,) if isinstance(atom, Equal) else atom.values
        return [
            Pattern("exact", value) if isinstance(value, str) else Pattern("other", f"the constant {value!r}")
            for value in values
        ]
    if isinstance(atom, Glob):
        return [Pattern("glob", atom.pattern, atom.delimiters)]
    if isinstance(atom, Member):
        return [Pattern("member", value) for value in atom.values]
    kinds: Mapping[type, str] = {Prefix: "prefix", Suffix: "suffix", Contains: "contains", Regex: "regex"}
    if not isinstance(atom, Prefix | Suffix | Contains | Regex):
        raise Unsayable(
            f"{type(atom).__name__.lower()} on {atom.attribute}: only ports and addresses are ordered"
        )
    text = atom.pattern if isinstance(atom, Regex) else atom.text
    if text == "" and kinds[type(atom)] != "regex":
        return [PRESENT] if atom.attribute.name != "jwt.claims" else [Pattern(kinds[type(atom)], "")]
    return [Pattern(kinds[type(atom)], text)]


def _possible(attribute: Attribute, pattern: Pattern) -> bool:
    """Whether a value of the input schema can match: hosts are lower case, paths absolute and without query.

    A target that folds case would let `Host == "A.example"` match what Rego doesn't; one that takes a missing
    server name for an empty one (Envoy) would find `sni == ""`.
    """
    if pattern.kind not in ("exact", "prefix", "suffix", "contains"):
        return True
    if attribute in (HOST, SNI):
        return pattern.text != "" and pattern.text == pattern.text.lower()
    if attribute == PATH:
        absolute = pattern.kind in ("suffix", "contains") or pattern.text.startswith("/")
        return absolute and not set(pattern.text) & set("?# ")
    return True


def _conjoin(
    left: Mapping[Attribute, Constraint], right: Mapping[Attribute, Constraint]
) -> dict[Attribute, Constraint] | None:
    found = dict(left)
    for place, constraint in right.items():
        met = both(found[place], constraint) if place in found else constraint
        if met is None:
            return None
        found[place] = met
    return found


def _unite(parts: list[dict[Attribute, Constraint]]) -> list[dict[Attribute, Constraint]]:
    """Alternatives that are one union on one attribute become one union; others stay."""
    unions: dict[Attribute, set[Pattern]] = {}
    rest = []
    for part in parts:
        if not part:
            return [{}]
        ((place, constraint),) = part.items() if len(part) == 1 else ((None, None),)
        if place is None or constraint is None or constraint.finite is None:
            rest.append(part)
        else:
            unions.setdefault(place, set()).update(constraint.finite)
    return [{place: Constraint((frozenset(union),))} for place, union in unions.items()] + rest
