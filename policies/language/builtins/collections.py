"""Functions of arrays and objects: slices, unions, selections by key, subsets."""

from __future__ import annotations

from policies.language.builtins.errors import HaltError, OperandError
from policies.language.builtins.strings import whole
from policies.language.numbers import Number
from policies.language.values import Boolean, Object, Set, Value, boolean, type_name

Array = tuple[Value, ...]


def array_concat(left: Array, right: Array) -> Array:
    return left + right


def array_flatten(array: Array) -> Array:
    """Elements that are arrays replaced by their own elements, one level deep."""
    flat: list[Value] = []
    for item in array:
        if isinstance(item, tuple):
            flat.extend(item)
        else:
            flat.append(item)
    return tuple(flat)


def array_reverse(array: Array) -> Array:
    return array[::-1]


def array_slice(array: Array, start: Number, stop: Number) -> Array:
    """Elements from start up to but not including stop; positions outside are moved to the ends."""
    first, last = max(0, whole(start, 2)), min(len(array), whole(stop, 3))
    return array[first:last] if first < last else ()


def _keys(collection: Value) -> frozenset[Value]:
    return frozenset(collection)  # type: ignore[arg-type] # array, set, or the keys of an object


def object_filter(source: Object, keys: Value) -> Object:
    """Only the given keys."""
    wanted = _keys(keys)
    return Object({key: item for key, item in source.items() if key in wanted})


def object_remove(source: Object, keys: Value) -> Object:
    """All but the given keys."""
    unwanted = _keys(keys)
    return Object({key: item for key, item in source.items() if key not in unwanted})


def object_get(source: Object, path: Value, default: Value) -> Value:
    """The value at a key, or at the path that an array of keys makes; the default where there is none."""
    if not isinstance(path, tuple):
        return source.get(path, default)
    found: Value = source
    for step in path:
        if isinstance(found, Object):
            if step not in found:
                return default
            found = found[step]
        elif isinstance(found, tuple):
            if type(step) is not int or not 0 <= step < len(found):
                return default
            found = found[step]
        elif isinstance(found, Set):
            if step not in found:
                return default
            found = step
        else:
            return default
    return found


def object_keys(source: Object) -> Set:
    return Set(source)


MAX_MERGES = 500_000
"""Most keys that one union may merge: objects that share parts could ask for exponentially many."""


def object_union(left: Object, right: Object) -> Object:
    """Both objects; where both have an object at a key they are united, else the right one wins."""
    return _Merger().union(left, right)


def object_union_n(sources: Array) -> Object:
    """The union of many objects from left to right."""
    merger = _Merger()
    result = Object()
    for source in sources:
        if not isinstance(source, Object):
            raise OperandError(
                f"operand 1 must be array of objects but got array containing {type_name(source)}"
            )
        result = merger.union(result, source)
    return result


class _Merger:
    """Unites objects, with a bound on the work."""

    def __init__(self) -> None:
        self._left = MAX_MERGES

    def union(self, left: Object, right: Object) -> Object:
        merged = dict(left)
        self._left -= len(right) + 1
        if self._left < 0:
            raise HaltError(f"object.union: more than {MAX_MERGES} keys to merge")
        for key, item in right.items():
            present = merged.get(key)
            both = isinstance(present, Object) and isinstance(item, Object)
            merged[key] = self.union(present, item) if both else item  # type: ignore[arg-type]
        return Object(merged)


def object_subset(super_value: Value, sub_value: Value) -> Boolean:
    """Whether the second value is part of the first (objects deeply, arrays as a run, sets or array and
    set).
    """
    if isinstance(super_value, Object) and isinstance(sub_value, Object):
        return boolean(_object_part(super_value, sub_value))
    if isinstance(super_value, Set) and isinstance(sub_value, Set):
        return boolean(sub_value <= super_value)
    if isinstance(super_value, tuple) and isinstance(sub_value, tuple):
        return boolean(_array_run(super_value, sub_value))
    if isinstance(super_value, tuple) and isinstance(sub_value, Set):
        return boolean(sub_value <= frozenset(super_value))
    raise OperandError("both arguments object.subset must be of the same type or array and set")


def _object_part(super_value: Object, sub_value: Object) -> bool:
    for key, item in sub_value.items():
        if key not in super_value:
            return False
        present = super_value[key]
        if isinstance(item, Object) and isinstance(present, Object):
            if not _object_part(present, item):
                return False
        elif isinstance(item, Set) and isinstance(present, Set):
            if not item <= present:
                return False
        elif isinstance(item, tuple) and isinstance(present, tuple):
            if not _array_run(present, item):
                return False
        elif present != item:
            return False
    return True


def _array_run(super_value: Array, sub_value: Array) -> bool:
    size = len(sub_value)
    return any(super_value[at : at + size] == sub_value for at in range(len(super_value) - size + 1))


FUNCTIONS = {
    "array.concat": array_concat,
    "array.flatten": array_flatten,
    "array.reverse": array_reverse,
    "array.slice": array_slice,
    "object.filter": object_filter,
    "object.remove": object_remove,
    "object.get": object_get,
    "object.keys": object_keys,
    "object.union": object_union,
    "object.union_n": object_union_n,
    "object.subset": object_subset,
}
