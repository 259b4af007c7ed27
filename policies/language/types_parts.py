"""What is inside of a type: the type of `value[key]`, of the elements of an iteration, the known keys.

Not here: whole types and whether they fit (types).
"""

from policies.language.syntax import ast
from policies.language.syntax.ast import Call, Ref, String, Term, Var
from policies.language.types import (
    ANY,
    NUMBER,
    STRING,
    Any,
    ArrayOf,
    ObjectOf,
    SetOf,
    Type,
    Union,
    compatible,
    union,
)

MAX_INDEX = 1_000
"""Indexes beyond this count as unknown."""


def part_of(whole: Type, key: Term, key_type: Type | None) -> Type | None:
    """The type of `whole[key]`; None when no value of the type has such a part."""
    if isinstance(whole, Any):
        return ANY
    if isinstance(whole, Union):
        options = [part for option in whole.options if (part := part_of(option, key, key_type)) is not None]
        return union(*options) if options else None
    if isinstance(whole, ArrayOf):
        return _item(whole, key, key_type)
    if isinstance(whole, SetOf):
        return whole.item
    if isinstance(whole, ObjectOf):
        return _field(whole, key)
    return None


def _item(whole: ArrayOf, key: Term, key_type: Type | None) -> Type | None:
    if isinstance(key, String) or (key_type is not None and not compatible(key_type, NUMBER)):
        return None
    if isinstance(key, ast.Number) and key.text.isdigit():
        index = int(key.text) if len(key.text) < 8 else MAX_INDEX
        if index < len(whole.static):
            return whole.static[index]
        return whole.dynamic
    if not isinstance(key, ast.Number | Var | Ref | Call):
        return None
    options = (*whole.static, *((whole.dynamic,) if whole.dynamic is not None else ()))
    return union(*options) if options else ANY


def _field(whole: ObjectOf, key: Term) -> Type | None:
    if isinstance(key, String):
        for name, kind in whole.static:
            if name == key.value:
                return kind
        return whole.dynamic[1] if whole.dynamic is not None else None
    options = [kind for _, kind in whole.static]
    if whole.dynamic is not None:
        options.append(whole.dynamic[1])
    return union(*options) if options else ANY


def element_of(whole: Type) -> tuple[Type, Type]:
    """Key and value types of iteration over a type."""
    if isinstance(whole, ArrayOf):
        options = (*whole.static, *((whole.dynamic,) if whole.dynamic is not None else ()))
        return NUMBER, union(*options) if options else ANY
    if isinstance(whole, SetOf):
        return whole.item, whole.item
    if isinstance(whole, ObjectOf):
        key: Type = union(STRING, whole.dynamic[0]) if whole.dynamic is not None and whole.static else STRING
        if not whole.static:
            key = whole.dynamic[0] if whole.dynamic is not None else ANY
        values = [kind for _, kind in whole.static]
        if whole.dynamic is not None:
            values.append(whole.dynamic[1])
        return key, union(*values) if values else ANY
    return ANY, ANY


def keys_of(whole: Type) -> list[str]:
    if isinstance(whole, ObjectOf):
        return [str(name) for name, _ in whole.static]
    if isinstance(whole, Union):
        return [name for option in whole.options for name in keys_of(option)]
    return []
