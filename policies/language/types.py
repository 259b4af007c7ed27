"""The static types of Rego values, as the type checker and the declarations of built-ins use them.

A type is a set of values. `compatible(a, b)` asks whether the two sets can share a value, which is what
OPA's checker asks too: a check fails only where no value at all could fit. There is no inference here.
"""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Any:
    """Every value."""

    def __str__(self) -> str:
        return "any"


@dataclass(frozen=True, slots=True)
class Primitive:
    """null, boolean, number or string."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class ArrayOf:
    """An array: first the `static` items, then any number of `dynamic` ones (None: no more)."""

    static: tuple["Type", ...] = ()
    dynamic: "Type | None" = None

    def __str__(self) -> str:
        if self.static:
            inner = "<" + ", ".join(map(str, self.static)) + ">"
            return f"array{inner}[{self.dynamic}]" if self.dynamic else f"array{inner}"
        return f"array[{self.dynamic}]" if self.dynamic else "array"


@dataclass(frozen=True, slots=True)
class SetOf:
    """A set of items of one type."""

    item: "Type"

    def __str__(self) -> str:
        return f"set[{self.item}]"


@dataclass(frozen=True, slots=True)
class ObjectOf:
    """An object: `static` keys with their types (any of which may be missing), then (key, value) of the rest.

    `dynamic` None means that no other key can be there.
    """

    static: tuple[tuple[object, "Type"], ...] = ()
    dynamic: tuple["Type", "Type"] | None = None

    def __str__(self) -> str:
        parts = [f"{key}: {kind}" for key, kind in self.static]
        inner = "<" + ", ".join(parts) + ">" if parts else ""
        return f"object{inner}" + (f"[{self.dynamic[0]}: {self.dynamic[1]}]" if self.dynamic else "")


@dataclass(frozen=True, slots=True)
class Union:
    """One of several types; never nested, never with `Any` in it (see `union`)."""

    options: tuple["Type", ...]

    def __str__(self) -> str:
        return "any<" + ", ".join(map(str, self.options)) + ">"


Type: TypeAlias = Any | Primitive | ArrayOf | SetOf | ObjectOf | Union

ANY = Any()
NULL = Primitive("null")
BOOLEAN = Primitive("boolean")
NUMBER = Primitive("number")
STRING = Primitive("string")
NEVER = Union(())
ANY_ARRAY = ArrayOf((), ANY)
ANY_SET = SetOf(ANY)
ANY_OBJECT = ObjectOf((), (ANY, ANY))


def array_of(item: Type) -> ArrayOf:
    """An array of any length."""
    return ArrayOf((), item)


def set_of(item: Type) -> SetOf:
    """A set."""
    return SetOf(item)


def object_of(key: Type, value: Type) -> ObjectOf:
    """An object with any keys of one type."""
    return ObjectOf((), (key, value))


def union(*options: Type) -> Type:
    """The union, flattened and without repetition; `any` swallows the rest."""
    flat: list[Type] = []
    for option in options:
        for part in option.options if isinstance(option, Union) else (option,):
            if isinstance(part, Any):
                return ANY
            if part not in flat:
                flat.append(part)
    return flat[0] if len(flat) == 1 else Union(tuple(flat))


def compatible(left: Type, right: Type) -> bool:
    """Whether some value belongs to both types."""
    if isinstance(left, Any) or isinstance(right, Any):
        return True
    if isinstance(left, Union):
        return any(compatible(option, right) for option in left.options)
    if isinstance(right, Union):
        return any(compatible(left, option) for option in right.options)
    if isinstance(left, Primitive) or isinstance(right, Primitive):
        return left == right
    if isinstance(left, ArrayOf) and isinstance(right, ArrayOf):
        return _compatible_arrays(left, right)
    if isinstance(left, ObjectOf) and isinstance(right, ObjectOf):
        return _compatible_objects(left, right)
    # Two sets always share the empty set; what holds no element says nothing about its elements' type,
    # but OPA compares the element types all the same and so do we.
    return isinstance(left, SetOf) and isinstance(right, SetOf) and compatible(left.item, right.item)


def _compatible_arrays(left: ArrayOf, right: ArrayOf) -> bool:
    for index in range(max(len(left.static), len(right.static))):
        first = left.static[index] if index < len(left.static) else left.dynamic
        second = right.static[index] if index < len(right.static) else right.dynamic
        if first is None or second is None or not compatible(first, second):
            return False
    if left.static or right.static or left.dynamic is None or right.dynamic is None:
        return True
    return compatible(left.dynamic, right.dynamic)


def _compatible_objects(left: ObjectOf, right: ObjectOf) -> bool:
    known_left, known_right = dict(left.static), dict(right.static)
    for key in {**known_left, **known_right}:
        first = known_left.get(key) or (left.dynamic[1] if left.dynamic else None)
        second = known_right.get(key) or (right.dynamic[1] if right.dynamic else None)
        if first is None or second is None:
            return False
        if not compatible(first, second):
            return False
    if known_left or known_right or left.dynamic is None or right.dynamic is None:
        return True
    return compatible(left.dynamic[0], right.dynamic[0]) and compatible(left.dynamic[1], right.dynamic[1])
