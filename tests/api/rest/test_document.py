"""The OpenAPI document: whole, and true of what the server answers."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
from jsonschema.validators import validator_for

from control_plane.api.rest.gate import is_change


def test_every_operation_says_all_that_it_answers(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        document = (await api.call("GET", "/v1/openapi.json")).body
        assert document["openapi"] == "3.1.0"
        assert document["security"] == [{"oidc": []}, {"svid": []}]
        assert set(document["components"]["securitySchemes"]) == {"oidc", "svid"}
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                about = (method, path)
                assert operation.get("summary") and operation.get("description"), about
                responses = operation["responses"]
                assert {"400", "401", "403", "413", "429", "500", "503"} <= set(responses), about
                for status, response in responses.items():
                    assert "X-Request-Id".lower() in {name.lower() for name in response["headers"]}, about
                    kinds = set(response.get("content", {}))
                    if int(status) >= 400:
                        assert kinds == {"application/problem+json"}, (about, status)
                    elif status not in ("304",):
                        assert kinds, (about, status)
                        for media in response["content"].values():
                            assert media.get("schema"), (about, status, "an answer of any shape")
                if is_change(method.upper(), path):
                    named = {one.get("$ref", "").rpartition("/")[2] for one in operation["parameters"]}
                    assert {"idempotency-key", "gatehouse-reason", "gatehouse-break-glass"} <= named, about
        everything = str(document)
        for found in set(re.findall(r"'\$ref': '#/([^']*)'", everything)):
            place: Any = document
            for part in found.split("/"):
                place = place[part]
        for schema in document["components"]["schemas"].values():
            validator_for(schema, default=jsonschema.Draft202012Validator).check_schema(schema)

    rest(scenario)


def test_what_is_answered_is_what_is_said(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        document = (await api.call("GET", "/v1/openapi.json")).body
        await api.call("POST", "/v1/quarantine", {"spiffe_id": "spiffe://example.org/x", "reason": "r"})
        source = {"files": {"a.rego": "package a"}, "inventory": "mesh: {trust_domain: x}", "reason": "r"}
        await api.call("POST", "/v1/policy/versions", source)
        for path, methods in document["paths"].items():
            if "get" not in methods or path in ("/v1/events", "/v1/opa/bundle"):
                continue
            reply = await api.call("GET", path.format(kind="x509", number=1, record_id="0-1"))
            assert reply.status == 200, (path, reply)
            schema = methods["get"]["responses"]["200"]["content"]["application/json"]["schema"]
            whole = {**schema, "components": document["components"]}
            jsonschema.validate(reply.body, whole, cls=jsonschema.Draft202012Validator)

    rest(scenario)
