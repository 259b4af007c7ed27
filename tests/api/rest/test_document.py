"""The OpenAPI document: whole, and true of what the server answers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
from typing import Any

import jsonschema
from jsonschema.validators import validator_for

from control_plane.api.rest.gate import is_change
from control_plane.wiring.rest_connection import MAX_HEAD_BYTES, MAX_HEADERS

WHOLE = {"/v1/policy/versions/{number}", "/v1/policy/versions/{number}/files"}
"""One thing each, as whole as it was pushed."""
HOST = b"host: x\r\n"
LONG = b"a" * MAX_HEAD_BYTES


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
                assert {"400", "401", "403", "413", "429", "431", "500", "501", "503"} <= set(responses), (
                    about
                )
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


def test_what_the_connection_refuses_is_in_the_document(rest: Any) -> None:
    """Such a head reaches no route; whoever asked for the operation gets this answer to it nevertheless."""
    heads = [
        ("/v1/ledger", b"/v1/ledger?cursor=" + LONG, HOST, 431),
        ("/v1/ledger/{record_id}", b"/v1/ledger/" + LONG, HOST, 431),
        ("/v1/ledger", b"/v1/ledger", HOST + b"x: " + LONG + b"\r\n", 431),
        ("/v1/ledger", b"/v1/ledger", HOST + b"x: y\r\n" * MAX_HEADERS, 431),
        ("/v1/ledger", b"/v1/ledger", b"", 400),
        ("/v1/ledger", b"/v1/ledger", HOST + b"transfer-encoding: gzip, chunked\r\n", 501),
        ("/v1/policy/versions/{number}", b"/v1/policy/versions/1%2Fplan", HOST, 405),
    ]

    async def scenario(api: Any) -> None:
        document = (await api.call("GET", "/v1/openapi.json")).body

        def ask(target: bytes, fields: bytes) -> Any:
            with contextlib.closing(api.connect()) as connection:
                connection.sock.sendall(b"GET " + target + b" HTTP/1.1\r\n" + fields + b"\r\n")
                with http.client.HTTPResponse(connection.sock, method="GET") as answer:
                    answer.begin()
                    return answer.status, answer.getheader("content-type"), json.loads(answer.read())

        for path, target, fields, status in heads:
            about = (target[:40], fields[:40])
            came, kind, body = await asyncio.to_thread(ask, target, fields)
            assert (came, kind, body["status"]) == (status, "application/problem+json", status), about
            said = document["paths"][path]["get"]["responses"]
            assert kind in said.get(str(status), {}).get("content", {}), (about, status, sorted(said))
            jsonschema.validate(body, document["components"]["schemas"]["Problem"])

    rest(scenario)


def test_every_list_has_pages(rest: Any) -> None:
    """Whatever answers with a list of what there is takes a limit and a cursor, and says where to go on."""

    async def scenario(api: Any) -> None:
        document = (await api.call("GET", "/v1/openapi.json")).body
        schemas = document["components"]["schemas"]
        found = set()
        for path, methods in document["paths"].items():
            content = methods.get("get", {}).get("responses", {}).get("200", {}).get("content", {})
            name = content.get("application/json", {}).get("schema", {}).get("$ref", "").rpartition("/")[2]
            rows = [
                field
                for field, about in schemas.get(name, {}).get("properties", {}).items()
                if about.get("type") == "array" or "additionalProperties" in about
            ]
            if rows and path not in WHOLE:
                taken = {one["name"] for one in methods["get"]["parameters"]}
                assert {"limit", "cursor"} <= taken, path
                assert "next_cursor" in schemas[name]["required"], path
                found.add(path)
        assert len(found) >= 7, found

    rest(scenario)


def test_what_is_asked_wrongly_is_told_how_it_goes(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        form = b"spiffe_id=spiffe://example.org/x&reason=r"
        for kind in ("application/x-www-form-urlencoded", "text/plain", "application/jsonx", ""):
            reply = await api.call("POST", "/v1/quarantine", form, content_type=kind)
            assert (reply.status, reply.body["title"]) == (415, "not-json"), kind
            assert "application/json" in reply.body["detail"]
        told = {"content_type": "application/json; charset=utf-8"}
        broken = await api.call("POST", "/v1/quarantine", b'{"reason"', **told)
        assert broken.status == 400 and "isn't JSON" in broken.body["detail"]
        body = json.dumps({"spiffe_id": "spiffe://example.org/x", "reason": "r"}).encode()
        assert (await api.call("POST", "/v1/quarantine", body, **told)).status == 200
        lost = await api.call("GET", "/v1/polcy")
        assert (lost.status, lost.body["title"]) == (404, "not-found") and "/v1/polcy" in lost.body["detail"]
        wrong = await api.call("DELETE", "/v1/quarantine")
        assert (wrong.status, wrong.headers["allow"]) == (405, "GET, POST")
        assert wrong.body["title"] == "method-not-allowed" and "GET, POST" in wrong.body["detail"]
        assert (await api.call("GET", "/v1/policy/status", if_none_match="*")).status == 304
        document = await api.call("GET", "/v1/openapi.json")
        known = await api.call("GET", "/v1/openapi.json", if_none_match=document.headers["etag"])
        assert known.status == 304

    rest(scenario)
