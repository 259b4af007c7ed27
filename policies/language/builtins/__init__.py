"""The built-in functions of Rego: one module a family, `registry.BUILTINS` for all of them.

A family has `FUNCTIONS` (name to function) and, where functions need the state of the evaluation,
`CONTEXTUAL`.
"""

from __future__ import annotations

from types import ModuleType

from policies.language.builtins import (
    aggregates,
    certificates,
    collections,
    crypto,
    documents,
    encoding,
    formatting,
    glob_intersection,
    globs,
    json_paths,
    net,
    numeric,
    operators,
    regular,
    schemas,
    simple,
    strings,
    templates,
    times,
    tokens,
)

FAMILIES: tuple[ModuleType, ...] = (
    aggregates,
    certificates,
    collections,
    crypto,
    documents,
    encoding,
    formatting,
    glob_intersection,
    globs,
    json_paths,
    net,
    numeric,
    operators,
    regular,
    schemas,
    simple,
    strings,
    templates,
    times,
    tokens,
)
