"""Emitted manifest text read back: which objects guard a workload, found as Istio finds them.

Only the text counts. An object of a kind or a shape that isn't modelled is refused, never skipped.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from control_plane.core.errors import GatehouseError, InvalidInput, shown
from policies.documents import read_documents
from policies.inventory import Inventory, Workload
from policies.proof.question import Undecidable

Node = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Document:
    """One object: kind, namespace, name, and the body."""

    kind: str
    namespace: str
    name: str
    body: Node

    @property
    def spec(self) -> Node:
        """The object's spec."""
        return mapping(self.body.get("spec", {}), f"spec of {self.kind} {self.name}")


@dataclass(frozen=True)
class Manifests:
    """All objects of one rendering, by kind and namespace."""

    by_place: Mapping[tuple[str, str], tuple[Document, ...]] = field(default_factory=dict)

    def of(self, kind: str, namespace: str) -> tuple[Document, ...]:
        """Objects of a kind in a namespace."""
        return self.by_place.get((kind, namespace), ())

    def near(self, kind: str, namespace: str, labels: Mapping[str, str]) -> list[Document]:
        """Objects of a kind in a namespace, in order, less some whose selectors don't take these labels."""
        place = (kind, namespace)
        index = self._by_label.get(place)
        if index is None:
            index = self._by_label[place] = _index(self.of(kind, namespace))
        positions = [*index.get(None, ()), *(at for item in labels.items() for at in index.get(item, ()))]
        several = self.of(kind, namespace)
        return [several[position] for position in sorted(positions)]

    @functools.cached_property
    def _by_label(self) -> dict[tuple[str, str], _Index]:
        return {}


_Index = Mapping[tuple[str, str] | None, Sequence[int]]
"""Positions of objects by a label that their selector asks for; None where it asks for none, or oddly."""


def _index(documents: Sequence[Document]) -> _Index:
    """Each object stands under the label that fewest others ask for, so that a workload meets few of them."""
    asked = [_plain_labels(one) for one in documents]
    frequency = Counter(item for labels in asked for item in labels.items())
    found: dict[tuple[str, str] | None, list[int]] = {}
    for position, labels in enumerate(asked):
        rarest = min(labels.items(), key=lambda item: frequency[item], default=None)
        found.setdefault(rarest, []).append(position)
    return found


def _plain_labels(document: Document) -> Mapping[str, str]:
    """The labels of a selector; none where `match_labels` would refuse it, which is for whoever meets it."""
    try:
        return match_labels(document)
    except GatehouseError:
        return {}


def read_manifest(text: str, what: str) -> list[Document]:
    """The objects of one file; a kustomization counts for nothing."""
    found = []
    for node in read_documents(text, what):
        body = mapping(node, what)
        kind = str(body.get("kind"))
        if kind == "Kustomization":
            continue
        metadata = mapping(body.get("metadata"), f"metadata in {what}")
        found.append(Document(kind, str(metadata.get("namespace", "")), str(metadata.get("name")), body))
    return found


def collect(documents: Iterable[Document]) -> Manifests:
    """Documents as one rendering."""
    places: dict[tuple[str, str], list[Document]] = {}
    for one in documents:
        places.setdefault((one.kind, one.namespace), []).append(one)
    return Manifests({place: tuple(several) for place, several in places.items()})


def read_manifests(files: Mapping[str, str]) -> Manifests:
    """Every file of a rendering, by name."""
    return collect(document for name, text in files.items() for document in read_manifest(text, name))


def selecting(manifests: Manifests, kind: str, workload: Workload, inventory: Inventory) -> list[Document]:
    """Objects of a kind that apply to a workload's own proxy: its namespace's and the root namespace's."""
    root = inventory.mesh.root_namespace
    found = []
    for namespace in dict.fromkeys((workload.namespace, root)):
        for one in manifests.near(kind, namespace, workload.labels):
            if "targetRefs" in one.spec or "targetRef" in one.spec:
                continue
            labels = match_labels(one)
            if labels.items() <= workload.labels.items():
                found.append(one)
    return found


