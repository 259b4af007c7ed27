"""Random policies for the tests of the evaluators: Rego text, inputs, and what ours say of them.

Policies are built from fragments that cover the language; inputs from the constants that occur in the
fragments, each attribute as often absent as present, whole roots included. An input is a JSON text, so that
every evaluator reads the same bytes, and the request that a formula is evaluated on. Shared by the comparison
of the symbolic evaluator with the concrete one and by that of both with a real OPA.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policies.formula import Attribute, Formula, Opaque, Request, Value, claim, evaluate, header, label
from policies.language.builtins.registry import BUILTINS
from policies.language.compiler.compile import compile_modules
from policies.language.compiler.compiled import CompiledModules
from policies.language.concrete.evaluate import UNDEFINED, ConflictError, Evaluator
from policies.language.serial import json_text, parse_json
from policies.language.symbolic import Memory, PartialInput, SymbolicEvaluator
from policies.language.syntax.parser import parse_module
from policies.language.values import FALSE, Object, from_python

DESTINATION = {"namespace": "shop", "service": "payments", "labels": {"tier": "app", "env": "prod"}}
DATA = {
    "roles": {"frontend": ["read"], "batch": ["read", "write"], "old": []},
    "owners": {"shop": "ada", "lab": "grace"},
    "networks": ["10.0.0.0/8", "192.168.1.0/24"],
    "edges": [{"from": "frontend", "to": "payments"}, {"from": "batch", "to": "ledger"}],
    "names": ["shop", "lab"],
    "label": "tier",
    "routes": [
        {
            "from": f"s{n}" if n % 9 else "frontend",
            "to": "payments" if n % 6 else "ledger",
            "also": ["payments", f"s{n}"] if n % 5 else [],
            "at": {"namespace": "shop" if n % 4 else "lab", "method": "GET" if n % 8 else "POST"},
        }
        for n in range(40)
    ],
}
PATH = Attribute("request.path")
METHOD = Attribute("request.method")
ACCOUNT = Attribute("source.service_account")
NAMESPACE = Attribute("source.namespace")
PORT = Attribute("destination.port")
IP = Attribute("source.ip")
HOST = Attribute("request.host")
MTLS = Attribute("connection.mtls")
TEAM = header("x-team")
TIER = label("tier")
ROLE = claim("role")
GROUPS = claim("groups")
KIND = claim("realm", "kind")

VALUES: dict[Attribute, tuple[Value, ...]] = {
    PATH: ("/a", "/a/", "/a/b", "/a/b/c", "/admin", "", "/A", "/a/x/c", "/a/c"),
    METHOD: ("GET", "POST", "get"),
    ACCOUNT: ("frontend", "batch", "old", "other", ""),
    NAMESPACE: ("shop", "lab", "shopx"),
    PORT: (80, 79, 81, 8080, 443),
    IP: ("10.1.2.3", "192.168.1.9", "172.16.0.1", "::ffff:10.0.0.1", "2001:db8::1"),
    HOST: ("shop.example", "example", "a.shop.example"),
    MTLS: (True, False),
    TEAM: ("x", "evil", "", "shop"),
    TIER: ("app", "web", "data"),
    ROLE: ("admin", "user", ("admin",), False, 5),
    KIND: ("x", "y"),
    GROUPS: (("admin", "ops"), (), ("dev",), "admin"),
}

# Anything at all in any place; only for inputs that no formula is asked about.
ODD_VALUES: dict[Attribute, tuple[Any, ...]] = {
    attribute: (
        *values,
        *values,
        *values,
        5,
        -1,
        80.5,
        1e20,
        None,
        False,
        True,
        "",
        (),
        ("a",),
        ((1, None),),
        {},
        {"b": "a"},
    )
    for attribute, values in VALUES.items()
}

# What the policies that ship ask about.
STARTER_VALUES: dict[Attribute, tuple[Value, ...]] = {
    Attribute("source.spiffe_id"): (
        "spiffe://gatehouse.test/ns/shop/sa/frontend",
        "spiffe://gatehouse.test/ns/shop/sa/payments",
        "spiffe://gatehouse.test/ns/shop/sa/payment",
        "spiffe://other.test/ns/shop/sa/payments",
    ),
    Attribute("source.trust_domain"): ("gatehouse.test", "other.test", "Gatehouse.test"),
    label("env"): ("prod", "dev", "PROD"),
    label("tier"): ("edge", "web", "app", "data", "none"),
    label("data-class"): ("pci", "internal", ""),
    METHOD: ("GET", "HEAD", "POST", "PUT", "get"),
    PATH: (
        "/v1/charges", "/v1/charges/refund", "/v1/charge", "/v1/charges/refunds/1", "/v1/charges/1", "",
        "/shop.payments.v1.Payments/Watch", "/shop.payments.v1.Payments/watch",
    ),
    PORT: (5432, 5431, 80, 8080, 9090),
    TEAM: ("x",),
    MTLS: (True, False),
}  # fmt: skip

# Each is one line of a body; the first group gives a variable that later lines may use.
TESTS = (
    'input.request.method == "GET"',
    'input.request.method != "GET"',
    '"POST" == input.request.method',
    'input.request.method in {"GET", "POST"}',
    'not input.request.method in {"GET"}',
    'startswith(input.request.path, "/a/")',
    'not startswith(input.request.path, "/a")',
    'endswith(input.request.path, "/c")',
    'contains(input.request.path, "b")',
    'glob.match("/a/*", ["/"], input.request.path)',
    'glob.match("/a/**/c", ["/"], input.request.path)',
    'not glob.match("/a/**/c", ["/"], input.request.path)',
    'regex.match("^/a(/b)?$", input.request.path)',
    'regex.match("b|c", input.request.path)',
    "input.request.path > 5",
    'input.request.path >= "/a"',
    'net.cidr_contains("10.0.0.0/8", input.source.ip)',
    'not net.cidr_contains("10.0.0.0/8", input.source.ip)',
    "some n in data.networks; net.cidr_contains(n, input.source.ip)",
    "input.destination.port == 80",
    "input.destination.port < 81",
    "input.destination.port >= 443",
    "not input.destination.port == 80",
    "80 != input.destination.port",
    "input.destination.port in [80, 443]",
    "input.connection.mtls",
    "not input.connection.mtls",
    "input.connection.mtls == false",
    'input.request.headers["x-team"]',
    'input.request.headers["x-team"] == "x"',
    'not input.request.headers["x-team"] == "evil"',
    'input.request.headers["x-team"] != "evil"',
    'x1 := input.request.headers["x-team"]; not x1 == "evil"',
    'not input.request.headers["x-team"]',
    "input.source.labels.tier == input.destination.labels.tier",
    'input.destination.labels.env == "prod"',
    'input.destination.labels.none == "x"',
    'not input.destination.labels.none == "x"',
    'some role in data.roles[input.source.service_account]; role == "write"',
    '"read" in data.roles[input.source.service_account]',
    'not "write" in data.roles[input.source.service_account]',
    'data.owners[input.source.namespace] == "ada"',
    "not data.owners[input.source.namespace]",
    "some e in data.edges; e.from == input.source.service_account; e.to == input.destination.service",
    'some k, v in data.owners; k == input.source.namespace; v != "ada"',
    "every n in data.names { input.source.namespace != n }",
    'every n in data.names { n != "none" }',
    "every n in data.names { not startswith(input.request.path, n) }",
    'every r in data.roles[input.source.service_account] { r == "read" }',
    'input.jwt.claims.role == "admin"',
    'not input.jwt.claims.role == "admin"',
    '"admin" in input.jwt.claims.groups',
    'not "admin" in input.jwt.claims.groups',
    "input.jwt.claims.role",
    'startswith(input.jwt.claims.role, "adm")',
    'not startswith(input.jwt.claims.role, "adm")',
    "helper",
    "not helper",
    "other",
    "not other",
    'level == "high"',
    'not level == "low"',
    'level != "low"',
    "graded(input.request.method) == 1",
    "graded(input.request.method) != 1",
    "not graded(input.request.path) == 1",
    "chain == 2",
    "not chain == 1",
    "names[input.source.namespace]",
    '"shop" in names',
    "count(names) == 0",
    "count(names) > 1",
    'not "lab" in names',
    "table.shop",
    'table[input.source.namespace] == "x"',
    'some n in names; n == input.request.headers["x-team"]',
    "is_string(input.request.path)",
    'object.get(input.request.headers, "x-team", "none") == "none"',
    'object.get(input.source, "namespace", "shop") == "shop"',
    'lower(input.request.host) == "shop.example"',
    "count([1 | some n in data.names; n == input.source.namespace]) == 1",
    "count({n | some n in data.names; input.source.namespace == n}) == 0",
    '{n | some n in data.names; n == input.source.namespace} == {"shop"}',
    '[input.source.namespace, input.request.method] == ["shop", "GET"]',
    'not [input.source.namespace, input.request.method] == ["shop", "GET"]',
    'helper with input.request.method as "GET"',
    'not helper with input.source.namespace as "lab"',
    'other with data.names as ["lab"]',
    'sprintf("%s", [input.source.namespace]) == "shop"',
    'upper(input.request.method) == "GET"',
    'not upper(input.request.method) == "GET"',
    'concat("/", [input.source.namespace, "x"]) == "shop/x"',
    'input.source.namespace == input.request.headers["x-team"]',
    'x2 := lower(input.request.path); x2 == "/a"',
    "x3 := input.source.namespace; x3 in data.names",
    'strings.any_prefix_match(input.request.path, ["/a/", "/ad"])',
    'input.source.nothing == "x"',
    '$"{input.source.namespace}/x" == "shop/x"',
    'split(input.request.path, "/")[1] == "a"',
    'x4 := [n | some n in data.names; n == input.source.namespace]; x4[0] == "shop"',
    # what `not` keeps inside and what it evaluates first
    'not "lab" == input.source.namespace',
    'not input.source.namespace.b == "a"',
    'not input.source.nothing != "x"',
    'not input.request.method != "GET"',
    "not input.destination.port > 100",
    'not "a" in input.source.namespace',
    'not same(input.source.namespace) == "shop"',
    "not same(input.connection.mtls)",
    'not lower(input.request.host) == "example"',
    "not names[input.source.namespace]",
    'not [input.source.namespace] == ["shop"]',
    'not namespace_of(input.source) == "shop"',
    'namespace_of(input.source) == "lab"',
    'not object.get(input.source, "namespace", "d") == "d"',
    'not contains($"{input.source.namespace}", "a")',
    'x5 := input.source.namespace; not x5 == "shop"',
    'x6 := input.source.namespace; not startswith(x6, "s")',
    'not level == "low"; not chain == 3',
    # whole parts of the input
    "input.request",
    "not input.request",
    "not input.source.labels",
    "not input.jwt",
    "input.jwt.claims",
    "not input.request.headers",
    'object.get(input.request, "method", "GET") == "GET"',
    'object.get(input, ["source", "namespace"], "shop") == "shop"',
    'not object.get(input.request, ["headers", "x-team"], "x") == "x"',
    'object.get(input.jwt.claims, "role", "user") == "user"',
    "is_object(input.request)",
    'x7 := input.request; x7.method == "GET"',
    'x8 := input.source; not x8.namespace == "shop"',
    'x9 := input.request; x9.method == "POST" with input.request.method as "POST"',
    "ignores(input.request) == 1",
    "ignores(input.source.namespace) == 1",
    # `else`, defaults, partial objects, nested heads
    "rate(input.request.method) == 5",
    "rate(input.request.method) != 5",
    'rate("GET") == 5; not rate(input.request.path) == 0',
    "step(input.destination.port) == 2",
    "not step(input.destination.port) == 3",
    "limits.shop == 2",
    "limits[input.source.namespace] > 1",
    "deep.shop.GET",
    "deep[input.source.namespace].POST",
    "not deep.lab.GET",
    "count(table) == 1",
    'some k, "x" in table; k == input.source.namespace',
    'some "shop", v in limits; v == 2',
    'every k, v in data.owners { k != input.source.namespace; v != "x" }',
    "every e in data.edges { not e.from == input.source.service_account }",
    'every n in names { n == "shop" }',
    "every n in [] { n == input.source.namespace }",
    # `with`
    'chain == 1 with input.request.method as "GET"',
    'not helper with input.request as {"method": "GET"} with input.source.namespace as "shop"',
    'helper with input as {"destination": {"port": 443}}',
    'names["extra"] with data.names as ["extra"] with input.source.namespace as "extra"',
    'data.owners[input.source.namespace] == "eve" with data.owners.shop as "eve"',
    'some k, v in data.owners with data.owners.new as "z"; k == input.source.namespace',
    'not input.request.path == "/a" with input.request.method as input.source.namespace',
    'other with input.source.namespace as input.request.headers["x-team"]',
    'helper with input.request as {"method": "POST"} with input.source.namespace as "shop"',
    'inner with input.request as {"path": "/a"}',
    'not inner with input.request as {"path": "/b", "method": "GET"}',
    'inner with input as {"source": {"namespace": "shop"}}',
    "inner with input.source as {}",
    'x12 := input.source; namespace_of(x12) == "shop" with input.source.namespace as "lab"',
    "is_object(input.jwt) with input.jwt.claims as {}",
    'object.get(input.request, "method", "none") == "GET" with input.request.path as "/"',
    'input.request == {"method": "GET"} with input.request as {"method": "GET"}',
    'writers["batch"] with data.roles.frontend as ["write"]',
    'not writers[input.source.service_account] with data.roles as {"frontend": ["write"]}',
    'data.owners == {"shop": "ada"} with data.owners as {"shop": "ada"}',
    'input.destination.labels.tier == "web" with input.destination.labels.tier as "web"',
    'input.destination.labels.env == "prod" with input.destination.labels.tier as "web"',
    'input.destination.namespace == input.source.namespace with input.destination.namespace as "lab"',
    'not input.destination.labels.tier with input.destination as {"labels": {}}',
    # data large enough for an index
    "some r1 in data.routes; r1.from == input.source.service_account; r1.to == input.destination.service",
    'some i2, r2 in data.routes; r2.to == "payments"; i2 > 30; r2.from == input.source.namespace',
    "not routed",
    "every r3 in data.routes { r3.from != input.source.service_account }",
    "some r4 in data.routes; into(r4); r4.from == input.source.service_account",
    "some r5 in data.routes; input.destination.service in r5.also; by(r5)",
    "some r6 in data.routes; r6.at.namespace == input.destination.namespace; r6.to == payee; by(r6)",
    'some i7, r7 in data.routes; r7.to in {input.destination.service, "x"}; i7 > 30; by(r7)',
    'some r8 in data.routes; into(r8); input.request.method == object.get(r8.at, "method", "POST"); by(r8)',
    "count([r | some r in data.routes; into(r); by(r)]) == 2",
    # comprehensions
    '{k: v | some k, v in data.owners; k == input.source.namespace} == {"shop": "ada"}',
    "not count({k: v | some k, v in data.owners; k == input.source.namespace}) == 0",
    "count([m | m := input.request.method]) == 1",
    '[m | m := input.request.method] == ["GET"]',
    '"GET" in {m | m := input.request.method}',
    "count({p | some p in [input.request.path, input.request.host]}) == 1",
    # numbers and order
    "input.destination.port == 80.0",
    "input.destination.port == 8e1",
    "input.destination.port != 4.43e2",
    "input.destination.port > 79.5",
    "input.destination.port <= 80.0",
    "input.destination.port in {8e1, 443.0}",
    "input.destination.port + 1 == 81",
    'input.destination.port > "80"',
    'input.destination.port < "80"',
    "input.source.namespace > null",
    'input.source.namespace < "shop"',
    'not input.source.namespace >= "lab"',
    'input.request.path < ["a"]',
    "input.connection.mtls > false",
    "input.connection.mtls < 1",
    "input.connection.mtls != true",
    "input.jwt.claims.role == 5",
    "input.jwt.claims.role != 5.0",
    'input.jwt.claims.groups == ["admin", "ops"]',
    "not input.jwt.claims.groups == []",
    'input.jwt.claims.role in {"admin", "user"}',
    'not input.jwt.claims.role in {"admin", 5}',
    "count(input.jwt.claims.groups) > 1",
    "not count(input.jwt.claims.groups) == 0",
    'input.jwt.claims.role > "b"',
    "is_string(input.jwt.claims.role)",
    'lower(input.jwt.claims.role) == "admin"',
    'input.jwt.claims.realm.kind == "x"',
    'not input.jwt.claims.realm.kind == "x"',
    # glob, regular expressions, networks
    'glob.match("/a/**", ["/"], input.request.path)',
    'glob.match("/a/**", null, input.request.path)',
    'glob.match("*.example", [], input.request.host)',
    'glob.match("*.example", ["."], input.request.host)',
    'glob.match("*a*", ["/", "."], input.request.path)',
    'glob.match("/{a,admin}", ["/"], input.request.path)',
    'glob.match("/a/?", ["/"], input.request.path)',
    'not glob.match("/[!a]*", ["/"], input.request.path)',
    'glob.match("a*d*", [], input.jwt.claims.role)',
    'regex.match("^/(a|admin)", input.request.path)',
    'regex.match("(?i)^/A$", input.request.path)',
    'not regex.match("^$", input.request.path)',
    'regex.match("^[a-z.]+$", input.request.host)',
    'not regex.match("^adm", input.jwt.claims.role)',
    'net.cidr_contains("0.0.0.0/0", input.source.ip)',
    'net.cidr_contains("::/0", input.source.ip)',
    'not net.cidr_contains("10.1.2.3/8", input.source.ip)',
    'net.cidr_contains("::ffff:10.0.0.0/104", input.source.ip)',
    'net.cidr_contains("2001:db8::/32", input.source.ip)',
    # texts
    '$"{input.request.method} {input.request.path}" == "GET /a"',
    'not $"{input.source.namespace}" == "shop"',
    '$"{input.source.namespace}" == "<undefined>"',
    'startswith(input.request.path, "")',
    'strings.any_suffix_match(input.request.path, {"/", "/c"})',
    'trim_prefix(input.request.path, "/a") == "/b"',
    'replace(input.request.path, "/", ".") == ".a.b"',
    "count(input.request.path) == 2",
    'substring(input.request.path, 0, 2) == "/a"',
    'indexof(input.request.path, "b") >= 0',
    'input.request.path == concat("", ["/", "a"])',
    'split(input.request.path, "/") == ["", "a", "b"]',
    'startswith(input.source.namespace, input.request.headers["x-team"])',
    'to_number(input.request.headers["x-team"]) == 1',
    "max([input.destination.port, 81]) == 81",
    'input.source.labels["tier"] in {"app", "web"}',
    'input.source.labels[data.label] == "app"',
    'input.request.headers["X-Team"] == "x"',
    'input.source == {"namespace": "shop"}',
    "x10 = input.source.namespace; x10 == data.names[_]",
    '[x11, "GET"] = [input.source.namespace, input.request.method]; x11 == "shop"',
    "data.names[i1] == input.source.namespace; i1 == 1",
    'data.roles[input.source.service_account][1] == "write"',
    "count(data.roles[input.source.service_account]) == 1",
    "not count(data.roles[input.source.service_account]) == 0",
    "input.request.method",
    "not false",
    "not input.request.method == input.source.namespace",
)

# Only under `import future.keywords.not`.
BLOCKS = (
    "not { some r9 in data.routes; r9.at.namespace == payee }",
    'not { input.request.method == "GET"; input.source.namespace == "shop" }',
    "not { some n in data.names; n == input.source.namespace }",
    'not { x20 := input.request.headers["x-team"]; x20 != "evil" }',
    'not { startswith(input.request.path, "/a"); not input.destination.port == 80 }',
)

# What only the request can tell, or what two rules disagree on: refused before any request is known.
REFUSED = (
    'some h in input.request.headers; h == "x"',
    'every g in input.jwt.claims.groups { g == "admin" }',
    "input.request.headers[input.source.namespace]",
    "mode == 1",
    "not mode == 2",
)
CONFLICT = """
mode := 1 if input.request.method == "GET"
mode := 2 if startswith(input.request.path, "/a")
"""

HELPERS = """
default level := "low"
level := "high" if startswith(input.request.path, "/admin")

