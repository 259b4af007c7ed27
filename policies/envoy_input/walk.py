"""Going through parsed modules: every node with the call around it, and which names are of Envoy's input."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policies.language.source import Span
from policies.language.syntax import ast

Path = tuple[str, ...]

_SKIPPED = frozenset({"span", "annotations", "comments", "source", "reference", "target"})
"""Fields that hold no term to rewrite; `reference` is the name of a rule, `target` what `with` replaces."""


def walk(node: Any, around: ast.Call | None = None) -> Iterator[tuple[Any, ast.Call | None]]:
    """Every node below (outer ones first), each with the call whose argument it is."""
    waiting: list[tuple[Any, ast.Call | None]] = [(node, around)]
    while waiting:
        one, call = waiting.pop()
        if isinstance(one, tuple):
            waiting += [(part, call) for part in reversed(one)]
            continue
        if not dataclasses.is_dataclass(one) or isinstance(one, Span):
            continue
        yield one, call
        if isinstance(one, ast.Ref):  # the head of `input.a` is no reference of its own
            below = one.operands if isinstance(one.head, ast.Var) else (one.head, *one.operands)
            waiting += [(part, None) for part in reversed(below)]
        elif isinstance(one, ast.Call):
            waiting += [(part, one) for part in reversed(one.arguments)]
        else:
            names = [field.name for field in dataclasses.fields(one) if field.name not in _SKIPPED]
            waiting += [(getattr(one, name), None) for name in reversed(names)]


def declared(rule: ast.Rule) -> Iterator[tuple[str, Span]]:
    """Local variables that a rule declares otherwise than by naming a part of the input."""
    for node, _ in walk(rule):
        variables: tuple[Any, ...] = ()
        if isinstance(node, ast.Some):
            variables = node.variables
        elif isinstance(node, ast.SomeIn | ast.Every):
            variables = (node.key, node.value)
        elif isinstance(node, ast.Call) and node.name == "assign":
            variables = (node.arguments[0],)
        elif isinstance(node, ast.Head) and node.arguments:
            variables = node.arguments
        for one in variables:
            if isinstance(one, ast.Var):
                yield one.name, one.span


@dataclass(frozen=True, slots=True)
class Names:
    """Names in a module that stand for parts of Envoy's input, as paths below `input`."""

    of_envoy: Mapping[str, Path]

    @staticmethod
    def of_imports(module: ast.Module) -> Names:
        """What `import input.…` names; an import of `input` itself names nothing of Envoy's."""
        return Names(
            {
                entry.name: entry.path[1:]
                for entry in module.imports
                if entry.path[0] == "input" and len(entry.path) > 1
            }
        )

    def plus(self, others: Mapping[str, Path]) -> Names:
        """These and more."""
        return Names({**self.of_envoy, **others})

    def base(self, ref: ast.Ref) -> Path | None:
        """What the head of a reference stands for below `input`; None where it is something else."""
        if not isinstance(ref.head, ast.Var):
            return None
        if ref.head.name == "input":
            return ()
        return self.of_envoy.get(ref.head.name)

    def envoy_path(self, term: ast.Term) -> Path | None:
        """The path below `input` of a reference with constant operands."""
        ref = ast.Ref(term, (), term.span) if isinstance(term, ast.Var) else term
        if not isinstance(ref, ast.Ref) or (base := self.base(ref)) is None:
            return None
        steps = [one.value for one in ref.operands if isinstance(one, ast.String)]
        return (*base, *steps) if len(steps) == len(ref.operands) else None
