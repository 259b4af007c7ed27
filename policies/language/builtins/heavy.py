"""Families that stand on large libraries (cryptography, jsonschema), loaded when one of them is called.

Most policies call none of them, and importing these libraries takes longer than evaluating a small policy.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

_FAMILIES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "certificates": (
            "crypto.parse_private_keys",
            "crypto.x509.parse_and_verify_certificates",
            "crypto.x509.parse_certificate_request",
            "crypto.x509.parse_certificates",
            "crypto.x509.parse_keypair",
            "crypto.x509.parse_rsa_private_key",
        ),
        "schemas": ("json.match_schema", "json.verify_schema"),
        "tokens": (
            "io.jwt.decode",
            "io.jwt.decode_verify",
            "io.jwt.verify_eddsa",
            *(f"io.jwt.verify_{kind}{size}" for kind in ("rs", "ps", "es", "hs") for size in (256, 384, 512)),
        ),
    }
)


def _deferred(family: str, name: str) -> Callable[..., Any]:
    def call(*operands: Any) -> Any:
        module = importlib.import_module(f"policies.language.builtins.{family}")
        return module.FUNCTIONS[name](*operands)

    return call


FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: _deferred(family, name) for family, names in _FAMILIES.items() for name in names
}
CONTEXTUAL = frozenset({"crypto.x509.parse_and_verify_certificates", "io.jwt.decode_verify"})
