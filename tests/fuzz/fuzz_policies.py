"""Fuzz targets of the policy compiler: Rego, inventories, manifests, conformance cases, built-in parsers.

A built-in's input is its name on the first line and one operand a line, as JSON or else as text, so that
mutations reach patterns, networks, layouts, tokens and certificates.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fuzz_rego_parser import fuzz_rego_parser

from control_plane.core.errors import GatehouseError
from policies.documents import read_documents
from policies.inventory_file import parse_inventory
from policies.language.builtins.errors import BuiltinError
from policies.language.builtins.registry import BUILTINS
from policies.language.conformance import run_cases
from policies.language.serial import parse_json
from policies.language.values import Value
from policies.proof.dimensions import Dimensions
from policies.proof.envoy_policy import RbacReader
from policies.proof.istio_policy import Chain, Reader
from policies.proof.manifests import read_manifests
from policies.proof.space import Space
from policies.proof.webhook import refusals
from policies.proof.ztunnel_policy import ZtunnelReader

ROOT: Final = Path(__file__).resolve().parents[2]
GOLDEN: Final = ROOT / "tests" / "policies" / "targets" / "golden"

fuzz_rego = fuzz_rego_parser


def fuzz_inventory(data: bytes) -> None:
    """An inventory, YAML or JSON."""
    with contextlib.suppress(GatehouseError):
        parse_inventory(data.decode("utf-8", "replace"))


def fuzz_documents(data: bytes) -> None:
    """YAML as it comes, of any number of documents."""
    with contextlib.suppress(GatehouseError):
        list(read_documents(data.decode("utf-8", "replace"), "input"))


def fuzz_manifest(data: bytes) -> None:
    """A rendering, and what each model of a proxy says about its objects."""
    with contextlib.suppress(GatehouseError):
        read = read_manifests({"input.yaml": data.decode("utf-8", "replace")})
        for several in read.by_place.values():
            for one in several:
                space, dimensions = Space(), Dimensions.of(strict=True)
                readers: list[Callable[[], object]] = [
                    lambda space=space, dimensions=dimensions, one=one: Reader(
                        space, dimensions, Chain.HTTP
                    ).policy(one.namespace, one.spec),
                    lambda space=space, dimensions=dimensions, one=one: ZtunnelReader(
                        space, dimensions
                    ).policy(one.namespace, one.spec),
                    lambda one=one: list(refusals(one.body)),
                    lambda space=space, dimensions=dimensions, one=one: RbacReader(space, dimensions).filters(
                        one.body.get("http", [])
                    ),
                ]
                for read_one in readers:
                    with contextlib.suppress(GatehouseError):
                        read_one()


def fuzz_conformance(data: bytes) -> None:
    """A line of a conformance file: a case that ends in some outcome, or no case."""
    with contextlib.suppress(ValueError):
        run_cases([data.decode("utf-8", "replace")])


def _operand(line: str) -> Value:
    try:
        return parse_json(line)
    except ValueError:
        return line


def _call(data: bytes, names: tuple[str, ...]) -> None:
    """One built-in with the operands that are given; too few are filled up with empty texts."""
    name, *lines = data.decode("utf-8", "replace").split("\n")
    builtin = BUILTINS[name if name in names else names[len(name) % len(names)]]
    assert builtin.function is not None
    operands = tuple(_operand(line) for line in [*lines, *[""] * builtin.arity][: builtin.arity])
    with contextlib.suppress(BuiltinError):
        builtin.check_operands(operands)
        answer = builtin.function(*operands)
        if builtin.relation:
            list(answer)


CALLS: Final[dict[str, dict[str, list[object]]]] = {
    "regex": {
        "regex.match": ["^/a[b-d]+(x|y)?$", "/abcx"],
        "regex.is_valid": ["(?i)a{2,3}"],
        "regex.replace": ["aXbX", "X(.)", "$1"],
        "regex.split": ["[,;]", "a,b;c"],
        "regex.find_n": ["a.", "abac", -1],
        "regex.find_all_string_submatch_n": ["(a)(.)", "abac", 2],
        "regex.globs_match": ["a.*b", "[a-b]+"],
        "regex.template_match": ["urn:{.*}:x", "urn:a:x", "{", "}"],
    },
    "glob": {
        "glob.match": ["/{a,b?}/*[!x-z]**", ["/"], "/a/b/c"],
        "glob.quote_meta": ["*.{a}"],
        "strings.replace_n": [{"a": "b"}, "aa"],
        "sprintf": ["%05.2f %v %s %x %q", [1.5, {"a": 1}, "x", 255, "q"]],
        "strings.render_template": ["{{.a}} {{range .b}}{{.}}{{end}}", {"a": 1, "b": [1]}],
    },
    "network": {
        "net.cidr_contains": ["10.0.0.0/8", "10.1.2.3"],
        "net.cidr_intersects": ["fd00::/8", "fd00:1::/32"],
        "net.cidr_expand": ["10.0.0.0/30"],
        "net.cidr_merge": [["10.0.0.0/9", "10.128.0.0/9", "::1/128"]],
        "net.cidr_contains_matches": [["10.0.0.0/8"], ["10.1.0.0/16"]],
        "net.cidr_is_valid": ["10.0.0.0/8"],
    },
    "semver": {
        "semver.compare": ["1.2.3-alpha.1+build", "1.2.3"],
        "semver.is_valid": ["1.0.0"],
        "uuid.parse": ["00112233-4455-6677-8899-aabbccddeeff"],
        "units.parse": ["10.5Mi"],
        "units.parse_bytes": ["10GiB"],
        "bits.lsh": [1, 70],
        "bits.rsh": [1024, 3],
    },
    "time": {
        "time.parse_ns": ["2006-01-02T15:04:05.999999999Z07:00", "2026-11-21T10:11:12.123+01:00"],
        "time.parse_rfc3339_ns": ["2026-11-21T10:11:12Z"],
        "time.parse_duration_ns": ["1h15m30.918273645s"],
        "time.format": [[1795000000000000000, "Europe/Berlin", "Mon Jan _2 15:04:05 MST 2006"]],
        "time.date": [[1795000000000000000, "America/New_York"]],
        "time.add_date": [1795000000000000000, 1, -2, 3],
        "time.diff": [1795000000000000000, [1, "UTC"]],
        "time.weekday": [1795000000000000000],
    },
    "documents": {
        "json.unmarshal": ['{"a": [1, 2.5e3, null, "\\u00e9"]}'],
        "json.is_valid": ["[1"],
        "yaml.unmarshal": ["a: [1, x]\nb: {c: 012}\n"],
        "yaml.is_valid": ["a: b"],
        "json.match_schema": [{"a": 1}, {"type": "object", "properties": {"a": {"type": "integer"}}}],
        "json.verify_schema": [{"type": "object"}],
        "json.patch": [{"a": [1]}, [{"op": "add", "path": "/a/-", "value": 2}]],
        "json.filter": [{"a": {"b": 1}}, ["a/b"]],
        "base64.decode": ["aGk="],
        "base64url.decode": ["aGk"],
        "hex.decode": ["6869"],
        "urlquery.decode_object": ["a=1&b=%20&a=2"],
    },
    "token": {
        "io.jwt.decode": [
            "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJhIn0.c2ln",
        ],
        "io.jwt.verify_hs256": ["eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJhIn0.c2ln", "secret"],
        "io.jwt.verify_rs256": ["eyJhbGciOiJSUzI1NiJ9.e30.c2ln", '{"keys": [{"kty": "RSA", "n": "AQ"}]}'],
        "io.jwt.verify_es256": ["eyJhbGciOiJFUzI1NiJ9.e30.c2ln", "-----BEGIN CERTIFICATE-----"],
        "io.jwt.verify_eddsa": ["eyJhbGciOiJFZERTQSJ9.e30.c2ln", '{"kty": "OKP"}'],
    },
    "x509": {
        "crypto.x509.parse_certificates": ["-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"],
        "crypto.x509.parse_certificate_request": ["MIIB"],
        "crypto.x509.parse_keypair": ["MIIB", "MIIB"],
        "crypto.x509.parse_rsa_private_key": ["MIIB"],
    },
}
"""Families of built-ins, each with a sensible call of every member."""


def _family(calls: dict[str, list[object]]) -> Callable[[bytes], None]:
    names = tuple(calls)
    return lambda data: _call(data, names)


def _seeds(calls: dict[str, list[object]]) -> list[bytes]:
    return [
        "\n".join([name, *(json.dumps(one) for one in operands)]).encode() for name, operands in calls.items()
    ]


def _cases() -> list[bytes]:
    module = "package p\nr contains x if { some x in input.a; x > data.b }"
    first = {
        "id": "one",
        "data": {"b": 1},
        "input": {"a": [1, 2]},
        "modules": [module],
        "query": "data.p.r = x",
        "want_result": [{"x": [2]}],
    }
    second = {
        "id": "two",
        "query": "1 / 0",
        "input_term": "{1, 2}",
        "strict_error": True,
        "want_error_code": "eval_builtin_error",
    }
    return [json.dumps(first).encode(), json.dumps(second).encode()]  # fmt: skip


SEEDS: Final[dict[str, Callable[[], list[bytes]]]] = {
    "rego": lambda: [path.read_bytes()[:1200] for path in sorted((ROOT / "rego").rglob("*.rego"))[:6]],
    "inventory": lambda: [(ROOT / "deploy/demo/inventory.yaml").read_bytes()],
    "documents": lambda: [b'a: [1, "x", {b: null}]\n---\n"c": |\n  text\n  more\n'],
    "manifest": lambda: [
        part.encode() for path in sorted(GOLDEN.glob("*.yaml")) for part in path.read_text().split("---\n")
    ],
    "conformance": _cases,
    **{f"builtins_{name}": (lambda calls=calls: _seeds(calls)) for name, calls in CALLS.items()},
}
globals().update({f"fuzz_builtins_{name}": _family(calls) for name, calls in CALLS.items()})
