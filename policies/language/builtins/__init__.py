"""The built-in functions of Rego: one module a family, `registry.BUILTINS` for all of them."""

from __future__ import annotations

from types import ModuleType

FAMILIES: tuple[ModuleType, ...] = ()
