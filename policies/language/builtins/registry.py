"""Every built-in function of Rego by name: its signature, what it is, and the function where there is one.

`BUILTINS` is complete for OPA 1.19: a name missing here is no built-in of Rego. A built-in without a
function is *refused* when a policy that calls it is loaded, with the reason that stands here; it is never
silently undefined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from policies.language.builtins import FAMILIES
from policies.language.builtins.declarations import (
    DEPRECATED,
    NONDETERMINISTIC,
    OPERATORS,
    RELATIONS,
    SIGNATURES,
)
from policies.language.builtins.errors import OperandError
from policies.language.builtins.signature import Shape, Signature, parse_signature
from policies.language.values import Value, type_name

Function = Callable[..., Any]
"""Operands to a value; a relation yields values; a contextual function takes the `CallContext` first."""


@dataclass(frozen=True, slots=True)
class Builtin:
    """One built-in function."""

    name: str
    signature: Signature
    deterministic: bool
    deprecated: bool
    relation: bool
    infix: str
    """The operator that calls it, or ""."""
    function: Function | None
    """None when it is refused."""
    refusal: str
    """Why there is no function, or ""."""
    contextual: bool = False
    operand_classes: tuple[frozenset[type], ...] = field(default=(), repr=False, compare=False)

    @property
    def arguments(self) -> tuple[Shape, ...]:
        return self.signature.arguments

    @property
    def arity(self) -> int:
        return len(self.signature.arguments)

    @property
    def result(self) -> Shape | None:
        return self.signature.result

    @property
    def tolerant(self) -> bool:
        """Whether operands of another type are answered with false (`…is_valid`), not with an error."""
        return self.name.endswith("is_valid")

    def check_operands(self, operands: tuple[Value, ...]) -> None:
        """OperandError when an operand's type is none that the signature admits at the top."""
        for position, (operand, classes) in enumerate(zip(operands, self.operand_classes, strict=True)):
            if type(operand) not in classes:
                raise OperandError.expected(
                    position + 1, _wanted(self.arguments[position]), type_name(operand)
                )


def _wanted(shape: Shape) -> str:
    kinds = [
        "array" if part.kind == "tuple" else part.kind
        for part in (shape.of if shape.kind == "union" else (shape,))
    ]
    return kinds[0] if len(set(kinds)) == 1 else "one of {" + ", ".join(dict.fromkeys(kinds)) + "}"


REFUSALS: Mapping[str, str] = MappingProxyType(
    {
        "http.send": "a policy that is compiled can't ask other services; put what it needs into data",
        "net.lookup_ip_addr": "a policy that is compiled can't ask DNS; put the addresses into data",
        "opa.runtime": "the environment of the process is no input of a decision",
        "rand.intn": "a decision must not depend on chance",
        "uuid.rfc4122": "a decision must not depend on chance",
        "io.jwt.encode_sign": "signing tokens is not a policy's business; ask for a JWT-SVID",
        "io.jwt.encode_sign_raw": "signing tokens is not a policy's business; ask for a JWT-SVID",
        "providers.aws.sign_req": "signing requests to AWS is not a policy's business",
        "rego.parse_module": "policies that read policies are not supported",
        **{
            f"graphql.{name}": "GraphQL is not supported"
            for name in (
                "is_valid",
                "parse",
                "parse_and_verify",
                "parse_query",
                "parse_schema",
                "schema_is_valid",
            )
        },
    }
)


def _load() -> dict[str, Builtin]:
    functions: dict[str, Function] = {}
    contextual: set[str] = set()
    for family in FAMILIES:
        functions.update(family.FUNCTIONS)
        contextual.update(getattr(family, "CONTEXTUAL", ()))
    symbols = {name: symbol for symbol, name in OPERATORS.items()}
    loaded = {}
    for line in SIGNATURES.split("\n"):
        if not line:
            continue
        name, _, text = line.partition(": ")
        signature = parse_signature(text)  # a long line is continued with blanks, which are no matter
        function = functions.pop(name, None)
        loaded[name] = Builtin(
            name=name,
            signature=signature,
            deterministic=name not in NONDETERMINISTIC,
            deprecated=name in DEPRECATED,
            relation=name in RELATIONS,
            infix=symbols.get(name, "in" if name.startswith("internal.member_") else ""),
            function=function,
            refusal="" if function else REFUSALS.get(name, "not implemented"),
            contextual=name in contextual,
            operand_classes=tuple(shape.classes() for shape in signature.arguments),
        )
    if functions:
        raise ValueError(f"functions without a declaration: {sorted(functions)}")
    return loaded


BUILTINS: Mapping[str, Builtin] = MappingProxyType(_load())
