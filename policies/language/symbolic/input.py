"""The partly known input: what the compiler knows of the destination, and the shape of everything else.

Paths below `input` are steps of text. A step leads to a known value, to an attribute of the schema, to an
inner node, or to nothing: an unknown field is undefined, as in Rego (the checks refuse it earlier, with the
nearest right name).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from policies.formula import Attribute
from policies.formula.attributes import MAX_CLAIM_DEPTH, SCHEMA_NAMES
from policies.language.symbolic.values import Node, Symbolic
from policies.language.values import EMPTY_OBJECT, Object, Value

_CLAIMS: Final = ("jwt", "claims")
_KEYED: Final = frozenset({("source", "labels"), ("destination", "labels"), ("request", "headers"), _CLAIMS})
_LEAVES: Final = frozenset(path for name in SCHEMA_NAMES if (path := tuple(name.split("."))) not in _KEYED)
_INNER: Final = frozenset({(), *(path[:1] for path in _LEAVES | _KEYED), *_KEYED})


@dataclass(frozen=True, slots=True)
class PartialInput:
    """What is known of the input; every path in neither part is an attribute, or undefined.

    `closed` are inner paths that are known whole: below them, what isn't in `known` is absent. `there` are
    inner paths that every input has, empty where nothing is known of them; any other inner part of the input
    may be missing as a whole. That shows where a policy takes the part as a value (`not input.request`,
    `object.get(input.request, …)`); a path to an attribute needs no more than the attribute.
    `elsewhere` are paths that aren't known here, and are known of other inputs that share a memory with it.
    """

    known: Object = EMPTY_OBJECT
    closed: frozenset[tuple[str, ...]] = field(default_factory=frozenset)
    there: frozenset[tuple[str, ...]] = field(default_factory=frozenset)
    elsewhere: frozenset[tuple[str, ...]] = field(default_factory=frozenset)

    def has(self, node: Node) -> bool:
        """Whether every input has this inner part."""
        if not node.path or any(path[: len(node.path)] == node.path for path in self.there):
            return True
        found: Value = self.known
        for step in node.path:
            if not isinstance(found, Object) or step not in found:
                return False
            found = found[step]
        return True

    def step(self, node: Node, key: str) -> tuple[Symbolic, ...]:
        """What `key` below a node is, or nothing where nothing can be."""
        path = (*node.path, key)
        found: Value = self.known
        for step in path:
            if not isinstance(found, Object) or step not in found:
                break
            found = found[step]
        else:
            if path not in _INNER or path in self.closed:
                return (found,)
        if node.path in self.closed:
            return ()
        if node.path == ("request", "headers") and key != key.lower():
            return ()  # names of headers are in lower case in every input, so another spelling finds nothing
        below_claims = path[:2] == _CLAIMS and len(path) <= 2 + MAX_CLAIM_DEPTH
        below_keyed = node.path in _KEYED
        return (
            (Node(path, node.replaced),)
            if path in _INNER or path in _LEAVES or below_keyed or below_claims
            else ()
        )


def attribute_at(path: tuple[str, ...]) -> Attribute | None:
    """The attribute of the schema at a path below `input`, if one ends there."""
    if path in _LEAVES:
        return Attribute.of(".".join(path))
    if path[:2] in _KEYED and len(path) > 2 and (len(path) == 3 or path[:2] == _CLAIMS):
        return Attribute.of(".".join(path[:2]), *path[2:])
    return None
