"""The input schema and the capabilities file: valid, and doing in OPA what they do in our checker."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from policies.language.builtins.registry import BUILTINS
from policies.language.checks.check import check_modules
from policies.language.diagnostics import Diagnostics
from policies.language.schema import input_schema, input_type, type_of_schema
from policies.language.schema.capabilities import capabilities
from policies.language.syntax.parser import parse_module
from policies.language.types import ANY, BOOLEAN, NULL, NUMBER, STRING, ArrayOf, ObjectOf, union

POLICIES = {
    'allow if input.source.namespce == "a"': False,
    'allow if input.request.headers["x-team"] == "a"': True,
    'allow if input.jwt.claims.sub == "a"': True,
    'allow if input.destination.labels.tier == "pci"': True,
    "allow if input.destination.port == 8080": True,
    'allow if input.destination.port == "8080"': False,
    'allow if http.send({"method": "GET", "url": "http://x"}).status_code == 200': False,
    'allow if rand.intn("x", 2) == 1': False,
    "allow if rego.metadata.rule() == {}": True,
    'allow if glob.match("/a/*", ["/"], input.request.path)': True,
    "allow if { some x in [1]; x + 1 == 2 }": True,
    'allow if input.attributes.request.http.method == "GET"': False,
}


def test_schema_is_valid_and_accepts_a_full_input() -> None:
    schema = input_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    party = {
        "spiffe_id": "spiffe://td/x", "trust_domain": "td", "namespace": "n", "service_account": "s",
        "labels": {"app": "x"}, "ip": "10.0.0.1",
    }  # fmt: skip
    document = {
        "source": party,
        "destination": {**party, "service": "db", "port": 5432},
        "request": {"method": "GET", "path": "/", "host": "db", "headers": {"x-team": "a"}},
        "jwt": {"claims": {"sub": "u", "groups": ["a"]}},
        "connection": {"sni": "db", "mtls": True},
    }
    jsonschema.validate(document, schema)
    jsonschema.validate({}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"source": {"namespce": "x"}}, schema)


def test_types_of_schemas() -> None:
    assert type_of_schema({"type": "integer"}) == NUMBER
    assert type_of_schema({"type": ["string", "null"]}) == union(STRING, NULL)
    assert type_of_schema({"type": "array", "items": {"type": "boolean"}}) == ArrayOf((), BOOLEAN)
    assert type_of_schema(
        {"properties": {"a": {"$ref": "#/$defs/t"}}, "$defs": {"t": {"type": "string"}}}
    ) == (ObjectOf((("a", STRING),)))
    assert type_of_schema({"$ref": "#"}) == ANY  # refers to itself: bounded
    assert type_of_schema({"$ref": "https://example.com/schema"}) == ANY
    assert isinstance(input_type(), ObjectOf)


@pytest.mark.parametrize(("rule", "accepted"), POLICIES.items())
def test_our_checker(rule: str, accepted: bool) -> None:
    module = parse_module(f"package gatehouse.authz\n\n{rule}\n")
    if accepted:
        check_modules([module], BUILTINS)
    else:
        with pytest.raises(Diagnostics):
            check_modules([module], BUILTINS)


def test_a_package_may_have_another_input() -> None:
    head = "# METADATA\n# schemas:\n#   - input: {type: object}\npackage gatehouse.admission\n\n"
    check_modules([parse_module(head + "deny contains 1 if input.request.object.spec\n")], BUILTINS)
    with pytest.raises(Diagnostics):  # what no input can make right is still found
        check_modules([parse_module(head + 'deny contains 1 if startswith(1, "a")\n')], BUILTINS)


def test_opa_with_our_files(peer: Callable[[str], Path], tmp_path: Path) -> None:
    opa = peer("opa")
    (tmp_path / "schema.json").write_text(json.dumps(input_schema()))
    (tmp_path / "capabilities.json").write_text(json.dumps(capabilities(BUILTINS)))
    for rule, accepted in POLICIES.items():
        policy = tmp_path / "policy.rego"
        policy.write_text(f"package gatehouse.authz\n\n{rule}\n")
        command = [opa, "check", "--strict", "--schema", tmp_path / "schema.json"]
        command += ["--capabilities", tmp_path / "capabilities.json", policy]
        result = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert (result.returncode == 0) is accepted, (rule, result.stderr)
