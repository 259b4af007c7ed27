"""Values of Rego as immutable, hashable Python values whose `==` is Rego's equality.

    null     None
    boolean  TRUE, FALSE (singletons of `Boolean`, not Python bools: True == 1 there and never in Rego)
    number   int, or `numbers.Real` for anything not written as a plain integer; 1 == Real("1.0")
    string   str
    array    tuple
    object   Object (a dict that can't be changed, hash cached)
    set      Set (a frozenset, order cached)

Because equality and hashes are Python's own, sets and objects work at the speed of C and need no wrapped
keys. `compare` and `ordered` give the total order: null < boolean < number < string < array < object <
set, strings by their UTF-8 bytes (which is the order of code points, so Python's own).

Not here: reading and writing text (`json_text`, `render` are in `serial`), types, evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, Never, TypeAlias, Union

from policies.language.numbers import Real

MAX_NESTING = 256
"""Deepest nesting of arrays, objects and sets that a value may have."""


class NestingLimitExceededError(ValueError):
    """A value is nested deeper than MAX_NESTING."""


class Boolean:
    """Rego's true and false. Only TRUE and FALSE exist; compare with `is`."""

    __slots__ = ("_truth",)

    def __init__(self, truth: bool) -> None:
        self._truth = truth

    def __bool__(self) -> bool:
        return self._truth

    def __repr__(self) -> str:
        return "true" if self._truth else "false"

    def __copy__(self) -> Boolean:
        return self

    def __deepcopy__(self, _memo: object) -> Boolean:
        return self

    def __reduce__(self) -> Never:
        raise TypeError("Rego booleans are singletons and are not serialised by Python; use serial.json_text")


TRUE: Final = Boolean(True)
FALSE: Final = Boolean(False)


def boolean(truth: object) -> Boolean:
    """TRUE or FALSE for a Python truth value."""
    return TRUE if truth else FALSE


class Object(dict["Value", "Value"]):
    """An object: any value may be a key. Reading is a dict's; every change is refused."""

    __slots__ = ("_hash", "_items")
    _hash: int
    _items: tuple[tuple[Value, Value], ...]

    def __hash__(self) -> int:  # type: ignore[override]
        try:
            return self._hash
        except AttributeError:
            self._hash = hash(frozenset(dict.items(self)))
            return self._hash

    def ordered_items(self) -> tuple[tuple[Value, Value], ...]:
        """Keys and values in the total order of the keys, which is the order of iteration in Rego."""
        try:
            return self._items
        except AttributeError:
            self._items = tuple((key, self[key]) for key in ordered(self))
            return self._items

    def _refuse(self, *_arguments: Any, **_named: Any) -> Never:
        raise TypeError("a Rego object can't be changed")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __copy__(self) -> Object:
        return self

    def __deepcopy__(self, _memo: object) -> Object:
        return self


class Set(frozenset["Value"]):
    """A set; `ordered_members` caches the order of iteration."""

    __slots__ = ("_members",)
    _members: tuple[Value, ...]

    def ordered_members(self) -> tuple[Value, ...]:
        """The members in the total order."""
        try:
            return self._members
        except AttributeError:
            self._members = tuple(ordered(self))
            return self._members


Value: TypeAlias = Union[Boolean, int, Real, str, tuple["Value", ...], "Object", "Set", None]

EMPTY_OBJECT: Final = Object()
EMPTY_SET: Final = Set()

_RANK: Final[dict[type, int]] = {
    type(None): 0, Boolean: 1, int: 2, Real: 2, str: 3, tuple: 4, Object: 5, Set: 6,
}  # fmt: skip
_NAME: Final[dict[type, str]] = {
    type(None): "null", Boolean: "boolean", int: "number", Real: "number", str: "string",
    tuple: "array", Object: "object", Set: "set",
}  # fmt: skip


def type_name(value: Value) -> str:
    """`null`, `boolean`, `number`, `string`, `array`, `object` or `set`."""
    return _NAME[type(value)]


def order_key(value: Value) -> Any:
    """A Python value that sorts as `value` does in Rego's total order."""
    kind = type(value)
    if kind is str or kind is int or kind is Real:
        return (_RANK[kind], value)
    if isinstance(value, tuple):
        return (4, tuple(map(order_key, value)))
    if isinstance(value, Object):
        return (5, tuple((order_key(key), order_key(item)) for key, item in value.ordered_items()))
    if isinstance(value, Set):
        return (6, tuple(map(order_key, value.ordered_members())))
    return (0,) if value is None else (1, value is TRUE)


