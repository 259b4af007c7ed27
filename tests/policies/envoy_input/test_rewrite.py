"""Policies for OPA's Envoy plugin, rewritten: the same decisions wherever the report names no difference.

Inputs are what the plugin makes of Envoy's requests; each is translated to our input by what the schema says,
independently of the rewrite. The original is judged by our evaluator, and by a real OPA where there is one.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from control_plane.core.errors import InvalidInput
from policies.envoy_input import Difference, Kind, Rewrite, rewrite_modules
from policies.language.builtins.registry import BUILTINS
from policies.language.checks.check import check_modules, parse_modules
from policies.language.concrete.evaluate import Evaluator
from policies.language.diagnostics import Diagnostics
from policies.language.serial import json_text, parse_json
from policies.language.types import ANY
from policies.language.values import TRUE, from_python

HEAD = "package envoy.authz\n\ndefault allow := false\n\n"

FRONTEND = "spiffe://example.org/ns/shop/sa/frontend"
POLICIES = {
    "method": 'allow if input.attributes.request.http.method in {"GET", "HEAD"}',
    "path": 'allow if input.attributes.request.http.path == "/people"',
    "prefix": 'allow if startswith(input.attributes.request.http.path, "/people")',
    "prefix with a query": 'allow if startswith(input.attributes.request.http.path, "/people?")',
    "glob": 'allow if glob.match("/people/*", ["/"], input.attributes.request.http.path)',
    "host": 'allow if input.attributes.request.http.host == "shop.example"',
    "header": 'allow if input.attributes.request.http.headers["x-team"] == "red"',
    "no header": 'allow if not input.attributes.request.http.headers["x-team"]',
    "pseudo header": 'allow if input.attributes.request.http.headers[":path"] == "/people"',
    "header by default": """h := input.attributes.request.http.headers
allow if object.get(h, "x-team", "none") == "none" """,
    "any header": 'allow if "/people" in input.attributes.request.http.headers',
    "principal": f'allow if input.attributes.source.principal == "{FRONTEND}"',
    "no principal": f'allow if not input.attributes.source.principal == "{FRONTEND}"',
    "address": """addr := input.attributes.source.address.socketAddress.address
allow if net.cidr_contains("10.0.0.0/8", addr)""",
    "port": "allow if input.attributes.destination.address.socketAddress.portValue == 8080",
    "sni": 'allow if input.attributes.tlsSession.sni == "shop.example"',
    "segment": 'allow if input.parsed_path[0] == "people"',
    "second segment": 'allow if input.parsed_path[1] in ["me", "you"]',
    "third segment": 'allow if input.parsed_path[2] == "me"',
    "other segment": 'allow if input.parsed_path[0] != "people"',
    "no segment": 'allow if not input.parsed_path[1] == "me"',
    "whole": 'allow if input.parsed_path == ["people", "me"]',
    "ending in a slash": 'allow if ["people", ""] == input.parsed_path',
    "root": 'allow if input.parsed_path == [""]',
    "pattern": 'allow if input.parsed_path = ["people", _]',
    "variable": """allow if {
	["people", name] = input.parsed_path
	name == input.attributes.request.http.headers["x-team"]
}""",
    "count": "allow if count(input.parsed_path) == 2",
    "claim": """allow if {
	token := input.attributes.metadataContext.filterMetadata["envoy.filters.http.jwt_authn"]
	token.payload.role == "admin"
}""",
    "nested": """allow if {
	req := input.attributes.request.http
	some allowed in [{"method": "GET", "path": "/people"}, {"method": "POST", "path": "/people/me"}]
	req.method == allowed.method
	startswith(req.path, allowed.path)
	every team in ["blue", "green"] { req.headers["x-team"] != team }
}""",
    "else": """allow if input.attributes.request.http.method == "GET"
else := false if input.parsed_path[0] == "people"
else if input.attributes.source.principal""",
    "functions": """allow if reads(input.attributes.request.http.method)
reads(method) if method == "GET"
reads(_) if input.attributes.request.http.headers["x-team"] == "red" """,
}  # fmt: skip
IMPORTS = {
    "import": """import input.attributes.request.http