helper if { input.request.method == "GET"; input.source.namespace == "shop" }
helper if input.destination.port == 443

other if { some n in data.names; input.source.namespace == n; not input.request.method == "POST" }

graded("GET") := 1
graded(m) := 2 if m == "POST"
graded(m) := 3 if { m != "GET"; m != "POST" }

chain := 1 if input.request.method == "GET"
else := 2 if input.source.namespace == "shop"
else := 3

names contains n if { some n in data.names; input.source.namespace == n }
names contains "shop" if input.request.method == "POST"

table[n] := "x" if { some n in data.names; input.request.method == "GET" }

inner if {
	input.request.path == "/a"
	helper with input.request.method as "GET" with input.source.namespace as "shop"
}
inner if { input.source.namespace == "shop"; not other with input.request.method as "POST" }

writers contains w if { some w, roles in data.roles; "write" in roles }

routed if { some r in data.routes; r.to == input.destination.service; r.from == input.source.service_account }

into(r) if r.to == input.destination.service
by(r) if r.from == input.source.service_account
by(r) if { r.at.method == "POST"; input.request.method == r.at.method }
payee := input.destination.service

same(x) := x
ignores(_) := 1
namespace_of(source) := source.namespace

default rate(_) := 0
rate(m) := 5 if m == "GET"

