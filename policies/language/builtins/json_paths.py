"""`json.filter`, `json.remove` and `json.patch`: parts of documents selected by paths.

A path is a string (`a/b~1c/0`, RFC 6901 escapes, the leading slash optional) or an array of keys. Array
positions are decimal strings. Not here: JSON text (`encoding`) and schemas (`schema`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from policies.language.builtins.errors import BuiltinError, HaltError, OperandError
from policies.language.values import Object, Set, Value, type_name

Path = tuple[Value, ...]

MAX_OPERATIONS = 10_000
"""Most operations of one json.patch: each may copy the document's spine."""


def parse_path(path: Value) -> Path:
    """The keys of a path; OperandError when it is neither string nor array."""
    if isinstance(path, tuple):
        return path
    if not isinstance(path, str):
        raise OperandError(
            "operand 2 must be one of {set, array} containing string paths or array of path segments "
            f"but got {type_name(path)}"
        )
    if not path:
        return ()
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in path.lstrip("/").split("/"))


def _paths(collection: Value) -> list[Path]:
    items = collection.ordered_members() if isinstance(collection, Set) else collection
    return [parse_path(path) for path in items]  # type: ignore[union-attr] # array or set by signature


@dataclass(slots=True)
class _Selection:
    """A tree of the selected paths; `whole`: everything below is selected."""

    whole: bool = False
    below: dict[Value, _Selection] = field(default_factory=dict)

    @classmethod
    def of(cls, paths: list[Path]) -> _Selection:
        root = cls()
        for path in paths:
            node = root
            for step in path:
                if node.whole:
                    break
                node = node.below.setdefault(step, cls())
            if path:
                node.whole = True
        return root


def filter_paths(source: Object, paths: Value) -> Value:
    """Only what the paths name."""
    return _kept(source, _Selection.of(_paths(paths)))


def _kept(value: Value, selection: _Selection) -> Value:
    if selection.whole:
        return value
    below = selection.below
    if isinstance(value, Object):
        return Object({key: _kept(item, below[key]) for key, item in value.items() if key in below})
    if isinstance(value, tuple):
        return tuple(_kept(item, below[str(at)]) for at, item in enumerate(value) if str(at) in below)
    if isinstance(value, Set):
        return Set(_kept(item, below[item]) for item in value if item in below)
    return value


def remove_paths(source: Object, paths: Value) -> Value:
    """All but what the paths name."""
    return _without(source, _Selection.of(_paths(paths)))


def _without(value: Value, selection: _Selection) -> Value:
    below = selection.below
    if not below:
        return value

    def gone(key: Value) -> bool:
        return key in below and below[key].whole

    if isinstance(value, Object):
        kept = {
            k: _without(item, below[k]) if k in below else item for k, item in value.items() if not gone(k)
        }
        return Object(kept)
    if isinstance(value, tuple):
        keys = [(str(at), item) for at, item in enumerate(value)]
        return tuple(_without(item, below[k]) if k in below else item for k, item in keys if not gone(k))
    if isinstance(value, Set):
        return Set(_without(item, below[item]) if item in below else item for item in value if not gone(item))
    return value


# --- json.patch -----------------------------------------------------------------------------------


def patch(target: Value, operations: tuple[Value, ...]) -> Value:
    """The document after RFC 6902 operations; sets take part with their members as keys."""
    if len(operations) > MAX_OPERATIONS:
        raise HaltError(f"json.patch: more than {MAX_OPERATIONS} operations")
    for operation in operations:
        if not isinstance(operation, Object):
            raise OperandError(
                "operand 2 must be array of JSON-Patch objects but got array containing "
                f"{type_name(operation)}"
            )
        target = _applied(target, operation)
    return target


def _attribute(operation: Object, name: str) -> Value:
    if name not in operation:
        raise BuiltinError(f"json.patch: missing required attribute '{name}'")
    return operation[name]


def _patch_path(operation: Object, name: str) -> Path:
    path = _attribute(operation, name)
    if not isinstance(path, str | tuple):
        raise BuiltinError(f"json.patch: attribute '{name}' must be a string or an array of path segments")
    return parse_path(path)