import input.parsed_path

default allow := false

allow if {
	http.method == "GET"
	parsed_path[0] == "people"
}
""",
    "alias": """import input.attributes as a
import input.attributes.request.http as request

allow if {
	a.source.principal
	request.headers["x-team"] == "red"
}
""",
    "full name": """default allow := false

allow if data.envoy.authz.reads

reads if input.attributes.request.http.method == "GET"
""",
}
TEXTS = {name: HEAD + text for name, text in POLICIES.items()}
TEXTS |= {name: f"package envoy.authz\n\n{text}" for name, text in IMPORTS.items()}


def envoy_input(randomness: random.Random) -> dict[str, Any]:
    """One request as the plugin shows it, with anything optional as often absent as present."""
    known = ["people", "me", "you", "red", "a%2Fb", "%70eople"]
    segments = [randomness.choice(known) for _ in range(randomness.randint(0, 3))]
    raw = "/" + "/".join(segments) + randomness.choice(["", "", "/"] if segments else [""])
    path = raw + randomness.choice(["", "", "?x=1", "?", "?a=/people"])
    method = randomness.choice(["GET", "POST", "HEAD"])
    host = randomness.choice(["shop.example", "Shop.example", "shop.example:8080", "other.example"])
    headers = {":method": method, ":path": path, ":authority": host}
    if randomness.random() < 0.5:
        headers["x-team"] = randomness.choice(["red", "blue", "me", "/people"])
    source: dict[str, Any] = {
        "address": {"socketAddress": {"address": randomness.choice(["10.1.2.3", "192.0.2.1"])}}
    }
    if randomness.random() < 0.6:
        source["principal"] = randomness.choice([FRONTEND, "spiffe://example.org/ns/lab/sa/x"])
    port = randomness.choice([8080, 9090])
    attributes: dict[str, Any] = {
        "source": source,
        "destination": {"address": {"socketAddress": {"address": "10.9.9.9", "portValue": port}}},
        "request": {"http": {"method": method, "path": path, "host": host, "headers": headers}},
    }  # fmt: skip
    if randomness.random() < 0.5:
        attributes["tlsSession"] = {"sni": randomness.choice(["shop.example", "x"])}
    if randomness.random() < 0.5:
        payload = {"role": randomness.choice(["admin", "guest"])}
        attributes["metadataContext"] = {
            "filterMetadata": {"envoy.filters.http.jwt_authn": {"payload": payload}}
        }
    decoded = unquote(path.partition("?")[0])
    return {"attributes": attributes, "parsed_path": decoded.lstrip("/").split("/"), "parsed_query": {}}


def our_input(given: dict[str, Any]) -> dict[str, Any]:
    """The same request in our schema."""
    attributes = given["attributes"]
    http = attributes["request"]["http"]
    source: dict[str, Any] = {"ip": attributes["source"]["address"]["socketAddress"]["address"]}
    if "principal" in attributes["source"]:
        source["spiffe_id"] = attributes["source"]["principal"]
    found: dict[str, Any] = {
        "source": source,
        "destination": {"port": attributes["destination"]["address"]["socketAddress"]["portValue"]},
        "request": {
            "method": http["method"], "path": http["path"].partition("?")[0],
            "host": http["host"].partition(":")[0].lower(),
            "headers": {name: text for name, text in http["headers"].items() if not name.startswith(":")},
        },
    }  # fmt: skip
    if "tlsSession" in attributes:
        found["connection"] = attributes["tlsSession"]
    if "metadataContext" in attributes:
        metadata = attributes["metadataContext"]["filterMetadata"]
        found["jwt"] = {"claims": metadata["envoy.filters.http.jwt_authn"]["payload"]}
    return found


def may_differ(given: dict[str, Any], differences: set[Difference]) -> bool:
    """Whether the report says that this request may be decided differently."""
    http = given["attributes"]["request"]["http"]
    shown = {
        Difference.QUERY: "?" in http["path"],
        Difference.HOST: http["host"] != http["host"].lower().partition(":")[0],
        Difference.DECODED: "%" in http["path"],
        Difference.PSEUDO_HEADERS: True,
    }
    return any(shown.get(one, False) for one in differences)


def rewritten(text: str) -> tuple[Rewrite, set[Difference]]:
    found = rewrite_modules({"p.rego": text})
    assert found.accepted, found.remarks
    return found, {one.difference for one in found.remarks if one.difference is not None}


def decides(text: str, package: str) -> Callable[[dict[str, Any]], bool]:
    modules = check_modules(
        parse_modules({"p.rego": text}), BUILTINS, schema=None if "gatehouse" in package else ANY
    )
    evaluator = Evaluator(modules.compiled)
    path = (*package.split("."), "allow")
    return lambda given: evaluator.document(path, input_document=from_python(given)) is TRUE


CAUTIOUS = {"nested", "root", "variable"}
"""The report names a difference that these inputs don't show, or too seldom."""
INPUTS = [envoy_input(random.Random(seed)) for seed in range(400)]