step(p) := 1 if p < 80
else := 2 if { p < 100; input.source.namespace }
else := 3

limits[n] := count(n) - 2 if { some n in data.names; input.source.namespace == n }
limits["any"] := 1

deep[n][m] := true if {
	some n in data.names
	some m in ["GET", "POST"]
	input.request.method == m
	n == input.source.namespace
}
"""

Path = tuple[str, ...]
ROOTS = frozenset(
    {
        ("source",),
        ("source", "labels"),
        ("request",),
        ("request", "headers"),
        ("jwt",),
        ("jwt", "claims"),
        ("connection",),
    }
)
"""The inner parts of the input that a whole input has."""


@dataclass(frozen=True, slots=True)
class Case:
    """One input: its JSON text, the same as a value, and as the request that formulas speak of."""

    text: str
    document: Object
    request: Request

    @staticmethod
    def of(request: Request, known: Mapping[str, object], randomness: random.Random, *, whole: bool) -> Case:
        """`known` is what every input has; `whole` puts every root there, empty where nothing is in it."""
        made: dict[str, object] = {}
        empty: dict[str, object] = {"source": {"labels": {}}, "request": {"headers": {}}}
        empty |= {"jwt": {"claims": {}}, "connection": {}}
        for part in (empty if whole else {}, known, request.document()):
            _lay_over(made, part)
        text = re.sub(
            r'("port": )(\d+)(?=[,}])',
            lambda found: found[1] + _spelled(int(found[2]), randomness),
            json.dumps(made),
        )
        document = parse_json(text)
        assert isinstance(document, Object)
        return Case(text, document, request)


def _lay_over(below: dict[str, object], above: Mapping[str, object]) -> None:
    for key, value in above.items():
        if isinstance(value, Mapping):
            inner = below[key] = dict(below.get(key, {}))  # type: ignore[call-overload]  # a mapping, or missing
            _lay_over(inner, value)
        else:
            below[key] = value


def _spelled(number: int, randomness: random.Random) -> str:
    """A number as JSON may write it."""
    return randomness.choice((f"{number}", f"{number}", f"{number}.0", f"{number / 100:.2f}e2"))


def policy(randomness: random.Random, package: str = "gatehouse.authz") -> str:
    strict = randomness.random() < 0.5
    odd = randomness.random() < 0.05
    fragments = TESTS + BLOCKS * 3 if strict else TESTS
    rules = []
    for name in ("allow", "allow", "deny"):
        lines = [randomness.choice(fragments) for _ in range(randomness.randint(1, 3))]
        if odd and name == "deny":
            lines.append(randomness.choice(REFUSED))
        body = "\n".join(f"\t{line}" for line in _without_repeats(lines))
        rules.append(f"{name} if {{\n{body}\n}}\n")
    keyword = "import future.keywords.not\n" if strict else ""
    return f"package {package}\n{keyword}{HELPERS}{CONFLICT if odd else ''}\n" + "\n".join(rules)


def _without_repeats(lines: list[str]) -> Iterator[str]:
    """Lines whose variables no line before declares, which would be an error."""
    declared: set[str] = set()
    for line in dict.fromkeys(lines):
        found = re.match(r"some ([\w, \"]+) in ", line)
        names = set(re.findall(r"(?<!\")\b[a-z]\w*\b(?!\")", found[1])) if found else set()
        if not names & declared:
            yield line
        declared |= names


def requests(
    randomness: random.Random, count: int, values: Mapping[Attribute, tuple[Value, ...]] = VALUES
) -> Iterator[Request]:
    """Requests with each attribute as often absent as present, now and then a whole root absent."""
    yield Request.of({})
    for _ in range(count - 1):
        missing = {name for name in ("source", "request", "jwt", "connection") if randomness.random() < 0.15}
        yield Request.of(
            {
                attribute: randomness.choice(choices)
                for attribute, choices in values.items()
                if attribute.name.partition(".")[0] not in missing and randomness.random() < 0.55
            }
        )


def cases(
    randomness: random.Random,
    count: int,
    *,
    whole: bool,
    known: Mapping[str, object] | None = None,
    values: Mapping[Attribute, tuple[Value, ...]] = VALUES,
) -> list[Case]:
    known = {"destination": DESTINATION} if known is None else known
    return [
        Case.of(request, known, randomness, whole=whole) for request in requests(randomness, count, values)
    ]


CONFLICTING = "conflict"
NOTHING = "undefined"


def concrete_answer(evaluator: Evaluator, path: Path, case: Case, data: Object) -> object:
    """What the concrete evaluator says, as JSON; NOTHING where undefined, CONFLICTING for two values."""
    try:
        found = evaluator.document(path, input_document=case.document, data=data)
    except ConflictError:
        return CONFLICTING
    return NOTHING if found is UNDEFINED else json.loads(json_text(found))  # type: ignore[arg-type]  # it is defined


def partial_input(known: Mapping[str, object], *, whole: bool) -> PartialInput:
    """The input as far as `known`, with its labels closed; `whole` as for a case."""
    value = from_python(known)
    assert isinstance(value, Object)
    return PartialInput(value, frozenset({("destination", "labels")}), ROOTS if whole else frozenset())


class Symbolic:
    """What the symbolic evaluator makes of one document. Raises Diagnostics where it refuses."""

    def __init__(self, compiled: CompiledModules, path: Path, data: Object, known: PartialInput) -> None:
        self.evaluator = SymbolicEvaluator(Memory.of(compiled, data), known)
        self.is_set = bool(rows := self.evaluator.set_members(path))
        self.rows = rows or self.evaluator.outcomes(path)

    def answer(self, case: Case) -> object:
        """True where a rule of a complete document holds; of a set, its members in order."""
        decided: dict[str, bool] = {}

        def decide(atom: Opaque) -> bool:
            if atom.digest not in decided:
                decided[atom.digest] = self.evaluator.decide(atom.digest, case.document, holds)
            return decided[atom.digest]

        def holds(guard: Formula) -> bool:
            return evaluate(guard, case.request, decide)

        if self.is_set:
            return sorted({str(value) for guard, value, _ in self.rows if holds(guard)})
        return any(value is not FALSE and holds(guard) for guard, value, _ in self.rows)


def as_data(value: Mapping[str, object]) -> Object:
    """Python's plain values as Rego's."""
    made = from_python(value)
    assert isinstance(made, Object)
    return made


def compiled(*texts: str) -> CompiledModules:
    """Modules compiled together."""
    return compile_modules(
        [parse_module(text, f"{index}.rego") for index, text in enumerate(texts)], BUILTINS
    )


def disagreements(text: str, randomness: random.Random, count: int, *, whole: bool) -> Iterator[str]:
    """Inputs on which the formula of a policy says another thing than its concrete evaluation."""
    modules = compiled(text)
    concrete = Evaluator(modules)
    data = as_data(DATA)
    known = partial_input({"destination": DESTINATION}, whole=whole)
    drawn = cases(randomness, count, whole=whole)
    for name in ("allow", "deny"):
        path = ("gatehouse", "authz", name)
        symbolic = Symbolic(modules, path, data, known)
        for case in drawn:
            expected = concrete_answer(concrete, path, case, data)
            formula = symbolic.answer(case)
            if formula != (expected not in (NOTHING, False)):
                said = f"concrete {expected}, formula {formula}"
                yield f"{name} for {case.text}: {said}\n{symbolic.rows}\n{text}"
