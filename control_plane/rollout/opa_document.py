"""What an Open Policy Agent needs to decide as our agents do: modules, one `data` document, roots. Pure.

The modules are those of the version, byte for byte. `data.inventory` is what `policies.questions` makes of
the inventory. One module is ours: `data.gatehouse.sidecar.allow` joins the packages the way agents do (any
`deny` wins, every package that has an `allow` must allow, whoever is quarantined is denied), so that a
caller asks one question. The caller gives the whole input, `source` and `destination` as the schema has them;
nothing is filled in here.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from control_plane.core.errors import InvalidInput, shown
from control_plane.core.spiffe_id import SpiffeId
from control_plane.rollout.version import PolicySource
from policies.inventory_file import parse_inventory
from policies.language.numbers import Real
from policies.language.syntax.ast import Module, Var
from policies.project import Project
from policies.questions import AUTHZ, SEGMENTATION, inventory_document

SIDECAR: Final = ("gatehouse", "sidecar")
SIDECAR_FILE: Final = "gatehouse/sidecar.rego"
_LINE_SEPARATORS: Final = {0x2028: "\\u2028", 0x2029: "\\u2029"}


@dataclass(frozen=True, slots=True)
class OpaDocument:
    """`modules` by file name; `roots` are the places of `data` that all of it owns, none inside another."""

    roots: tuple[str, ...]
    packages: tuple[tuple[str, ...], ...]
    modules: Mapping[str, str] = field(repr=False)
    data: Mapping[str, object] = field(repr=False)

    @classmethod
    def of(cls, source: PolicySource, quarantined: Iterable[SpiffeId]) -> "OpaDocument":
        """Reads a version that was proved. Raises InvalidInput where it stands in the way of ours."""
        files = source.without_tests().files
        project = Project.of(files)
        packages = {module.package.path for module in project.modules}
        below = project.data.get(SIDECAR[0], {})
        if not isinstance(below, dict) or SIDECAR[1] in below or SIDECAR_FILE in files:
            raise _taken(".".join(SIDECAR))
        for path in (SIDECAR, ("inventory",)):
            if any(package[: len(path)] == path for package in packages):
                raise _taken(".".join(path))
        if "inventory" in project.data:
            raise _taken("inventory")
        state = {"quarantined": {str(one): True for one in quarantined}}
        data = {
            **project.data,
            SIDECAR[0]: {**below, SIDECAR[1]: state},
            "inventory": inventory_document(parse_inventory(source.inventory)),
        }
        modules = {name: text for name, text in files.items() if name.endswith(".rego")}
        modules[SIDECAR_FILE] = sidecar_module(project.modules)
        roots = {path[0] for path in packages} | set(data)
        return cls(
            tuple(sorted(roots)), tuple(sorted({*packages, SIDECAR})), dict(sorted(modules.items())), data
        )


def sidecar_module(modules: Sequence[Module]) -> str:
    """The module that joins `authz` and `segmentation`, as far as the version has them."""
    asked = [f"data.{'.'.join(path)}" for path in (AUTHZ, SEGMENTATION) if _has_allow(modules, path)]
    lines = [
        "# Made by Gatehouse: the one question that a sidecar asks.",
        f"package {'.'.join(SIDECAR)}",
        "",
        "import future.keywords.not",
        "",
        "default allow := false",
    ]
    if asked:
        lines += ["", "allow if {", *(f"\t{package}.allow == true" for package in asked)]
        lines += ["\tnot denied", "\tnot cut_off", "}"]
    for package in asked:
        # `deny` is true or a set of reasons; `!=` takes both, where `==` would be a type error.
        lines += [
            "",
            "denied if {",
            f"\tfound := {package}.deny",
            "\tfound != false",
            "\tfound != set()",
            "}",
        ]
    for end in ("source", "destination"):
        lines += ["", f"cut_off if data.{'.'.join(SIDECAR)}.quarantined[input.{end}.spiffe_id]"]
    return "\n".join(lines) + "\n"


def _fraction(value: object) -> float:
    """A number with a fraction as JSON's writer takes it. Raises InvalidInput where that would change it."""
    number = float(value) if isinstance(value, Real) else None
    if number is None or Decimal(repr(number)) != value:
        raise InvalidInput(f"serving the policy to OPA: {shown(value)} in its data can't be kept in JSON")
    return number


def canonical_json(value: object) -> bytes:
    """JSON as OPA hashes it: compact, keys sorted, no escapes but the needed ones and U+2028/2029, so that
    the signature is over the file's own bytes."""
    text = json.dumps(
        value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_fraction
    )
    return text.translate(_LINE_SEPARATORS).encode()


def _has_allow(modules: Sequence[Module], path: tuple[str, ...]) -> bool:
    return any(
        module.package.path == path and rule.head.reference.head == Var("allow")
        for module in modules
        for rule in module.rules
    )


def _taken(place: str) -> InvalidInput:
    return InvalidInput(
        f"serving a policy to OPA: it uses data.{place}, where what Gatehouse adds has to stand",
        hint="give that package or data another name",
    )
