"""rego.metadata.rule() and rego.metadata.chain() as literals: both are known when a rule is compiled.

Not here: how annotations are read (annotations).
"""

from collections.abc import Callable, Mapping, Sequence

from policies.language.syntax import ast
from policies.language.syntax.annotations import to_json
from policies.language.syntax.ast import Boolean, Module, Rule, String, Term


def metadata(
    modules: Sequence[Module], module: Module, rule: Rule, path_of: Callable[[Module, Rule], tuple[str, ...]]
) -> Mapping[str, Term]:
    """rego.metadata.rule() and .chain() of a rule as literals."""
    package = module.package.path
    path = list(path_of(module, rule))
    same = [r for m in modules if m.package.path == package for r in m.rules if path_of(m, r) == tuple(path)]
    own = [a for a in rule.annotations if a.scope == "rule"]
    chain: list[object] = [{"annotations": to_json(own[0]), "path": path} if own else {"path": path}]
    chain += [
        {"annotations": to_json(a), "path": path}
        for r in same
        for a in r.annotations
        if a.scope == "document"
    ]
    of_package = [
        a for m in modules if m.package.path == package for a in m.annotations if a.scope == "package"
    ]
    if of_package:
        chain.append({"annotations": to_json(of_package[0]), "path": list(package)})
    for length in range(len(package), -1, -1):
        for other in modules:
            if other.package.path == package[:length]:
                chain += [
                    {"annotations": to_json(a), "path": list(package[:length])}
                    for a in other.annotations
                    if a.scope == "subpackages"
                ]
    return {
        "rego.metadata.chain": literal(chain),
        "rego.metadata.rule": literal(to_json(own[0]) if own else {}),
    }


def literal(value: object) -> Term:
    """A plain JSON value as a term."""
    if value is None:
        return ast.Null()
    if isinstance(value, bool):
        return Boolean(value)
    if isinstance(value, int | float):
        return ast.Number(repr(value))
    if isinstance(value, str):
        return String(value)
    if isinstance(value, list | tuple):
        return ast.Array(tuple(map(literal, value)))
    assert isinstance(value, dict)
    return ast.Object(tuple((literal(key), literal(item)) for key, item in value.items()))
