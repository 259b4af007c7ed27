"""Decides single requests to the workloads of an inventory, as Rego says it, in microseconds.

A request is admitted where every package that says `allow` allows it and does not deny it: `authz` and
`segmentation`, as `questions` asks them. What the inventory knows of the two ends is filled in here, so a
caller can't claim a namespace or a label. Each judgement names the rule that decided.

Unlike the manifests this is not proved: it *is* the Rego, specialised (`language.closures`); tests hold it
against the evaluator and the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from policies.formula import Origin
from policies.inventory import Inventory, Workload
from policies.language.closures.closure import Finder, compile_finder
from policies.language.compiler.compiled import CompiledModules
from policies.language.concrete.evaluate import EvaluationError, Limits
from policies.language.values import from_python
from policies.questions import AUTHZ, SEGMENTATION, destination_document, inventory_document

REQUEST_LIMITS = Limits(steps=200_000, text_characters=1_000_000, elements=100_000, weight=200_000)
"""For rules that need the evaluator: one request takes a fifth of a second at most, or is denied."""


class Judgement(NamedTuple):
    """Whether a request is admitted; a sentence that says why; the rule that decided, if one did."""

    allowed: bool
    reason: str
    origin: Origin | None = None


class _Package(NamedTuple):
    name: str
    allow: Finder
    deny: Finder


class Rulings:
    """One policy version over one inventory, ready to judge. Safe to share between threads."""

    def __init__(
        self,
        modules: CompiledModules,
        inventory: Inventory,
        data: Mapping[str, object] | None = None,
        *,
        limits: Limits = REQUEST_LIMITS,
    ) -> None:
        """Raises RefusedError where the policy calls what is not implemented."""
        known = from_python({**(data or {}), "inventory": inventory_document(inventory)})
        self._packages = tuple(
            _Package(
                path[-1],
                compile_finder(modules, (*path, "allow"), known, limits=limits),
                compile_finder(modules, (*path, "deny"), known, limits=limits),
            )
            for path in (AUTHZ, SEGMENTATION)
            if (*path, "allow") in modules.groups
        )
        self._destinations = {
            workload.key: _destinations_by_port(workload) for workload in inventory.workloads
        }
        self._sources = {spiffe_id: _source(several) for spiffe_id, several in inventory.by_identity.items()}
        self._names = {
            spiffe_id: several[0].key
            for spiffe_id, several in inventory.by_identity.items()
            if len(several) == 1
        }

    def workload_of(self, spiffe_id: str) -> str | None:
        """The `namespace/name` that has this identity; None if nobody has it, or several have."""
        return self._names.get(spiffe_id)

    def judge(self, workload: str, request: Mapping[str, Any]) -> Judgement:
        """Judges a request to `namespace/name`: an input document in which `source` has what the connection
        shows (`spiffe_id`, `ip`) and `destination` the port. Never raises; what fails is refused."""
        if not self._packages:
            return Judgement(False, "the policy has no rule that could allow anything")
        known = self._destinations.get(workload)
        if known is None:
            return Judgement(False, f"the policy doesn't know the workload {workload}")
        document = dict(request)
        source = _shown(request.get("source", {}), ("spiffe_id", "ip"))
        destination = _shown(request.get("destination", {}), ("port", "ip"))
        port = destination.get("port")
        document["source"] = {**self._source_of(source.get("spiffe_id")), **source}
        document.setdefault("connection", {"mtls": "spiffe_id" in source})
        try:
            for facts in known.get(port if isinstance(port, int) else None, known[None]):
                document["destination"] = {**facts, **destination}
                judgement = self._judge(document)
                if not judgement.allowed:
                    break
            return judgement
        except EvaluationError as error:
            return Judgement(False, f"the policy could not be evaluated: {error}")

    def _judge(self, document: Mapping[str, Any]) -> Judgement:
        allowed: Origin | None = None
        for package in self._packages:
            if (span := package.deny(document)) is not None:
                origin = Origin(span.source.file, span.row, f"data.gatehouse.{package.name}.deny")
                return Judgement(False, f"a rule of {package.name} denies it", origin)
            if (span := package.allow(document)) is None:
                return Judgement(False, f"no rule of {package.name} allows it")
            # What authorization says is the closer reason; segmentation comes after it.
            allowed = allowed or Origin(span.source.file, span.row, f"data.gatehouse.{package.name}.allow")
        return Judgement(True, "allowed", allowed)

    def _source_of(self, spiffe_id: object) -> Mapping[str, object]:
        if not isinstance(spiffe_id, str):
            return {}
        known = self._sources.get(spiffe_id)
        if known is not None:
            return known
        return {"trust_domain": spiffe_id.removeprefix("spiffe://").partition("/")[0]}


def _shown(end: Mapping[str, object], names: tuple[str, ...]) -> dict[str, object]:
    """What a connection itself shows of one of its ends; the rest is the inventory's to say."""
    return {name: end[name] for name in names if name in end}


def _destinations_by_port(workload: Workload) -> Mapping[int | None, Sequence[Mapping[str, object]]]:
    """What is known of a workload by the port that is called; None is for ports of no service.

    A port that several services lead to has a document for each: by which a request comes, nobody can tell.
    """
    services = workload.services
    only = services[0].name if len(services) == 1 else None
    found: dict[int | None, Sequence[Mapping[str, object]]] = {None: [destination_document(workload, only)]}
    for port in workload.ports:
        found[port] = [destination_document(workload, name) for name in workload.services_at(port)]
    return found


def _source(several: tuple[Workload, ...]) -> Mapping[str, object]:
    """What all workloads of one identity agree on."""
    documents = [destination_document(workload, None) for workload in several]
    first = documents[0]
    found = {key: value for key, value in first.items() if all(one.get(key) == value for one in documents)}
    labels = [dict(workload.labels) for workload in several]
    found["labels"] = {
        key: value for key, value in labels[0].items() if all(one.get(key) == value for one in labels)
    }
    return found
