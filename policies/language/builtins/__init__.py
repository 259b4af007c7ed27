"""The built-in functions of Rego: one module a family, `registry.BUILTINS` for all of them.

A family has `FUNCTIONS` (name to function) and, where functions need the state of the evaluation,
`CONTEXTUAL`. `heavy` stands for three families that are loaded when they are called.
"""

from __future__ import annotations

from types import ModuleType

from policies.language.builtins import (
    aggregates,
    collections,
    crypto,
    documents,
    encoding,
    formatting,
    glob_intersection,
    globs,
    heavy,
    json_paths,
    net,
    numeric,
    operators,
    regular,
    simple,
    strings,
    templates,
    times,
)

FAMILIES: tuple[ModuleType, ...] = (
    aggregates,
    collections,
    crypto,
    documents,
    encoding,
    formatting,
    glob_intersection,
    globs,
    heavy,
    json_paths,
    net,
    numeric,
    operators,
    regular,
    simple,
    strings,
    templates,
    times,
)