@pytest.mark.parametrize("name", TEXTS)
def test_the_same_is_decided_where_no_difference_is_reported(name: str) -> None:
    made, differences = rewritten(TEXTS[name])
    original, ours = decides(TEXTS[name], "envoy.authz"), decides(made.modules["p.rego"], "gatehouse.authz")
    same = differs = 0
    answers = set()
    for given in INPUTS:
        expected, found = original(given), ours(our_input(given))
        answers.add(expected)
        if may_differ(given, differences):
            differs += expected != found
            continue
        same += 1
        assert found == expected, f"{json.dumps(given)}\n{made.modules['p.rego']}"
    assert answers == {True, False} or name == "prefix with a query"
    assert same > 50 or Difference.PSEUDO_HEADERS in differences
    if name not in CAUTIOUS:
        assert bool(differs) is bool(differences - {Difference.CLAIMS})


def test_a_real_opa_decides_as_the_rewritten_policies(peer: Callable[[str], Path], tmp_path: Path) -> None:
    """Every policy and every input in one call, on OPA."""
    binary = peer("opa")
    for index, text in enumerate(TEXTS.values()):
        (tmp_path / f"p{index}.rego").write_text(text.replace("envoy.authz", f"p{index}.authz"))
    asked = ", ".join(f"data.p{index}.authz.allow == true with input as c" for index in range(len(TEXTS)))
    sets = ", ".join(f"[x | x := {one}]" for one in asked.split(", "))
    (tmp_path / "ask.rego").write_text(
        f"package ask\n\nrows := [row | some c in input.cases; row := [{sets}]]\n"
    )
    (tmp_path / "input.json").write_text(json.dumps({"cases": INPUTS}))
    command = [
        str(binary),
        "eval",
        "-d",
        str(tmp_path),
        "-i",
        str(tmp_path / "input.json"),
        "-f",
        "raw",
        "data.ask.rows",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    rows: Sequence[Sequence[list[bool]]] = json.loads(done.stdout)
    compared = 0
    for index, text in enumerate(TEXTS.values()):
        made, differences = rewritten(text)
        ours = decides(made.modules["p.rego"], "gatehouse.authz")
        for given, row in zip(INPUTS, rows, strict=True):
            if not may_differ(given, differences):
                compared += 1
                assert ours(our_input(given)) == (row[index] == [True]), f"{text}\n{json.dumps(given)}"
    assert compared > 8_000


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_written_is_formatted_and_passes_the_check(name: str) -> None:
    made, _ = rewritten(TEXTS[name])
    text = made.modules["p.rego"]
    assert text.startswith("package gatehouse.authz\n")
    assert "input.attributes" not in text
    check_modules(parse_modules({"p.rego": text}), BUILTINS)
    assert rewrite_modules({"p.rego": text}, decision=("gatehouse", "authz")).modules["p.rego"] == text


def test_what_manifests_can_say_stays_so() -> None:
    """Segments compared with constants become conditions that targets know, and not calls of `split`."""
    for name in ("segment", "second segment", "third segment", "whole", "pattern", "root"):
        assert "split" not in rewritten(TEXTS[name])[0].modules["p.rego"], name


def test_comments_and_spelling_stay() -> None:
    body = "input.attributes.request.http.method == `GET` # why"
    text = f"# who\npackage envoy.authz\n\nallow if {{ # now\n\t{body}\n}}\n"
    assert rewritten(text)[0].modules["p.rego"] == text.replace("envoy.authz", "gatehouse.authz").replace(
        "input.attributes.request.http.method", "input.request.method"
    )


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("input.parsed_body.firstname == 1", "bodies have no counterpart"),
        ("input.attributes.request.http.body", "bodies have no counterpart"),
        ("input.truncated_body", "bodies have no counterpart"),
        ('input.parsed_query.a == ["b"]', "queries have no counterpart"),
        ('input.attributes.request.http.scheme == "https"', "connection.mtls"),
        ('input.attributes.request.http.headers[":scheme"] == "https"', "connection.mtls"),
        ("input.attributes.contextExtensions.a", "Envoy's configuration"),
        ("input.attributes.request.time", "knows no time"),
        ("f(input.attributes.request.http)", "name the fields"),
        ("some x in input.attributes", "name the fields"),
        ('x := "a"; input.attributes.request.http[x]', "with constants"),
        ("f(input)", "name the fields"),
        ("input.attributes.request.http.method.x", "has no parts"),
        (
            'input.attributes.metadataContext.filterMetadata["envoy.filters.http.jwt_authn"].p',
            "name the claim",
        ),
        ('r with input.attributes.request.http.method as "GET"', "by hand"),
        ("input.attributes.nonsense", "no counterpart"),
    ],
)
def test_what_has_no_counterpart_is_refused_with_its_line(body: str, expected: str) -> None:
    text = f"{HEAD}allow if {{\n\t{body}\n}}\n\nf(_) := true\n\nr if input.attributes.request.http.method\n"
    found = rewrite_modules({"p.rego": text})
    refused = [one for one in found.remarks if one.kind is Kind.REFUSED]
    assert [one.span.row for one in refused] == [6]
    assert expected in refused[0].text
    assert not found.accepted
    assert found.modules == {}


