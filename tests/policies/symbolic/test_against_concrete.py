"""The symbolic evaluator against the concrete one: the same policy, the same request, the same answer.

Policies are built at random from fragments that cover the language, requests from the constants that occur in
them, each attribute as often absent as present.
"""

import itertools
import random
from collections.abc import Iterator

import pytest

from policies.formula import Attribute, Formula, Request, Value, claim, evaluate, header, label
from policies.language.builtins.registry import BUILTINS
from policies.language.compile import compile_modules
from policies.language.evaluate import UNDEFINED, Evaluator
from policies.language.parser import parse_module
from policies.language.symbolic import PartialInput, SymbolicEvaluator
from policies.language.values import FALSE, Object, from_python

DESTINATION = {"namespace": "shop", "service": "payments", "labels": {"tier": "app", "env": "prod"}}
DATA = {
    "roles": {"frontend": ["read"], "batch": ["read", "write"], "old": []},
    "owners": {"shop": "ada", "lab": "grace"},
    "networks": ["10.0.0.0/8", "192.168.1.0/24"],
    "edges": [{"from": "frontend", "to": "payments"}, {"from": "batch", "to": "ledger"}],
    "names": ["shop", "lab"],
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
    ROLE: ("admin", "user", ("admin",), False),
    GROUPS: (("admin", "ops"), (), ("dev",), "admin"),
}

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
)

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
"""


def policy(randomness: random.Random) -> str:
    rules = []
    for name in ("allow", "allow", "deny"):
        lines = [randomness.choice(TESTS) for _ in range(randomness.randint(1, 3))]
        body = "\n".join(f"\t{line}" for line in dict.fromkeys(lines))
        rules.append(f"{name} if {{\n{body}\n}}\n")
    keyword = "import future.keywords.not\n" if randomness.random() < 0.5 else ""
    return f"package gatehouse.authz\n{keyword}{HELPERS}\n" + "\n".join(rules)


def requests(randomness: random.Random, count: int) -> Iterator[Request]:
    for _ in range(count):
        yield Request.of(
            {
                attribute: randomness.choice(values)
                for attribute, values in VALUES.items()
                if randomness.random() < 0.5
            }
        )
    yield Request.of({})


def document(request: Request) -> Object:
    """The whole input: what the request says and what is known of the destination; no root is missing."""
    whole: dict[str, object] = {
        "source": {"labels": {}},
        "request": {"headers": {}},
        "jwt": {"claims": {}},
        "connection": {},
    }
    for root, inner in request.document().items():
        part = whole.setdefault(root, {})
        assert isinstance(part, dict) and isinstance(inner, dict)
        whole[root] = part | inner
    whole["destination"] = {**DESTINATION, **whole.get("destination", {})}  # type: ignore[dict-item]
    made = from_python(whole)
    assert isinstance(made, Object)
    return made


def disagreements(text: str, randomness: random.Random, count: int) -> Iterator[str]:
    module = parse_module(text, "policy.rego")
    compiled = compile_modules([module], BUILTINS)
    concrete = Evaluator(compiled)
    data = from_python(DATA)
    assert isinstance(data, Object)
    known = from_python({"destination": DESTINATION})
    assert isinstance(known, Object)
    partial = PartialInput(known, frozenset({("destination", "labels")}))
    symbolic = SymbolicEvaluator(compiled, data, partial)
    for name in ("allow", "deny"):
        path = ("gatehouse", "authz", name)
        outcomes = symbolic.outcomes(path)
        for request in requests(randomness, count):
            given = document(request)
            expected = concrete.document(path, input_document=given, data=data)
            expected_truth = expected is not UNDEFINED and expected is not FALSE

            def holds(guard: Formula, request: Request = request, given: Object = given) -> bool:
                return evaluate(guard, request, lambda atom: symbolic.decide(atom.digest, given, holds))

            formula_truth = any(holds(guard) for guard, value, _ in outcomes if value is not FALSE)
            if formula_truth != expected_truth:
                said = f"concrete {expected_truth}, formula {formula_truth}"
                yield f"{name} for {request}: {said}\n{outcomes}\n{text}"


@pytest.mark.parametrize("test", TESTS)
def test_each_construct_alone(test: str) -> None:
    randomness = random.Random(test)
    for keyword in ("", "import future.keywords.not\n"):
        rules = f"allow if {{ {test} }}\ndeny if {{ not neither }}\nneither if {{ {test} }}\n"
        text = f"package gatehouse.authz\n{keyword}{HELPERS}\n{rules}"
        assert next(disagreements(text, randomness, 150), None) is None


@pytest.mark.parametrize("seed", range(60))
def test_constructs_together(seed: int) -> None:
    randomness = random.Random(seed)
    assert next(disagreements(policy(randomness), randomness, 80), None) is None


def test_requests_cover_absence_and_presence() -> None:
    drawn = list(itertools.islice(requests(random.Random(1), 200), 200))
    for attribute in VALUES:
        present = sum(request.get(attribute) is not None for request in drawn)
        assert 60 < present < 140
