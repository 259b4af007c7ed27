"""Which running requests are ended at a change, from what Envoy reports of them: all but their headers."""

from __future__ import annotations

import asyncio
import dataclasses
import types
from collections.abc import AsyncIterator
from typing import Any

import pytest
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2

from agent.enforcement.bundle import PolicyBundle
from agent.enforcement.compiler import judge_of
from agent.enforcement.ports import Enforcement, Ruling
from agent.envoy.running import RunningRequests
from control_plane.core.spiffe_id import SpiffeId
from control_plane.runtime.clock import FakeClock

WEB, PAY = (
    SpiffeId.parse("spiffe://shop.test/ns/shop/sa/web"),
    SpiffeId.parse("spiffe://shop.test/ns/shop/sa/pay"),
)
ELSE = SpiffeId.parse("spiffe://shop.test/ns/shop/sa/else")

INVENTORY = """
mesh: {trust_domain: shop.test}
workloads:
- {name: web, namespace: shop, service_account: web, labels: {app: web}, mode: sidecar}
- {name: pay, namespace: shop, service_account: pay, labels: {app: pay}, mode: sidecar}
"""
BY_HEADER = 'allow if { input.request.headers["x-team"] == "shop" }'
BY_NO_HEADER = 'allow if { input.source.spiffe_id == "spiffe://shop.test/ns/shop/sa/web" }'
DENIED_BY_HEADER = BY_NO_HEADER + '\ndeny if { input.request.headers["x-team"] == "lab" }'
# The evaluator is asked for what isn't specialised, and takes the whole input.
DENIED_BY_ALL_HEADERS = (
    BY_NO_HEADER + '\ndeny if { count([1 | some v in input.request.headers; v == "lab"]) > 0 }'
)


def judge(rules: str) -> Any:
    text = f"package gatehouse.authz\n\nimport rego.v1\n\n{rules}\n"
    return judge_of(PolicyBundle(1, 1, "", 0, {"authz.rego": text}, INVENTORY))


class Node:
    """The agent's part that hears of running requests, with what is enforced by a test."""

    def __init__(self, policy: Any) -> None:
        self.clock = FakeClock()
        self.current = Enforcement()
        self.drained: list[tuple[SpiffeId, int]] = []
        self.policy = policy
        self.rules = judge(BY_NO_HEADER)
        entries = [types.SimpleNamespace(spiffe_id=PAY)]
        fakes: Any = types.SimpleNamespace(
            match=lambda _selectors: entries, of=self._session, drain_port=self._drain, selectors=frozenset()
        )
        self.fakes = fakes
        self.reports = RunningRequests(fakes, fakes, self, self, fakes, self.clock)  # type: ignore[arg-type]

    async def _session(self, _peer: object) -> Any:
        return self.fakes

    def _drain(self, spiffe_id: SpiffeId, port: int) -> int:
        self.drained.append((spiffe_id, port))
        return 1

    def decide(self, destination: SpiffeId, request: Any) -> Ruling:
        if {*self.current.quarantined} & {destination, SpiffeId.parse(request["source"]["spiffe_id"])}:
            return Ruling(False, "cut off")
        found = self.rules.judge("shop/pay", request)
        return Ruling(found.allowed, found.reason)

    def put(self, rules: str = "", sequence: int = 1, quarantined: tuple[SpiffeId, ...] = ()) -> None:
        """Brings this into force, a while after what was before."""
        self.clock.advance(10)
        if rules:
            self.rules = judge(rules)
            self.policy = dataclasses.replace(self.policy, lines={"a": (rules,)})
        found = Enforcement(
            sequence, workloads={PAY: self.policy}, quarantined=frozenset(quarantined), settled=True
        )
        self.current = found.coming(self.current, self.clock.now().timestamp())

    def report(self, started: float) -> bool:
        """Envoy reports a request that began then; whether it is ended."""
        message = als_pb2.StreamAccessLogsMessage()
        one = message.http_logs.log_entry.add()
        common = one.common_properties
        common.access_log_type = accesslog_pb2.AccessLogType.DownstreamPeriodic
        common.start_time.FromNanoseconds(int(started * 1e9))
        common.tls_properties.local_certificate_properties.subject_alt_name.add(uri=str(PAY))
        common.tls_properties.peer_certificate_properties.subject_alt_name.add(uri=str(WEB))
        common.downstream_local_address.socket_address.port_value = 8443
        one.request.request_method = 1
        one.request.path = "/watch"

        async def sent() -> AsyncIterator[Any]:
            yield message

        async def heard() -> None:
            async for _ in self.reports.stream_access_logs(types.SimpleNamespace(peer=None), sent()):  # type: ignore[arg-type]
                raise AssertionError("there is nothing to answer")

        before = len(self.drained)
        asyncio.run(heard())
        return len(self.drained) > before

    @property
    def now(self) -> float:
        return self.clock.now().timestamp()


@pytest.fixture(name="node")
def _node(admitting: Any) -> Node:
    return Node(admitting(str(PAY), str(WEB)))


@pytest.mark.parametrize("rules", [DENIED_BY_HEADER, DENIED_BY_ALL_HEADERS])
def test_what_a_new_rule_would_deny_by_a_header_is_not_left_running(node: Node, rules: str) -> None:
    node.put()
    node.clock.advance(5)
    began = node.now
    assert not node.report(began)
    node.put(rules, sequence=2)
    assert node.report(began)
    # Once for a change; what begins after it has shown its headers to the new rules.
    assert not node.report(began)
    node.clock.advance(5)
    assert not node.report(node.now)


def test_what_a_header_allowed_goes_on_while_its_rules_stay(node: Node) -> None:
    node.put(BY_HEADER)
    node.clock.advance(5)
    began = node.now
    node.clock.advance(1)
    assert not node.report(began)
    node.put(quarantined=(ELSE,))
    assert not node.report(began)
    node.put(quarantined=(ELSE,), sequence=2)  # a version that changes other workloads
    assert not node.report(began)
    node.put(quarantined=(WEB,), sequence=2)
    assert node.report(began)


def test_a_first_request_long_after_a_change_is_not_ended(node: Node) -> None:
    node.put(BY_HEADER)
    node.clock.advance(3600)
    assert not node.report(node.now - 0.5)


def test_rules_without_headers_judge_what_runs(node: Node) -> None:
    node.put()
    node.clock.advance(5)
    began = node.now
    node.put(sequence=2)
    assert not node.report(began)
    node.put("allow if { false }", sequence=3)
    assert node.report(began)


def test_what_began_before_the_clock_was_set_back_is_judged(node: Node) -> None:
    node.put()
    node.clock.advance(5)
    began = node.now
    node.clock.jump(-600)
    node.put("allow if { false }", sequence=2)
    assert node.report(began)
