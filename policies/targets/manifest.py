"""Kubernetes objects as plain dictionaries, with names that follow their content, and the files they go to.

An object's name ends with the digest of its own kind and spec, so that an edit renames, and thereby touches,
only what it changes. Labels and annotations say whose it is; the bundle digest says which policy version
wrote it last and counts for nothing in comparisons.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from policies.documents import write_yaml
from policies.formula import Origin

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "gatehouse"
WORKLOAD_LABEL: Final = "gatehouse.dev/workload"
TARGET_LABEL: Final = "gatehouse.dev/target"
BUNDLE_ANNOTATION: Final = "gatehouse.dev/bundle"
CONTENT_ANNOTATION: Final = "gatehouse.dev/content"
WORKLOAD_ANNOTATION: Final = "gatehouse.dev/workload-key"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object, and for each of its rules the Rego lines it comes from."""

    document: Mapping[str, object]
    origins: tuple[tuple[Origin, ...], ...] = ()

    @property
    def kind(self) -> str:
        """The object's kind."""
        return str(self.document["kind"])

    @property
    def name(self) -> str:
        """The object's name."""
        return str(self._metadata["name"])

    @property
    def namespace(self) -> str:
        """The object's namespace."""
        return str(self._metadata["namespace"])

    @property
    def content(self) -> str:
        """The digest of what the object says, without annotations."""
        return content_digest(self.document)

    @property
    def _metadata(self) -> Mapping[str, object]:
        metadata = self.document["metadata"]
        assert isinstance(metadata, Mapping)
        return metadata

    def file_name(self) -> str:
        """The file of the object; unique because kind, namespace and name are."""
        return f"{self.namespace}.{self.kind.lower()}.{self.name}.yaml"

    def text(self) -> str:
        """The object as YAML."""
        return write_yaml(self.document)


def content_digest(document: Mapping[str, object]) -> str:
    """SHA-256 over kind, namespace, labels and every field besides metadata, in canonical JSON."""
    metadata = document.get("metadata")
    kept = {key: value for key, value in document.items() if key not in ("metadata", "status")}
    if isinstance(metadata, Mapping):
        kept["metadata"] = {key: metadata.get(key) for key in ("namespace", "labels")}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def manifest(
    api_version: str,
    kind: str,
    namespace: str,
    workload: str,
    target: str,
    part: str,
    bundle: str,
    body: Mapping[str, object],
    origins: Sequence[tuple[Origin, ...]] = (),
) -> Manifest:
    """An object named `gatehouse-<workload>-<part>-<digest>`; `body` is every field beside metadata."""
    labels = {MANAGED_BY: MANAGER, TARGET_LABEL: target, WORKLOAD_LABEL: label_value(workload)}
    draft = {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"namespace": namespace, "labels": labels},
        **body,
    }
    digest = content_digest(draft)
    short = re.sub(r"[^a-z0-9-]", "-", workload)[:40].strip("-")
    metadata = {
        "name": f"gatehouse-{short}-{part}-{digest[:10]}",
        "namespace": namespace,
        "labels": labels,
        "annotations": {
            BUNDLE_ANNOTATION: bundle,
            CONTENT_ANNOTATION: f"sha256:{digest}",
            WORKLOAD_ANNOTATION: f"{namespace}/{workload}",
        },
    }
    document = {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body}
    return Manifest(document, tuple(origins))


def label_value(text: str) -> str:
    """A text as a label value: what doesn't fit is cut and told apart by a digest."""
    if len(text) <= 63:
        return text
    return f"{text[:50].rstrip('-._')}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def files(manifests: Iterable[Manifest]) -> dict[str, str]:
    """File name to text: one object a file, and a kustomization that lists them; the same every time."""
    return with_listing({one.file_name(): one.text() for one in manifests})


def with_listing(texts: Mapping[str, str]) -> dict[str, str]:
    """Files of one object each, in order, and the kustomization that lists them."""
    resources = sorted(texts)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": resources,
    }
    return {name: texts[name] for name in resources} | {"kustomization.yaml": write_yaml(kustomization)}


def source_map(manifests: Iterable[Manifest]) -> dict[str, list[list[str]]]:
    """`namespace/name` of a policy to the Rego lines of each of its rules, by index."""
    return {
        f"{one.namespace}/{one.name}": [[str(origin) for origin in origins] for origins in one.origins]
        for one in manifests
        if one.origins
    }