def ordered(values: Iterable[Value]) -> list[Value]:
    """The values in Rego's total order; equal ones keep their place."""
    listed = list(values)
    if len(listed) < 2:
        return listed
    first = type(listed[0])
    if (first is str or first is int) and all(type(value) is first for value in listed):
        listed.sort()
    else:
        listed.sort(key=order_key)
    return listed


def compare(left: Value, right: Value) -> int:
    """-1, 0 or 1 as `left` stands before, with or after `right` in the total order."""
    left_type, right_type = type(left), type(right)
    if left_type is right_type and (left_type is int or left_type is str):
        return (left > right) - (left < right)  # type: ignore[operator]
    left_rank, right_rank = _RANK[left_type], _RANK[right_type]
    if left_rank != right_rank:
        return -1 if left_rank < right_rank else 1
    if left == right:
        return 0
    return -1 if order_key(left) < order_key(right) else 1


def identical(left: object, right: object) -> bool:
    """Whether two values are equal and written the same: 1 and 1.0 are equal and print differently."""
    return left is right or (left == right and _same_spelling(left, right))


def _same_spelling(left: object, right: object) -> bool:
    """Of two equal values; texts among them need no second look."""
    if type(left) is not type(right):
        return False
    if isinstance(left, Real) and isinstance(right, Real):
        return left.text == right.text
    if isinstance(left, Object) and isinstance(right, Object):
        if any(type(key) is not str for key in left):
            left, right = left.ordered_items(), right.ordered_items()
        else:
            return all(type(one) is str or _same_spelling(one, right[key]) for key, one in left.items())
    if isinstance(left, Set) and isinstance(right, Set):
        left, right = left.ordered_members(), right.ordered_members()
    if isinstance(left, tuple) and isinstance(right, tuple):
        pairs = zip(left, right, strict=True)
        return all(one is other or type(one) is str or _same_spelling(one, other) for one, other in pairs)
    return True


def members(collection: Value) -> Iterator[tuple[Value, Value]]:
    """Key and value of each element in order: position, key, or (for sets) the member itself."""
    if isinstance(collection, tuple):
        return iter(enumerate(collection))
    if isinstance(collection, Object):
        return iter(collection.ordered_items())
    if isinstance(collection, Set):
        return ((member, member) for member in collection.ordered_members())
    return iter(())


_ALREADY: Final = frozenset({str, int, Boolean, Real, Object, Set})


def from_python(source: object, *, nesting: int = MAX_NESTING) -> Value:
    """The value for JSON-like Python data (None, bool, int, Decimal, str, list, tuple, dict, set, frozenset).

    Values that are Rego's already pass unchanged. A float is refused: it has lost the text that was written.
    Raises NestingLimitExceededError and TypeError.
    """
    return _from_python(source, nesting)


def _from_python(source: object, nesting: int) -> Value:
    kind = type(source)
    if source is None or kind in _ALREADY:
        return source  # type: ignore[return-value]
    if nesting <= 0:
        raise NestingLimitExceededError(f"a value is nested deeper than {MAX_NESTING}")
    below = nesting - 1
    # Texts, of which data consists mostly, are passed without a call for each.
    if kind is not dict and isinstance(source, list | tuple):
        return tuple([v if type(v) is str else _from_python(v, below) for v in source])
    if kind is dict or isinstance(source, Mapping):
        return Object(
            {
                k if type(k) is str else _from_python(k, below): (
                    v if type(v) is str else _from_python(v, below)
                )
                for k, v in source.items()  # type: ignore[attr-defined]
            }
        )
    if isinstance(source, bool):
        return TRUE if source else FALSE
    if isinstance(source, set | frozenset):
        return Set([_from_python(item, below) for item in source])
    if isinstance(source, Decimal):
        return Real(source, str(source).replace("E", "e"))
    raise TypeError(f"no Rego value for a {type(source).__name__}")


def to_python(value: Value) -> Any:
    """JSON-like Python data for a value: sets become sorted lists, `Real` stays a Decimal."""
    if isinstance(value, Boolean):
        return value is TRUE
    if isinstance(value, tuple):
        return [to_python(item) for item in value]
    if isinstance(value, Set):
        return [to_python(item) for item in value.ordered_members()]
    if isinstance(value, Object):
        from policies.language.serial import json_key  # the text of a key that is no string

        return {json_key(key): to_python(item) for key, item in value.ordered_items()}
    return value
