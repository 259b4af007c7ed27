"""Judging single requests: what the evaluator says, with the rule that decided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policies.inventory_file import inventory_from_document, parse_inventory
from policies.project import Project
from policies.rulings import Judgement, Rulings

ROOT = Path(__file__).parents[2]
SHOP = "spiffe://gatehouse.test/ns/shop/sa/"
WATCH = "/shop.payments.v1.Payments/Watch"
REFUND = "/v1/charges/refund"


@pytest.fixture(scope="module")
def starter() -> Rulings:
    folders = (ROOT / "rego/lib", ROOT / "rego/starter")
    files = {path.name: path.read_text() for each in folders for path in each.rglob("*.rego")}
    project = Project.of(files)
    inventory = parse_inventory((ROOT / "deploy/demo/inventory.yaml").read_text())
    return Rulings(project.compiled(), inventory, project.data)


def asked(caller: str, port: int, method: str = "", path: str = "") -> dict[str, Any]:
    request = {"request": {"method": method, "path": path, "headers": {}}} if method else {}
    source = {"spiffe_id": caller, "ip": "127.0.0.1"}
    return {"source": source, "destination": {"port": port}, "connection": {"mtls": True}, **request}


@pytest.mark.parametrize(
    ("workload", "request_", "allowed", "line"),
    [
        ("shop/payments", asked(SHOP + "frontend", 8080, "GET", "/v1/charges"), True, "authz.rego:30"),
        ("shop/payments", asked(SHOP + "frontend", 9090, "POST", WATCH), True, "authz.rego:39"),
        ("shop/payments", asked(SHOP + "frontend", 8080, "GET", REFUND), False, "authz.rego:56"),
        ("shop/payments", asked(SHOP + "frontend", 8080, "DELETE", "/v1/charges"), False, ""),
        ("shop/payments", asked(SHOP + "card-db", 8080, "GET", "/v1/charges"), False, ""),
        ("shop/card-db", asked(SHOP + "payments", 5432), True, "authz.rego:48"),
        ("shop/card-db", asked(SHOP + "frontend", 5432), False, ""),
        ("shop/card-db", asked("spiffe://elsewhere.test/ns/shop/sa/payments", 5432), False, ""),
        ("shop/nobody", asked(SHOP + "payments", 5432), False, ""),
    ],
)  # fmt: skip
def test_the_starter_policy(
    starter: Rulings, workload: str, request_: dict[str, Any], allowed: bool, line: str
) -> None:
    judgement = starter.judge(workload, request_)
    assert judgement.allowed is allowed, judgement
    if line:
        assert str(judgement.origin) == line
    assert judgement.reason


def test_a_caller_claims_nothing_that_the_inventory_says(starter: Rulings) -> None:
    claimed = asked("spiffe://elsewhere.test/thief", 5432)
    claimed["source"] |= {"namespace": "shop", "service_account": "payments", "labels": {"tier": "app"}}
    claimed["destination"] |= {"service": "frontend", "namespace": "public"}
    assert not starter.judge("shop/card-db", claimed).allowed


@pytest.mark.parametrize(
    "broken", [{}, {"source": {}}, {"destination": {"port": "x"}}, {"request": {"path": 3}}]
)
def test_requests_without_the_usual_parts_are_denied(starter: Rulings, broken: dict[str, Any]) -> None:
    assert not starter.judge("shop/payments", broken).allowed


def test_both_packages_must_allow() -> None:
    policy = {
        "a.rego": 'package gatehouse.authz\n\nallow if input.request.method == "GET"\n',
        "s.rego": "package gatehouse.segmentation\n\nallow if input.destination.port == 8080\n",
    }
    inventory = parse_inventory((ROOT / "deploy/demo/inventory.yaml").read_text())
    rulings = Rulings(Project.of(policy).compiled(), inventory)
    assert rulings.judge("shop/payments", asked(SHOP + "frontend", 8080, "GET", "/")).allowed
    refused = rulings.judge("shop/payments", asked(SHOP + "frontend", 9090, "GET", "/"))
    assert refused == Judgement(False, "no rule of segmentation allows it")


def test_a_port_of_several_services_is_judged_for_each() -> None:
    """By which of them a request comes, nobody at the port can tell."""
    rule = (
        "package gatehouse.authz\n\n"
        'allow if {\n\tinput.destination.service == "public"\n\tinput.request.method == "GET"\n}\n\n'
        'allow if {\n\tinput.destination.service == "admin"\n\tinput.source.service_account == "ops"\n}\n'
    )
    port = {"port": 80, "target_port": 8080, "protocol": "http"}
    for order in (["admin", "public"], ["public", "admin"]):
        app = {
            "name": "app",
            "namespace": "n",
            "services": [{"name": name, "ports": [port]} for name in order],
        }
        ops = {"name": "ops", "namespace": "n", "service_account": "ops"}
        inventory = inventory_from_document({"mesh": {"trust_domain": "x.test"}, "workloads": [app, ops]})
        rulings = Rulings(Project.of({"a.rego": rule}).compiled(), inventory)
        judged = {
            (who, method): rulings.judge(
                "n/app", asked(f"spiffe://x.test/ns/n/sa/{who}", 8080, method, "/")
            ).allowed
            for who in ("ops", "web")
            for method in ("GET", "POST")
        }
        assert [key for key, allowed in judged.items() if allowed] == [("ops", "GET")]


def test_deny_as_a_set_of_reasons_denies() -> None:
    policy = (
        "package gatehouse.authz\n\nallow := true\n\n"
        'deny contains "no deletions" if input.request.method == "DELETE"\n\n'
        'deny contains sprintf("not %s", [input.request.method]) if input.request.method == "PUT"\n'
    )
    inventory = parse_inventory((ROOT / "deploy/demo/inventory.yaml").read_text())
    rulings = Rulings(Project.of({"p.rego": policy}).compiled(), inventory)
    for method, allowed in (("GET", True), ("DELETE", False), ("PUT", False)):
        assert rulings.judge("shop/payments", asked(SHOP + "a", 8080, method, "/")).allowed is allowed


def test_an_evaluation_that_fails_denies() -> None:
    policy = (
        "package gatehouse.authz\n\nallow if input.request.method in names\n\n"
        "names contains a if { some a in input.request.headers; count(numbers.range(1, 400000)) > 0 }\n"
    )
    inventory = parse_inventory((ROOT / "deploy/demo/inventory.yaml").read_text())
    rulings = Rulings(Project.of({"p.rego": policy}).compiled(), inventory)
    request = asked(SHOP + "a", 8080, "GET", "/")
    request["request"]["headers"] = {"x": "GET"}
    judgement = rulings.judge("shop/payments", request)
    assert not judgement.allowed
    assert "could not be evaluated" in judgement.reason
