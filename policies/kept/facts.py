"""What a decision asks of the inventory about callers, as texts that a later run can ask again.

A condition on a caller's namespace, service account or label holds for certain SPIFFE IDs, and that is all
that emission and proof look up of it. So a question rests on the callers that have the values it names; a
workload more, elsewhere or with other labels, is no change for it. Where a condition isn't about named
values (a prefix, a pattern, presence), it rests on everything the inventory says of that fact; where one is
opaque, on the whole inventory.

Not everything follows from these facts. A request that is shown names all that is known of its caller, which
`Facts.shows` compares with the inventory of today. NetworkPolicy is proved over every pod, and blocked pairs
are told caller by caller: these are kept under the whole inventory.
"""

from __future__ import annotations

import dataclasses
import json
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from control_plane.core.errors import InvalidInput
from policies.formula import SOURCE_ID, SOURCE_IDENTITY, Atom, Equal, Formula, In, Opaque, Request, atoms_of
from policies.inventory import Inventory, Workload
from policies.kept.shelf import digest
from policies.proof.verdict import caller_facts

_WHOLE: Final = json.dumps(["whole"])
_LABELS: Final = "source.labels"
_TABLES: Final = ("source.namespace", "source.service_account")
_OF_CALLER: Final = SOURCE_IDENTITY - {SOURCE_ID.name}


def _all_but(kind: type, *left_out: str) -> Callable[[object], tuple[object, ...]]:
    return operator.attrgetter(*(one.name for one in dataclasses.fields(kind) if one.name not in left_out))


_besides_workloads = _all_but(Inventory, "workloads")
_unguarded = _all_but(Workload, "mode", "waypoint")


def facts_of(formula: Formula) -> frozenset[str]:
    """The facts that the conditions of a formula look up."""
    return frozenset(fact for atom in atoms_of(formula) for fact in _facts(atom))


def _facts(atom: Atom) -> Iterator[str]:
    if isinstance(atom, Opaque):
        yield _WHOLE
    elif atom.attribute.name == _LABELS or atom.attribute.name in _TABLES:
        asked = [atom.attribute.name, *atom.attribute.path]
        if isinstance(atom, Equal | In):
            values = (atom.value,) if isinstance(atom, Equal) else atom.values
            yield from (json.dumps([*asked, {"is": value}]) for value in values)
        else:
            yield json.dumps(asked)


@dataclass(slots=True)
class Facts:
    """What an inventory answers, each fact worked out once."""

    inventory: Inventory
    whole: str = field(init=False)
    """A digest of the whole inventory."""
    constants: str = field(init=False)
    """A digest of the mesh and of the issuers of tokens."""
    _known: dict[str, str] = field(default_factory=dict)
    _workloads: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        told = [self.workload(one) for one in self.inventory.workloads]
        self.whole = digest(repr(_besides_workloads(self.inventory)), *told)
        self.constants = digest(repr(self.inventory.mesh), repr(self.inventory.issuers))

    def unguarded(self, workload: Workload) -> str:
        """A digest of a workload without how it is guarded, which no question asks about."""
        return self._told(workload)[0]

    def workload(self, workload: Workload) -> str:
        """A digest of all there is to say of a workload."""
        return self._told(workload)[1]

    def _told(self, workload: Workload) -> tuple[str, str]:
        known = self._workloads.get(workload.key)
        if known is None:
            # Values whose parts print in full.
            unguarded = digest(repr(_unguarded(workload)))
            known = unguarded, digest(unguarded, repr(workload.mode), repr(workload.waypoint))
            self._workloads[workload.key] = known
        return known

    def digest(self, facts: Iterable[str]) -> str:
        """A digest of the answers. Raises InvalidInput for a text that is no fact's."""
        return digest(self.constants, *map(self._of, sorted(facts)))

    def shows(self, request: Request | None) -> bool:
        """Whether a request names just what the inventory says of its caller; so does no request."""
        if request is None:
            return True
        named = {one: value for one, value in request.values.items() if one.name in _OF_CALLER}
        return named == caller_facts(request.get(SOURCE_ID), self.inventory)

    def _of(self, fact: str) -> str:
        known = self._known.get(fact)
        if known is None:
            known = self._known[fact] = digest(fact, self._answer(fact))
        return known

    def _answer(self, fact: str) -> str:
        try:
            asked = json.loads(fact)
        except (ValueError, RecursionError) as error:
            raise InvalidInput("reading what a question rests on: another shape") from error
        match asked:
            case ["whole"]:
                return self.whole
            case ["source.labels", str(key), *rest]:
                agreed, torn = self.inventory.label_values(key)
                return repr((_chosen(agreed.items(), rest), sorted(torn.items())))
            case [str(name), *rest] if name in _TABLES:
                return repr((_chosen(self._pairs(name), rest), self._is_torn(name)))
        raise InvalidInput("reading what a question rests on: another shape")

    def _table(self, name: str) -> Mapping[str, frozenset[str]]:
        return self.inventory.namespaces if name == _TABLES[0] else self.inventory.service_accounts

    def _pairs(self, name: str) -> Iterator[tuple[str, str]]:
        for value, several in self._table(name).items():
            yield from ((identity, value) for identity in several)

    def _is_torn(self, name: str) -> bool:
        """Whether some identity has two values, which makes every such condition undecidable."""
        claimed = [identity for identity, _ in self._pairs(name)]
        return len(claimed) != len(set(claimed))


def _chosen(pairs: Iterable[tuple[str, str]], rest: list[object]) -> list[tuple[str, str]]:
    """The identities with the value that is asked for, or all of them with theirs."""
    match rest:
        case []:
            return sorted(pairs)
        case [{"is": wanted}]:
            return sorted(pair for pair in pairs if pair[1] == wanted)
    raise InvalidInput("reading what a question rests on: another shape")
