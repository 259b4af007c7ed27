"""The life of a policy over HTTP, with the real compiler, and the manners of the border."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
INVENTORY = """
mesh: {trust_domain: example.org}
workloads:
- name: web
  namespace: shop
  mode: envoy
  service_account: web
  services: [{name: web, ports: [{port: 80, target_port: 8080, protocol: http}]}]
- name: db
  namespace: shop
  service_account: db
  services: [{name: db, ports: [{port: 5432, protocol: tcp}]}]
""".replace("  mode: envoy\n", "")
REGO = """package gatehouse.authz

default allow := false

allow if {
	input.destination.service == "web"
	input.source.spiffe_id == "spiffe://example.org/ns/shop/sa/%s"
}
"""
NEVER = """package gatehouse.invariants

never contains "the data base is called" if input.destination.service == "db"
"""


def policy(caller: str = "db", **more: str) -> dict[str, Any]:
    return {"files": {"authz.rego": REGO % caller, **more}, "inventory": INVENTORY, "reason": "because"}


async def pushed(api: Any, body: dict[str, Any], by: str = "ada") -> Any:
    reply = await api.call("POST", "/v1/policy/versions", body, by=by)
    assert reply.status == 201, reply
    return reply.body


async def step(api: Any, number: int, name: str, by: str, **body: Any) -> Any:
    return await api.call("POST", f"/v1/policy/versions/{number}/{name}", {"reason": "r", **body}, by=by)


def test_a_life_over_http(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        first = await pushed(api, policy("db", **{"inv.rego": NEVER}))
        assert first["state"] == "proved", first
        planned = await step(api, 1, "plan", "ada")
        plan = planned.body["steps"][-1]
        assert (plan["gains"], plan["loses"]) == (1, 0)
        assert plan["shifts"][0]["caller"] == "spiffe://example.org/ns/shop/sa/db"
        assert plan["shifts"][0]["after"] == ["authz.rego:5"]
        assert (await step(api, 1, "approve", "ada")).status == 403
        mine = await step(api, 1, "approve", "both")
        assert mine.status == 200, "not the author, and an approver"
        applied = await step(api, 1, "apply", "olga")
        assert applied.body["state"] == "recorded"
        status = (await api.call("GET", "/v1/policy/status", by="vera")).body
        assert status["in_force"]["version"] == 1 and status["sequence"] == 1
        second = await pushed(api, policy("web"))
        assert second["version"] == 2
        plan = (await step(api, 2, "plan", "ada")).body["steps"][-1]
        assert (plan["gains"], plan["loses"], plan["against_version"]) == (1, 1, 1)
        await step(api, 2, "approve", "grace")
        canary = await step(api, 2, "apply", "olga", percent=10)
        assert canary.status == 200
        began = asyncio.get_running_loop().time()
        back = await api.call("POST", "/v1/policy/rollback", {"reason": "r"}, by="olga")
        assert back.status == 200 and back.body["version"] == 1
        assert asyncio.get_running_loop().time() - began < 20
        records = (await api.call("GET", "/v1/ledger?kind=change", by="audrey")).body["records"]
        assert {record["action"] for record in records} >= {
            "policy.propose", "policy.plan", "policy.approve", "policy.apply", "policy.rollback",
            "policy.in-force",
        }  # fmt: skip

    rest(scenario)


def test_two_roles_do_not_lift_the_four_eyes(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        await pushed(api, policy(), by="both")
        assert (await step(api, 1, "plan", "both")).status == 200
        refused = await step(api, 1, "approve", "both")
        assert refused.status == 403 and "change of their own" in refused.body["detail"]
        assert "have somebody else decide" in refused.body["hint"]
        assert refused.headers["content-type"] == "application/problem+json"
        assert (await step(api, 1, "withdraw", "ada")).status == 403, "somebody else's"
        assert (await step(api, 1, "withdraw", "both")).body["state"] == "closed"

    rest(scenario)


def test_what_is_not_proved_ends_there(rest: Any) -> None:
    never = NEVER.replace('"db"', '"web"')

    async def scenario(api: Any) -> None:
        broken = await pushed(api, policy("db", **{"inv.rego": never}))
        assert broken["state"] == "refused" and broken["steps"][-1]["stage"] == "prove"
        assert "broken invariant" in broken["steps"][-1]["reasons"][0]
        wrong = policy()
        wrong["files"]["authz.rego"] += "\nallow if {"
        refused = await pushed(api, wrong)
        assert refused["state"] == "refused" and refused["steps"][-1]["stage"] == "evaluate"
        assert "authz.rego" in refused["steps"][-1]["reasons"][0]
        failing = policy(**{"a_test.rego": "package a_test\n\ntest_no if false\n"})
        assert "a_test.test_no" in (await pushed(api, failing))["steps"][-1]["reasons"][0]
        for number in (1, 2, 3):
            assert (await step(api, number, "plan", "ada")).status == 409

    rest(scenario)


def test_conditions_keys_and_pages(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        once = await api.call("POST", "/v1/policy/versions", policy(), by="ada", idempotency_key="k1")
        again = await api.call("POST", "/v1/policy/versions", policy(), by="ada", idempotency_key="k1")
        assert again.body == once.body and again.headers["idempotency-replayed"] == "true"
        other = await api.call("POST", "/v1/policy/versions", policy("web"), by="ada", idempotency_key="k1")
        assert other.status == 422
        mine = await api.call("POST", "/v1/policy/versions", policy("x"), by="both", idempotency_key="k1")
        assert mine.status == 201 and mine.body["version"] == 2, "keys are each subject's own"
        tag = once.headers["etag"]
        path = "/v1/policy/versions/1"
        assert (await api.call("GET", path, by="vera", if_none_match=tag)).status == 304
        planned = await api.call("POST", path + "/plan", {}, by="ada", if_match=tag)
        assert planned.status == 200 and planned.headers["etag"] != tag
        stale = await api.call("POST", path + "/plan", {}, by="ada", if_match=tag)
        assert stale.status == 412 and "somebody else" in stale.body["hint"]
        page = (await api.call("GET", "/v1/policy/versions?limit=1", by="vera")).body
        assert [one["version"] for one in page["versions"]] == [2]
        page = (await api.call("GET", f"/v1/policy/versions?cursor={page['next_cursor']}", by="vera")).body
        assert [one["version"] for one in page["versions"]] == [1] and page["next_cursor"] is None
        for cursor in ("x", "LTE=", "MA==", "é", "a" * 5000):
            bad = await api.call("GET", f"/v1/policy/assignments?cursor={cursor.encode().hex()}", by="vera")
            assert bad.status in (200, 400)
        assert len((await api.call("GET", "/v1/health")).headers["x-request-id"]) >= 8
        named = await api.call("GET", "/v1/health", x_request_id="my-request-1")
        assert named.headers["x-request-id"] == "my-request-1"
        spoiled = await api.call("GET", "/v1/health", x_request_id="a b<script>")
        assert spoiled.headers["x-request-id"] != "a b<script>"

    rest(scenario)


def test_hostile_requests_are_problems_never_crashes(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        for method, path, body in [
            ("POST", "/v1/policy/versions", b"{"),
            ("POST", "/v1/policy/versions", {"files": {"../x.rego": ""}, "inventory": "", "reason": "r"}),
            ("POST", "/v1/policy/versions", {"files": {"a.rego": 1}, "inventory": "", "reason": "r"}),
            ("POST", "/v1/policy/versions", {"files": [], "inventory": "", "reason": "r"}),
            ("POST", "/v1/policy/versions/0/plan", {}),
            ("POST", "/v1/policy/versions/99/plan", {}),
            ("POST", "/v1/policy/versions/999999999999999999999/apply", {"reason": "r"}),
            ("POST", "/v1/policy/versions/1e3/apply", {"reason": "r"}),
            ("POST", "/v1/quarantine", {"spiffe_id": "http://x", "reason": "r"}),
            ("POST", "/v1/quarantine", {"spiffe_id": "spiffe://example.org", "reason": "r"}),
            ("POST", "/v1/quarantine", {"spiffe_id": "spiffe://example.org/spire/server", "reason": "r"}),
            ("POST", "/v1/quarantine", {"spiffe_id": "spiffe://example.org/x", "reason": " "}),
            ("GET", "/v1/policy/versions/../../../etc/passwd", None),
            ("GET", "/v1/policy/versions?limit=0", None),
            ("DELETE", "/v1/policy/versions/1", None),
            ("POST", "/v1/explain", b"[" * 100_000),
        ]:
            reply = await api.call(method, path, body)
            assert 400 <= reply.status < 500, (method, path, body, reply)
            assert reply.headers["content-type"] == "application/problem+json", (path, reply)
        large = await api.call("POST", "/v1/quarantine", json.dumps({"x": "y" * (1 << 20)}).encode())
        assert large.status == 413
        larger = policy(**{"data.json": json.dumps({"x": "y" * (2 << 20)})})
        assert (await pushed(api, larger))["state"] == "proved", "a push has a bound of its own"

    rest(scenario)


def test_quarantine_twice_and_release_twice(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        body = {"spiffe_id": "spiffe://example.org/ns/shop/sa/web", "reason": "odd calls"}
        for path, changed, revision in (
            ("/v1/quarantine", [True, False], 1),
            ("/v1/quarantine/release", [True, False], 2),
        ):
            for expected in changed:
                reply = (await api.call("POST", path, body, by="olga")).body
                assert (reply["changed"], reply["revision"]) == (expected, revision)
        assert (await api.call("GET", "/v1/quarantine", by="vera")).body["quarantined"] == []

    rest(scenario)
