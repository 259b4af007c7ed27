"""The capabilities file of OPA that says what our policies may use.

`opa check --strict --schema … --capabilities …`, as editors run it, then refuses the built-ins that
Gatehouse refuses, with types as declared. Format: OPA's own `opa capabilities --current`.
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol

from policies.language.compiler.calls import BuiltinDeclaration, DeclaredShape

FEATURES: Final = ("keywords_in_refs", "rego_v1", "template_strings")
FUTURE_KEYWORDS: Final = ("not",)
_CONSTANT_HERE: Final = frozenset(("rego.metadata.chain", "rego.metadata.rule"))
"""Replaced by literals when a policy is compiled, so they need no function and are no refusal."""


class NamedOperator(BuiltinDeclaration, Protocol):
    """A declaration that knows its operator, "" where it has none."""

    @property
    def infix(self) -> str: ...


def capabilities(builtins: Mapping[str, NamedOperator]) -> dict[str, Any]:
    """The document, as plain JSON values; the built-ins are sorted by name."""
    allowed = [b for name, b in sorted(builtins.items()) if not b.refusal or name in _CONSTANT_HERE]
    return {
        "builtins": [_declaration(builtin) for builtin in allowed],
        "future_keywords": list(FUTURE_KEYWORDS),
        "features": list(FEATURES),
    }


def _declaration(builtin: NamedOperator) -> dict[str, Any]:
    signature = builtin.signature
    declared: dict[str, Any] = {"type": "function"}
    if signature.arguments:
        declared["args"] = [_type(shape) for shape in signature.arguments]
    if signature.variadic:
        declared["variadic"] = {"type": "any"}
    if signature.result is not None:
        declared["result"] = _type(signature.result)
    result: dict[str, Any] = {"name": builtin.name, "decl": declared}
    if builtin.infix:
        result["infix"] = builtin.infix
    for name, value in (
        ("relation", builtin.relation),
        ("deprecated", builtin.deprecated),
        ("nondeterministic", not builtin.deterministic),
    ):
        if value:
            result[name] = True
    return result


def _type(shape: DeclaredShape) -> dict[str, Any]:
    parts = [_type(part) for part in shape.of]
    if shape.kind == "array":
        return {"type": "array", "dynamic": parts[0] if parts else {"type": "any"}}
    if shape.kind == "tuple":
        return {"type": "array", "static": parts}
    if shape.kind == "set":
        return {"type": "set", "of": parts[0] if parts else {"type": "any"}}
    if shape.kind == "object":
        key, value = parts if len(parts) == 2 else ({"type": "any"}, {"type": "any"})
        return {"type": "object", "dynamic": {"key": key, "value": value}}
    if shape.kind == "union":
        return {"type": "any", "of": parts}
    return {"type": shape.kind}