def attached(manifests: Manifests, kind: str, workload: Workload, service: str) -> list[Document]:
    """Objects of a kind attached to one of the workload's services (read by its waypoint)."""
    found = []
    for one in manifests.of(kind, workload.namespace):
        refs = one.spec.get("targetRefs", [])
        if not isinstance(refs, list):
            raise InvalidInput(f"reading {kind} {one.name}: targetRefs is {shown(refs)}, not a list")
        for ref in refs:
            node = mapping(ref, f"a targetRef of {one.name}")
            if node.get("kind") != "Service" or node.get("group", "") not in ("", "core"):
                raise Undecidable(f"reading {kind} {one.name}: a targetRef to {shown(node.get('kind'))}")
            if node.get("name") == service:
                found.append(one)
    return found


def match_labels(document: Document) -> Mapping[str, str]:
    """A selector's labels; no selector is no labels."""
    node = mapping(document.spec.get("selector", {}), f"selector of {document.name}")
    if set(node) - {"matchLabels"}:
        raise Undecidable(f"reading {document.kind} {document.name}: a selector with {shown(sorted(node))}")
    labels = mapping(node.get("matchLabels", {}), f"selector of {document.name}")
    return {str(key): str(value) for key, value in labels.items()}


def requires_mtls(manifests: Manifests, workload: Workload, inventory: Inventory) -> bool:
    """Whether PeerAuthentication makes plain text impossible on every port of the workload.

    The most specific object counts: selector, then namespace, then the root namespace.
    """
    applying = selecting(manifests, "PeerAuthentication", workload, inventory)
    ranked: dict[int, list[Document]] = {}
    for one in applying:
        root = one.namespace == inventory.mesh.root_namespace and one.namespace != workload.namespace
        if root and match_labels(one):
            continue  # ignored by Istio
        ranked.setdefault(2 if root else 0 if match_labels(one) else 1, []).append(one)
    for rank in sorted(ranked):
        modes = {str(mapping(one.spec.get("mtls", {}), "mtls").get("mode", "UNSET")) for one in ranked[rank]}
        if any("portLevelMtls" in one.spec for one in ranked[rank]):
            return False
        if modes != {"UNSET"}:
            return modes == {"STRICT"}
    return False


def checks_tokens(documents: Iterable[Document], inventory: Inventory) -> bool:
    """Whether claims are filled in, from issuers of the inventory only.

    Raises Undecidable where tokens of another issuer, or checked with other keys, would be believed.
    """
    known = {(one.issuer, one.jwks_uri or None, one.jwks or None, one.audiences) for one in inventory.issuers}
    visible = False
    for document in documents:
        rules = document.spec.get("jwtRules", [])
        if not isinstance(rules, list):
            raise InvalidInput(f"reading RequestAuthentication {document.name}: jwtRules isn't a list")
        for rule in rules:
            node = mapping(rule, "a token rule")
            audiences = node.get("audiences", [])
            listed = tuple(map(str, audiences)) if isinstance(audiences, list) else ()
            uri = node.get("jwksUri")
            keys = None if uri else node.get("jwks")
            if not any(
                (issuer, uri, keys, listed)
                == (one_issuer, one_uri, None if one_uri else one_keys, one_listed)
                for one_issuer, one_uri, one_keys, one_listed in known
                for issuer in [node.get("issuer")]
            ):
                raise Undecidable(
                    f"reading {document.name}: it believes {shown(node.get('issuer'))}, unlike the inventory"
                )
            visible = True
    return visible


def mapping(node: object, what: str) -> Node:
    """`node` as a mapping; raises InvalidInput."""
    if not isinstance(node, Mapping):
        raise InvalidInput(f"reading {what}: {shown(node)} came, a mapping is expected")
    return node
