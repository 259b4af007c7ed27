"""Fuzz targets of the policy compiler: Rego, inventories, manifests, conformance cases, built-in parsers.

A built-in's input is its name on the first line and one operand a line, as JSON or else as text, so that
mutations reach patterns, networks, layouts, tokens and certificates.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from fuzz_rego_parser import fuzz_rego_parser

from control_plane.core.errors import GatehouseError
from policies.documents import read_documents, read_json
from policies.inventory_file import parse_inventory
from policies.language.builtins.errors import BuiltinError
from policies.language.builtins.registry import BUILTINS
from policies.language.concrete.world import Limits, Run
from policies.language.conformance import run_cases
from policies.language.diagnostics import Diagnostics
from policies.language.serial import parse_json
from policies.language.syntax.parser import parse_query
from policies.language.values import Value
from policies.proof.dimensions import Dimensions
from policies.proof.envoy_policy import RbacReader
from policies.proof.istio_policy import Chain, Reader
from policies.proof.manifests import Document, read_manifests
from policies.proof.space import Space
from policies.proof.webhook import refusals
from policies.proof.ztunnel_policy import ZtunnelReader

ROOT: Final = Path(__file__).resolve().parents[2]
GOLDEN: Final = ROOT / "tests" / "policies" / "targets" / "golden"

NOW_NS: Final = 1_795_000_000_000_000_000

fuzz_rego = fuzz_rego_parser


def fuzz_rego_query(data: bytes) -> bool:
    """A query, as `policy eval` takes one."""
    with contextlib.suppress(Diagnostics):
        parse_query(data.decode("utf-8", "replace"))
        return True
    return False


def fuzz_inventory(data: bytes) -> bool:
    """An inventory, YAML or JSON."""
    with contextlib.suppress(GatehouseError):
        parse_inventory(data.decode("utf-8", "replace"))
        return True
    return False


def fuzz_documents(data: bytes) -> bool:
    """YAML as it comes, of any number of documents, and JSON."""
    text = data.decode("utf-8", "replace")
    accepted = False
    with contextlib.suppress(GatehouseError):
        accepted = bool(list(read_documents(text, "input")))
    with contextlib.suppress(GatehouseError):
        read_json(text, "input")
    return accepted


def fuzz_manifest(data: bytes) -> bool:
    """A rendering, and what each model of a proxy says about its objects: accepted if one can be said."""
    accepted = False
    with contextlib.suppress(GatehouseError):
        read = read_manifests({"input.yaml": data.decode("utf-8", "replace")})
        for several in read.by_place.values():
            for one in several:
                for meaning in _models(one):
                    with contextlib.suppress(GatehouseError):
                        meaning()
                        accepted = True
    return accepted


def _models(one: Document) -> list[Callable[[], object]]:
    def http() -> object:
        return Reader(Space(), Dimensions.of(strict=True), Chain.HTTP).policy(one.namespace, one.spec)

    def ztunnel() -> object:
        return ZtunnelReader(Space(), Dimensions.of(strict=True)).policy(one.namespace, one.spec)

    def envoy() -> object:
        return RbacReader(Space(), Dimensions.of(strict=True)).filters(one.body.get("http", []))

    return [http, ztunnel, envoy, lambda: list(refusals(one.body))]


def fuzz_conformance(data: bytes) -> bool:
    """A line of a conformance file: a case that ends in some outcome, or no case."""
    with contextlib.suppress(ValueError):
        outcomes = run_cases([data.decode("utf-8", "replace")]).outcomes
        return any(one.kind == "right" or one.detail.startswith("wanted") for one in outcomes)
    return False


def _operand(line: str) -> Value:
    try:
        return parse_json(line)
    except ValueError:
        return line


def _call(data: bytes, names: tuple[str, ...]) -> bool:
    """One built-in with the operands that are given; too few are filled up with empty texts."""
    name, *lines = data.decode("utf-8", "replace").split("\n")
    builtin = BUILTINS[name if name in names else names[len(name) % len(names)]]
    assert builtin.function is not None
    operands = tuple(_operand(line) for line in [*lines, *[""] * builtin.arity][: builtin.arity])
    with contextlib.suppress(BuiltinError):
        builtin.check_operands(operands)
        run = (Run(Limits(), strict=True, now_ns=NOW_NS, observer=None),) if builtin.contextual else ()
        answer = builtin.function(*run, *operands)
        if builtin.relation:
            list(answer)
        return True
    return False


_EC: Final = ec.generate_private_key(ec.SECP256R1())
_RSA: Final = rsa.generate_private_key(65537, 2048)
_NAME: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")])
_START: Final = datetime(2026, 1, 1, tzinfo=UTC)
_REQUEST: Final = (
    x509.CertificateSigningRequestBuilder()
    .subject_name(_NAME)
    .add_extension(x509.SubjectAlternativeName([x509.DNSName("a.test")]), critical=False)
    .sign(_EC, hashes.SHA256())
    .public_bytes(Encoding.PEM)
    .decode()
)
_CERTIFICATE: Final = (
    x509.CertificateBuilder(_NAME, _NAME, _EC.public_key(), 7, _START, _START + timedelta(days=9999))
    .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    .sign(_EC, hashes.SHA256())
    .public_bytes(Encoding.PEM)
    .decode()
)
_KEY: Final = _EC.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
_RSA_KEY: Final = _RSA.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
_PUBLIC_KEY: Final = _EC.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
_RSA_JWK: Final = {"kty": "RSA", "n": "3Z" + "a" * 340, "e": "AQAB", "kid": "a", "use": "sig"}
_ED25519_JWK: Final = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}


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
        "io.jwt.decode": ["eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJhIn0.c2ln"],
        "io.jwt.decode_verify": [
            "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJhIn0.c2ln",
            {"secret": "s", "alg": "HS256", "iss": "a", "aud": "b", "time": 1795000000000000000},
        ],
        "io.jwt.verify_hs256": ["eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJhIn0.c2ln", "secret"],
        "io.jwt.verify_rs256": ["eyJhbGciOiJSUzI1NiJ9.e30.c2ln", json.dumps({"keys": [_RSA_JWK]})],
        "io.jwt.verify_es256": ["eyJhbGciOiJFUzI1NiJ9.e30.c2ln", _PUBLIC_KEY],
        "io.jwt.verify_ps256": ["eyJhbGciOiJQUzI1NiJ9.e30.c2ln", _CERTIFICATE],
        "io.jwt.verify_eddsa": ["eyJhbGciOiJFZERTQSJ9.e30.c2ln", json.dumps(_ED25519_JWK)],
    },
    "x509": {
        "crypto.x509.parse_certificates": [_CERTIFICATE],
        "crypto.x509.parse_and_verify_certificates": [_CERTIFICATE],
        "crypto.x509.parse_certificate_request": [_REQUEST],
        "crypto.x509.parse_keypair": [_CERTIFICATE, _KEY],
        "crypto.x509.parse_rsa_private_key": [_RSA_KEY],
        "crypto.parse_private_keys": [_KEY + _RSA_KEY],
    },
}
"""Families of built-ins, each with a sensible call of every member."""


def _family(calls: dict[str, list[object]]) -> Callable[[bytes], bool]:
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


def _rules() -> list[bytes]:
    """The rules that ship, each a module of its own: short, so that much is tried of each."""
    texts = [path.read_text() for path in sorted((ROOT / "rego").rglob("*.rego"))]
    parts = [part for text in texts for part in text.split("\n\n")[2:] if len(part) < 400]
    head = "package p\n\nimport data.gatehouse.lib.spiffe\n\n"
    return [f"{head if 'spiffe.' in part else 'package p'}\n{part}\n".encode() for part in parts]


SEEDS: Final[dict[str, Callable[[], list[bytes]]]] = {
    "rego": _rules,
    "rego_query": lambda: [
        rule.partition(b"if {\n")[2].rstrip(b"\n }") for rule in _rules() if b"if {" in rule
    ],
    "inventory": lambda: [(ROOT / "deploy/demo/inventory.yaml").read_bytes()],
    "documents": lambda: [b'a: [1, "x", {b: null}]\n---\n"c": |\n  text\n  more\n'],
    "manifest": lambda: [
        part.encode()
        for path in sorted(GOLDEN.glob("*.yaml"))
        for part in path.read_text().split("---\n")
        if "kind: Kustomization" not in part
    ],
    "conformance": _cases,
    **{f"builtins_{name}": (lambda calls=calls: _seeds(calls)) for name, calls in CALLS.items()},
}
globals().update({f"fuzz_builtins_{name}": _family(calls) for name, calls in CALLS.items()})