@pytest.mark.parametrize(
    "rules",
    [
        'allow := {"allowed": true, "headers": {}} if input.attributes.request.http.method',
        'default allow := {"allowed": false}',
        'answer := {"allowed": true}\nallow := answer',
    ],
)
def test_an_answer_that_is_an_object_is_refused(rules: str) -> None:
    found = rewrite_modules({"p.rego": f"package envoy.authz\n{rules}\n"}, decision=("envoy", "authz"))
    assert any("headers, body or status" in one.text for one in found.remarks)


def test_a_name_that_shadows_a_part_of_the_input_is_refused() -> None:
    text = "package envoy.authz\nimport input.attributes.request.http\nallow if { some http in [1]; http }\n"
    found = rewrite_modules({"p.rego": text})
    assert [one.kind for one in found.remarks if "another name" in one.text] == [Kind.REFUSED]


def test_the_package_that_decides_has_to_be_clear() -> None:
    text = "package my.rules\nallow if input.attributes.request.http.method"
    with pytest.raises(InvalidInput, match="which package decides") as refused:
        rewrite_modules({"p.rego": text})
    assert "my/rules/allow" in str(refused.value.hint)
    assert (
        "package gatehouse.authz"
        in rewrite_modules({"p.rego": text}, decision=("my", "rules")).modules["p.rego"]
    )


def test_check_says_which_command_rewrites() -> None:
    with pytest.raises(Diagnostics) as refused:
        check_modules(parse_modules({"p.rego": TEXTS["method"]}), BUILTINS)
    assert any("import-envoy" in one.hint for one in refused.value.diagnostics)


def test_texts_survive_as_json() -> None:
    assert parse_json(
        json_text(from_python([one.to_json() for one in rewritten(TEXTS["nested"])[0].remarks]))
    )
