"""Looking through compiled rules without evaluating them: what they call, replace and refer to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from policies.language.builtins.registry import BUILTINS
from policies.language.compiler.compiled import CompiledRule
from policies.language.concrete.world import Path
from policies.language.syntax import ast


def dotted(path: Path) -> str:
    return ast.dotted(ast.Ref(ast.Var("data"), tuple(map(ast.String, path))))


def deterministic(name: str) -> bool:
    builtin = BUILTINS.get(name)
    return builtin is None or builtin.deterministic


def branches(rules: Sequence[CompiledRule]) -> Iterator[CompiledRule]:
    for rule in rules:
        branch: CompiledRule | None = rule
        while branch is not None:
            yield branch
            branch = branch.otherwise


def parts(rule: CompiledRule) -> list[ast.Term | ast.Expr]:
    parts: list[ast.Term | ast.Expr] = [*rule.body, *rule.keys, *rule.arguments]
    return parts + [term for term in (rule.value, rule.member) if term is not None]


def nodes(part: ast.Term | ast.Expr, *, every: bool = False) -> Iterator[Any]:
    """Every call and every `with` in a part of a rule; with `every`, all other nodes too."""
    waiting: list[object] = [part]
    while waiting:
        node = waiting.pop()
        if every or isinstance(node, ast.Call | ast.With):
            yield node
        match node:
            case ast.Expr(node=inner, modifiers=modifiers):
                waiting += [inner, *modifiers]
            case ast.With(value=value):
                waiting.append(value)
            case ast.Call(arguments=arguments):
                waiting += arguments
            case ast.Ref(head=head, operands=operands):
                waiting += [head, *operands]
            case ast.Array(items=items) | ast.Set(items=items):
                waiting += items
            case ast.Object(entries=entries):
                waiting += [side for entry in entries for side in entry]
            case ast.ArrayComprehension(term=term, body=body) | ast.SetComprehension(term=term, body=body):
                waiting += [term, *body]
            case ast.ObjectComprehension(key=key, value=value, body=body):
                waiting += [key, value, *body]
            case ast.Not(body=body):
                waiting += body
            case ast.Every(domain=domain, body=body):
                waiting += [domain, *body]
