"""Rates, sizes, who-and-why of every change, pages: what the border holds everybody to."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from control_plane.api.limits import Limiter
from control_plane.api.rest.conditions import TooLarge
from control_plane.api.rest.gate import RULES, is_change
from control_plane.core.errors import GatehouseError, InvalidInput, ResourceExhausted
from control_plane.rollout.push_body import parse_push, read_push, write_push
from control_plane.rollout.push_reader import SMALL_BYTES, read_body

INVENTORY = "mesh: {trust_domain: example.org}\n"
RATES = """
[api]
subject_requests_per_second = 0.2
subject_burst = 3
address_requests_per_second = 0.1
address_burst = 8
"""


def test_rates_by_subject_and_by_address(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        answers = [await api.call("GET", "/v1/health", by="vera") for _ in range(5)]
        assert [one.status for one in answers] == [200, 200, 200, 429, 429]
        refused = answers[-1]
        assert 1 <= int(refused.headers["retry-after"]) <= 5
        assert refused.headers["content-type"] == "application/problem+json"
        assert "from this subject" in refused.body["detail"]
        assert (await api.call("GET", "/v1/health", by="olga")).status == 200, "each subject has its own"
        assert all([(await api.call("GET", "/v1/health")).status == 200 for _ in range(10)]), "local"
        strangers = [(await api.call("GET", "/v1/health", tls=True)).status for _ in range(10)]
        assert strangers == [401] * 8 + [429] * 2, "before anybody is authenticated"

    rest(scenario, more=RATES)


def test_counters_are_bounded() -> None:
    from control_plane.api import limits

    limiter = Limiter("requests", 1, 2, lambda: 0.0)
    for number in range(limits.MAX_BUCKETS + 1000):
        limiter.spend(f"10.0.{number >> 8}.{number & 255}")
    assert len(limiter._buckets) <= limits.MAX_BUCKETS
    with pytest.raises(ResourceExhausted) as caught:
        for _ in range(3):
            limiter.spend("one")
    assert caught.value.retry_after_seconds == pytest.approx(1)


def test_every_change_leaves_who_why_and_which_request_in_the_ledger(rest: Any) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "POST /v1/policy/versions": {"files": {"a.rego": "package a"}, "inventory": INVENTORY},
        "POST /v1/quarantine": {"spiffe_id": "spiffe://example.org/x"},
        "POST /v1/quarantine/release": {"spiffe_id": "spiffe://example.org/x"},
    }
    # What they are about isn't there, or not so yet: they are refused before there is anything to record.
    not_yet = {"POST /v1/authority/{kind}/quarantine", "POST /v1/authority/{kind}/release"}

    async def scenario(api: Any) -> None:
        order = ["POST /v1/policy/versions", "POST /v1/authority/{kind}/prepare"]
        [first] = (await api.call("GET", "/v1/authority/x509")).body["authorities"]
        for step in ("taint", "revoke"):  # of the one that another has followed by then
            bodies[f"POST /v1/authority/{{kind}}/{step}"] = {"authority_id": first["authority_id"]}
        routes = [f"{method} {path}" for method, path in RULES if is_change(method, path)]
        for number, route in enumerate(sorted(routes, key=lambda one: one not in order)):
            if route in not_yet or "webhook" in route or "falco" in route:
                continue
            method, path = route.split(" ")
            there, request_id = path.format(kind="x509", number=1), f"request-{number:04}"
            who = (
                "ada"
                if path.endswith("withdraw")
                else "grace"
                if path.endswith(("approve", "reject"))
                else "all"
            )
            if path == "/v1/policy/versions":
                who = "ada"
            body = bodies.get(route, {})
            silent = await api.call(method, there, body, by=who)
            if not path.endswith("plan"):  # the reason of a plan is that of its version
                assert silent.status == 400 and "reason" in silent.body["detail"], (route, silent)
            told = await api.call(
                method, there, body | {"reason": "  because\tI say so "}, by=who, x_request_id=request_id
            )
            assert told.status in (200, 201, 400, 404, 409), (route, told)
            page = (await api.call("GET", "/v1/ledger?kind=change&limit=100")).body["records"]
            [record] = [one for one in page if one["request_id"] == request_id and one["by"] != "gatehouse"][
                -1:
            ]
            assert (record["by"], record["action"]) == (f"login:{who}", RULES[method, path].action), route
            assert record["reason"] == "because I say so", route
            assert told.headers["x-request-id"] == request_id

    rest(scenario)


def keys_of(page: Any, key: str) -> list[str]:
    """The names of a page's rows; OPA's keys are an object that has them as its own."""
    return list(page) if isinstance(page, dict) else [one[key] for one in page]


def test_lists_come_in_pages(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        for number in range(5):
            body = {"spiffe_id": f"spiffe://example.org/n{number}", "reason": "r"}
            assert (await api.call("POST", "/v1/quarantine", body)).status == 200
            await api.call("POST", "/v1/policy/keys", {"reason": "r"})
            for step in ("prepare", "activate"):
                assert (await api.call("POST", f"/v1/authority/jwt/{step}", {"reason": "r"})).status == 200
        for path, name, key in (
            ("/v1/authority/jwt", "authorities", "authority_id"),
            ("/v1/quarantine", "quarantined", "spiffe_id"),
            ("/v1/policy/keys", "keys", "key_id"),
            ("/v1/opa/keys", "keys", ""),
            ("/v1/ledger", "records", "id"),
        ):
            whole = keys_of((await api.call("GET", f"{path}?limit=50")).body[name], key)
            found: list[str] = []
            cursor = ""
            for _ in range(60):
                page = (await api.call("GET", f"{path}?limit=2&cursor={cursor}")).body
                assert len(page[name]) <= 2
                found += keys_of(page[name], key)
                cursor = page["next_cursor"]
                if cursor is None:
                    break
            assert found == whole and len(found) >= 5, path
            for bad in ("x", "%C3%A9", "W1swLEluZmluaXR5XV0=", "W1tb" * 700, "W1swLDFlNDAwXV0=", "__8="):
                reply = await api.call("GET", f"{path}?cursor={bad}")
                assert reply.status in (200, 400), (path, bad, reply)

    rest(scenario)


def test_a_push_is_written_for_its_reader_and_read_again() -> None:
    body = {"files": {"a/ü.rego": "package a # é", "data.json": ""}, "inventory": "x: 1", "reason": "r"}
    push = parse_push(json.dumps(body).encode())
    assert read_push(write_push(push)) == push


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "isn't JSON"),
        (b"\xff{}", "isn't JSON"),
        (b"[" * 200_000, "nested"),
        (b"[]", "expected an object"),
        (b'{"files": {"a.rego": 1}, "inventory": "", "reason": ""}', "a.rego"),
        (b'{"files": {"a.rego": "\\ud800"}, "inventory": "", "reason": ""}', "surrogate"),
        (b'{"files": {}, "inventory": "", "reason": "\\ud800"}', "surrogate"),
        (b'{"files": {}, "reason": ""}', "inventory"),
        (b'{"files": {}, "inventory": "", "reason": "", "wait_seconds": NaN}', "wait_seconds"),
        (b'{"files": {}, "inventory": "", "reason": "", "wait_seconds": true}', "wait_seconds"),
        (b'{"files": {}, "inventory": "", "reason": "", "wait_seconds": 1%s}' % (b"0" * 400), "wait_seconds"),
        (b'{"files": {"../a.rego": ""}, "inventory": "", "reason": ""}', "relative"),
    ],
)
def test_bodies_that_are_no_push(body: bytes, words: str) -> None:
    for padded in (body, body + b" " * SMALL_BYTES):  # here, and by the child
        with pytest.raises(GatehouseError, match=words) as caught:
            asyncio.run(read_body(padded))
        assert isinstance(caught.value, InvalidInput)


@pytest.mark.parametrize("shape", ["one text", "many names"])
def test_the_largest_push_holds_nobody_up(rest: Any, shape: str) -> None:
    if shape == "one text":
        # 16 MiB less a little, half of it to be escaped: what takes longest to read.
        files = {"data.json": json.dumps({"x": 'y"' * (1 << 21)}), "a.rego": "package a"}
        files["b/data.json"] = json.dumps({"x": "z\\n" * (1 << 20)})
    else:
        files = {f"{number}.rego": "" for number in range(250_000)}
    body = json.dumps({"files": files, "inventory": INVENTORY, "reason": "r", "wait_seconds": 0}).encode()

    async def scenario(api: Any) -> None:
        longest, done = 0.0, asyncio.Event()

        async def watch() -> None:
            """How much of the loop's own processor time goes by between two turns: load doesn't count."""
            nonlocal longest
            before = time.thread_time()
            while not done.is_set():
                await asyncio.sleep(0.001)
                now = time.thread_time()
                longest, before = max(longest, now - before), now

        watching = asyncio.create_task(watch())
        pushing = asyncio.create_task(
            api.call("POST", "/v1/policy/versions", body, by="ada", content_type="application/json")
        )
        reads = 0
        while not pushing.done():
            assert (await api.call("GET", "/v1/policy/status", by="vera")).status in (200, 429)
            reads += 1
            await asyncio.sleep(0.05)
        done.set()
        await watching
        reply = pushing.result()
        assert reply.status == (201 if shape == "one text" else 413), reply
        assert reads >= 3
        assert longest < 0.3, f"the loop was held up for {longest:.3f} s of its processor time"

    rest(scenario)


def test_who_may_not_push_may_not_send_much(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        body = json.dumps({"files": {}, "inventory": "x" * (1 << 20), "reason": "r"}).encode()
        told = {"content_type": "application/json"}
        assert (await api.call("POST", "/v1/policy/versions", body, by="vera", **told)).status == 413
        assert (await api.call("POST", "/v1/policy/versions", body, by="ada", **told)).status != 413

    rest(scenario)
    assert TooLarge.http_status == 413


def test_a_key_in_use_and_a_key_reused(rest: Any) -> None:
    push = {"files": {"a.rego": "package a"}, "inventory": INVENTORY, "reason": "r", "wait_seconds": 60}

    async def scenario(api: Any) -> None:
        both = await asyncio.gather(
            *(api.call("POST", "/v1/policy/versions", push, by="ada", idempotency_key="one") for _ in "ab")
        )
        assert sorted(one.status for one in both) == [201, 409], both
        again = await api.call("POST", "/v1/policy/versions", push, by="ada", idempotency_key="one")
        assert (again.status, again.headers["idempotency-replayed"]) == (201, "true")
        odd = await api.call(
            "POST", "/v1/policy/versions", push, by="ada", idempotency_key="one", gatehouse_break_glass="yes"
        )
        assert odd.status == 400, "what is answered again is held to the same headers"
        elsewhere = await api.call(
            "POST", "/v1/policy/keys", {"reason": "r"}, by="ada", idempotency_key="one"
        )
        assert elsewhere.status == 422 and "another request" in elsewhere.body["detail"]
        for bad in ("", "x" * 129, "a\tb"):
            assert (
                await api.call("POST", "/v1/policy/keys", {"reason": "r"}, idempotency_key=bad)
            ).status == 400

    rest(scenario)


def test_paths_that_lead_elsewhere(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        for path in (
            "/v1/../../../etc/passwd", "/v1/policy/versions/..%2f..%2fetc", "/v1/ledger/%2e%2e/%2e%2e",
            "/v1/policy/versions/1%00", "/v1/ledger/0-1%0d%0ax:y", "//v1/health", "/v1/health/", "/V1/health",
            "/v1/health;x=1", "/v1/authority/x509/../../health", "/v1/ledger/" + "9" * 5000,
            "/v1/policy/versions/%ff", "/v1/policy/versions/-1", "/v1/policy/versions/%EF%BC%91",
        ):  # fmt: skip
            reply = await api.call("GET", path)
            assert reply.status in (400, 403, 404), (path, reply)
            assert reply.headers["content-type"] == "application/problem+json"
            assert "root:" not in str(reply.body)

    rest(scenario)


def test_a_body_that_says_something_else_is_refused_and_not_guessed_at(rest: Any) -> None:
    """A misspelt `percent` would bring a canary to everybody."""
    named = {"authority_id": "a", "reason": "r"}
    version = {"files": {"a.rego": "package a"}, "inventory": INVENTORY, "reason": "r"}
    bodies: list[tuple[str, dict[str, Any], str]] = [
        ("/v1/policy/versions/1/apply", {"reason": "r", "pecrent": 5}, "pecrent"),
        ("/v1/policy/versions/1/apply", {"reason": "r", "percent": True}, "percent"),
        ("/v1/policy/versions/1/apply", {"reason": "r", "percent": "5"}, "percent"),
        ("/v1/policy/rollback", {"reason": "r", "to": True}, "to"),
        ("/v1/policy/rollback", {"reason": "r", "version": 3}, "version"),
        ("/v1/policy/versions", {**version, "wait": 3}, "wait"),
        ("/v1/policy/keys", {"reason": "r", "key": "k"}, "key"),
        ("/v1/quarantine", {"spiffe_id": "spiffe://example.org/x", "reason": "r", "force": True}, "force"),
        ("/v1/authority/x509/quarantine", {**named, "force": "no"}, "force"),
        ("/v1/authority/x509/quarantine", {**named, "at_once": 1}, "at_once"),
        ("/v1/authority/x509/release", {**named, "kind": "x509"}, "kind"),
        ("/v1/authority/x509/activate", {"reason": "r", "authority": "a"}, "authority"),
        ("/v1/explain", {"selectors": [], "agent": "spiffe://example.org/agent"}, "agent"),
    ]

    async def scenario(api: Any) -> None:
        await api.call("POST", "/v1/policy/versions", version, by="ada")
        for path, body, name in bodies:
            reply = await api.call("POST", path, body)
            assert (reply.status, reply.body["title"]) == (400, "invalid-input"), (path, body, reply.body)
            assert name in reply.body["detail"]
        for name in ("\ud800", "\x1b[2J", "x" * 100_000):
            reply = await api.call("POST", "/v1/policy/rollback", {"reason": "r", name: 1})
            assert reply.status == 400, reply
            assert reply.body["detail"].isprintable() and len(reply.body["detail"]) < 1000
            assert name == "\ud800" or "isn't known, /v1/openapi.json lists" in reply.body["detail"]
        document = (await api.call("GET", "/v1/openapi.json")).body
        for path in {path for path, _, _ in bodies}:
            declared = path.replace("/1/", "/{number}/").replace("/x509/", "/{kind}/")
            content = document["paths"][declared]["post"]["requestBody"]["content"]["application/json"]
            schema = content["schema"]
            for one in schema.get("anyOf", [schema]):
                name = one.get("$ref", "").rpartition("/")[2]
                shape = document["components"]["schemas"][name] if name else one
                assert shape.get("additionalProperties") is False or shape.get("type") == "null", path

    rest(scenario)
