"""The compiler in its own process, as the agent runs it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.enforcement import compiler
from agent.enforcement.bundle import PolicyBundle
from agent.enforcement.compiler import compile_for, judge_of
from control_plane.core.errors import FailedPrecondition, ResourceExhausted
from control_plane.core.spiffe_id import SpiffeId

ROOT = Path(__file__).parents[3]
SHOP = "spiffe://gatehouse.test/ns/shop/sa/"
PAYMENTS = SpiffeId.parse(SHOP + "payments")


def starter(extra: str = "") -> PolicyBundle:
    folders = (ROOT / "rego/lib", ROOT / "rego/starter")
    files = {path.name: path.read_text() for each in folders for path in each.rglob("*.rego")}
    inventory = (ROOT / "deploy/demo/inventory.yaml").read_text()
    return PolicyBundle(1, 3, "sha256:x", 0, files | ({"extra.rego": extra} if extra else {}), inventory)


def test_the_starter_policy_for_one_workload() -> None:
    found = asyncio.run(compile_for(starter(), {PAYMENTS, SpiffeId.parse(SHOP + "nobody")}))
    assert list(found) == [PAYMENTS]
    policy = found[PAYMENTS]
    assert policy.workload == "shop/payments"
    names = ["gatehouse.deny", "gatehouse.segmentation", "gatehouse.allow"]
    assert [one["name"] for one in policy.http_filters] == names
    assert policy.lines["authz-http-deny-0000"] == ("authz.rego:56",)
    assert not policy.custom


def test_the_same_policy_judges_requests() -> None:
    judge = judge_of(starter())
    request = {"source": {"spiffe_id": SHOP + "frontend"}, "destination": {"port": 8080}}
    judged = judge.judge("shop/payments", {**request, "request": {"method": "GET", "path": "/v1/charges"}})
    assert judged.allowed
    assert not judge.judge("shop/payments", request).allowed


def test_rego_that_does_not_compile_is_refused_with_the_line() -> None:
    with pytest.raises(FailedPrecondition, match=r"(?s)policy version 3: .*extra\.rego:3"):
        asyncio.run(compile_for(starter("package x\n\nallow if inptu.request\n"), {PAYMENTS}))


def test_a_compiler_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "TIMEOUT_SECONDS", 0.05)
    with pytest.raises(ResourceExhausted, match="not done after"):
        asyncio.run(compile_for(starter(), {PAYMENTS}))
