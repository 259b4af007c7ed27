"""A clause of a policy: a conjunction of constraints with its Rego lines, and how clauses are joined.

Clauses that differ in one attribute only are joined, so that output grows with what differs and not with the
number of pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from policies.formula import PATH, SOURCE_ID, Attribute, Origin
from policies.inventory import Workload
from policies.targets.patterns import PRESENT, Constraint


@dataclass(frozen=True, slots=True)
class Clause:
    """A conjunction over attributes; `reasons` explain its `other` patterns by digest."""

    constraints: tuple[tuple[Attribute, Constraint], ...]
    origins: frozenset[Origin] = frozenset()

    def get(self, attribute: Attribute) -> Constraint | None:
        """What is demanded of one attribute; None for nothing."""
        for place, one in self.constraints:
            if place == attribute:
                return one
        return None

    def order(self) -> tuple[list[object], list[Origin]]:
        """A key for stable sorting."""
        return [(place, one.order()) for place, one in self.constraints], sorted(self.origins)


@dataclass(frozen=True, slots=True)
class Group:
    """Ports of one workload that are guarded alike: those that speak HTTP, or those that don't."""

    http: bool
    ports: tuple[int, ...]


def port_groups(workload: Workload) -> tuple[Group, ...]:
    """The workload's HTTP ports and its other ports, as far as it has any."""
    found = []
    for http in (True, False):
        ports = tuple(port for port, protocol in workload.ports.items() if protocol.is_http == http)
        if ports:
            found.append(Group(http, ports))
    return tuple(found)


def ordered(constraints: Mapping[Attribute, Constraint]) -> tuple[tuple[Attribute, Constraint], ...]:
    """Constraints in the order that a clause keeps."""
    return tuple(sorted(constraints.items(), key=lambda item: item[0]))


def join_clauses(clauses: list[Clause]) -> list[Clause]:
    """Join clauses that differ in the union on one attribute only, attribute by attribute, until none do.

    Callers last: most rules differ in their callers, and joining the rest first leaves longer lists of them.
    """
    places = sorted({place for clause in clauses for place, _ in clause.constraints}, key=_join_rank)
    current = _merged(clauses)
    for _ in range(3):
        before = len(current)
        for place in places:
            current = _join_on(current, place)
        if len(current) == before:
            break
    return sorted(current, key=Clause.order) if len(current) > 1 else current


def _join_rank(place: Attribute) -> tuple[bool, bool, Attribute]:
    return place == SOURCE_ID, place != PATH, place


def _merged(clauses: list[Clause]) -> list[Clause]:
    found: dict[tuple[tuple[Attribute, Constraint], ...], frozenset[Origin]] = {}
    for clause in clauses:
        found[clause.constraints] = found.get(clause.constraints, frozenset()) | clause.origins
    return [Clause(constraints, origins) for constraints, origins in found.items()]


def _join_on(clauses: list[Clause], place: Attribute) -> list[Clause]:
    groups: dict[tuple[tuple[Attribute, Constraint], ...], list[Clause]] = {}
    kept: list[Clause] = []
    for clause in clauses:
        for index, (found, demanded) in enumerate(clause.constraints):
            if found == place and demanded.finite is not None:
                key = (*clause.constraints[:index], *clause.constraints[index + 1 :])
                groups.setdefault(key, []).append(clause)
                break
        else:
            kept.append(clause)
    if len(groups) + len(kept) == len(clauses):
        return clauses
    for key, several in groups.items():
        if len(several) == 1:
            kept.append(several[0])
            continue
        unions = [constraint.unions[0] for clause in several if (constraint := clause.get(place)) is not None]
        union = frozenset().union(*unions)
        if PRESENT in union:  # an unsayable condition may hold where the attribute is absent
            union = frozenset(one for one in union if one == PRESENT or one.kind == "other")
        origins = frozenset().union(*(clause.origins for clause in several))
        kept.append(Clause(ordered(dict(key) | {place: Constraint((union,))}), origins))
    return _merged(kept)
