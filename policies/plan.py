"""Desired objects against live ones: what to create, update and delete, and why; printed as a diff.

A plan is a value that somebody else executes. Objects are told apart by kind, namespace and name, and
compared by what they say, without annotations: a new bundle digest alone changes nothing. Adds come before
removes, so that no moment is without an ALLOW policy. Only objects that carry our label are ever deleted.
"""

import difflib
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from control_plane.core.errors import InvalidInput, shown
from policies.documents import write_yaml
from policies.targets.manifest import MANAGED_BY, MANAGER, content_digest

Key = tuple[str, str, str]
"""Kind, namespace, name."""


class Verb(enum.StrEnum):
    """What to do with an object."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Step:
    """One change of one object. `before` is None for a create, `after` for a delete."""

    verb: Verb
    key: Key
    why: str
    before: Mapping[str, object] | None
    after: Mapping[str, object] | None

    def diff(self) -> str:
        """The change as a unified diff of YAML."""
        name = "/".join(self.key)
        old = write_yaml(self.before).splitlines(keepends=True) if self.before is not None else []
        new = write_yaml(self.after).splitlines(keepends=True) if self.after is not None else []
        return "".join(difflib.unified_diff(old, new, f"live/{name}", f"desired/{name}"))


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in the order in which they are to be taken, and objects left alone."""

    steps: tuple[Step, ...]
    unchanged: int
    foreign: tuple[Key, ...] = ()

    def __str__(self) -> str:
        """Every step with its reason and its diff, and a summary last."""
        counts = ", ".join(f"{sum(step.verb is verb for step in self.steps)} to {verb}" for verb in Verb)
        parts = [f"# {step.verb} {'/'.join(step.key)}: {step.why}\n{step.diff()}" for step in self.steps]
        left = "".join(f"# left alone {'/'.join(key)}: it isn't ours\n" for key in self.foreign)
        return "".join(parts) + left + f"# {counts}, {self.unchanged} unchanged\n"


def make_plan(desired: Iterable[Mapping[str, object]], live: Iterable[Mapping[str, object]]) -> Plan:
    """Compare two sets of objects. Live objects may carry whatever a cluster adds to metadata, and `status`.

    Raises InvalidInput where an object has no identity or stands twice among the desired.
    """
    wanted: dict[Key, Mapping[str, object]] = {}
    for document in desired:
        key = _key(document)
        if key in wanted:
            raise InvalidInput(f"planning: {'/'.join(key)} is desired twice")
        wanted[key] = document
    present = {_key(document): document for document in live}
    adds: list[Step] = []
    removes: list[Step] = []
    foreign: list[Key] = []
    unchanged = 0
    for key, document in sorted(wanted.items()):
        found = present.get(key)
        if found is None:
            adds.append(Step(Verb.CREATE, key, _why_new(key, document, present), None, document))
        elif not _ours(found):
            foreign.append(key)
        elif content_digest(found) != content_digest(document):
            adds.append(
                Step(Verb.UPDATE, key, "it was changed by somebody else", _comparable(found), document)
            )
        else:
            unchanged += 1
    for key, document in sorted(present.items()):
        if key not in wanted and _ours(document):
            removes.append(Step(Verb.DELETE, key, _why_gone(key, wanted), _comparable(document), None))
    return Plan((*adds, *removes), unchanged, tuple(foreign))


def _why_new(key: Key, document: Mapping[str, object], present: Mapping[Key, Mapping[str, object]]) -> str:
    """A renamed object replaces one with the same stem: names end with the digest of the content."""
    stem = _stem(key)
    before = [other for other in present if _stem(other) == stem and _ours(present[other])]
    return f"its content changed (it replaces {before[0][2]})" if before else "the policy now asks for it"


def _why_gone(key: Key, wanted: Mapping[Key, Mapping[str, object]]) -> str:
    stem = _stem(key)
    after = [other for other in wanted if _stem(other) == stem]
    return f"its content changed (replaced by {after[0][2]})" if after else "the policy no longer asks for it"


def _stem(key: Key) -> Key:
    kind, namespace, name = key
    return kind, namespace, name.rpartition("-")[0]


def _key(document: Mapping[str, object]) -> Key:
    metadata = document.get("metadata")
    kind = document.get("kind")
    if (
        not isinstance(metadata, Mapping)
        or not isinstance(kind, str)
        or not isinstance(metadata.get("name"), str)
    ):
        raise InvalidInput(f"planning: {shown(document)} has no kind and name")
    return kind, str(metadata.get("namespace", "")), str(metadata["name"])


def _ours(document: Mapping[str, object]) -> bool:
    metadata = document.get("metadata")
    labels = metadata.get("labels") if isinstance(metadata, Mapping) else None
    return isinstance(labels, Mapping) and labels.get(MANAGED_BY) == MANAGER


def _comparable(document: Mapping[str, object]) -> Mapping[str, object]:
    """A live object without what the cluster keeps for itself."""
    metadata = document["metadata"]
    kept = ("name", "namespace", "labels", "annotations")
    trimmed = (
        {name: metadata[name] for name in kept if name in metadata} if isinstance(metadata, Mapping) else {}
    )
    return {
        key: trimmed if key == "metadata" else value for key, value in document.items() if key != "status"
    }