def _applied(target: Value, operation: Object) -> Value:
    name = _attribute(operation, "op")
    path = _patch_path(operation, "path")
    if name == "add":
        return _changed(target, path, _adding(_attribute(operation, "value")))
    if name == "remove":
        return _changed(target, path, _remove)
    if name == "replace":
        new = _attribute(operation, "value")
        _found(target, path)
        return _changed(target, path, _replacing(new)) if path else new
    if name == "test":
        if _found(target, path) != _attribute(operation, "value"):
            raise BuiltinError("json.patch: value from EditTree != expected value")
        return target
    if name in ("copy", "move"):
        source = _patch_path(operation, "from")
        value = _found(target, source)
        if name == "move" and source:
            if path[: len(source)] == source and path != source:
                raise BuiltinError("json.patch: cannot move a document into itself")
            target = _changed(target, source, _remove)
        return _changed(target, path, _adding(value))
    raise BuiltinError(f"json.patch: unrecognized op: '{name}'")


Change = Callable[[Value, Value], Value]
"""Container and key to the changed container; key None with container None never occurs."""


def _changed(target: Value, path: Path, change: Change) -> Value:
    if not path:
        return change(None, None)
    key = path[0]
    if len(path) == 1:
        return change(target, key)
    inner = _changed(_child(target, key), path[1:], change)
    return _replacing(inner, rename=True)(target, key)


def _found(target: Value, path: Path) -> Value:
    for key in path:
        target = _child(target, key)
    return target


def _child(container: Value, key: Value) -> Value:
    if isinstance(container, tuple):
        return container[_position(key, len(container) - 1)]
    if isinstance(container, Object | Set) and key in container:
        return container[key] if isinstance(container, Object) else key
    raise BuiltinError(f"json.patch: path {key!r} does not exist")


def _position(key: Value, last: int) -> int:
    """An array position; `-` is the one after the last."""
    if key == "-":
        position = last + 1 if last >= 0 or last == -1 else 0
    elif type(key) is int:
        position = key
    elif isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10:
        if len(key) > 1 and key[0] == "0":
            raise BuiltinError("json.patch: leading zeros are not allowed in JSON paths")
        position = int(key)
    else:
        raise BuiltinError(f"json.patch: invalid index {key!r} for an array")
    if not 0 <= position <= last:
        raise BuiltinError("json.patch: index for array out of bounds")
    return position


def _adding(new: Value) -> Change:
    def change(container: Value, key: Value) -> Value:
        if container is None and key is None:
            return new
        if isinstance(container, Object):
            return Object({**container, key: new})
        if isinstance(container, tuple):
            at = len(container) if key == "-" else _position(key, len(container))
            return (*container[:at], new, *container[at:])
        if isinstance(container, Set):
            if key != new:
                raise BuiltinError(f"json.patch: set key {key!r} does not equal value to be inserted {new!r}")
            return Set(container | {new})
        raise BuiltinError(f"json.patch: a {type_name(container)} has no members")

    return change


def _remove(container: Value, key: Value) -> Value:
    if container is None and key is None:
        raise BuiltinError("json.patch: cannot delete the whole document")
    _child(container, key)
    if isinstance(container, Object):
        return Object({present: item for present, item in container.items() if present != key})
    if isinstance(container, tuple):
        at = _position(key, len(container) - 1)
        return (*container[:at], *container[at + 1 :])
    assert isinstance(container, Set)  # _child accepts no fourth
    return Set(container - {key})


def _replacing(new: Value, *, rename: bool = False) -> Change:
    """Another value at a key; in a set only by itself, unless a path went through the member (`rename`)."""

    def change(container: Value, key: Value) -> Value:
        if isinstance(container, Object):
            return Object({**container, key: new})
        if isinstance(container, tuple):
            at = _position(key, len(container) - 1)
            return (*container[:at], new, *container[at + 1 :])
        assert isinstance(container, Set)  # _child was asked before
        if key != new and not rename:
            raise BuiltinError(f"json.patch: set key {key!r} does not equal value to be inserted {new!r}")
        return Set((container - {key}) | {new})

    return change


FUNCTIONS = {"json.filter": filter_paths, "json.remove": remove_paths, "json.patch": patch}
