"""go-spiffe's own sources against our agent: what most workloads in the world use."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = [pytest.mark.peers, pytest.mark.xdist_group("go-spiffe")]

Workload = Callable[[str], Path]


@pytest.fixture(scope="module")
def shop(running: ModuleType, server: Any, agent: Any, workload: Workload) -> Iterator[dict[str, str]]:
    """Two registered workloads: name → SPIFFE ID."""
    parent = f"spiffe://{server.trust_domain}/node/one"
    for name in ("shop", "bank"):
        server.register(name, parent, f"unix:path:{workload(name).resolve()}")
    listing = ("agent.cli", "list", "--data-dir", agent.data, "--output", "json")
    running.until(
        lambda: all(f"/{name}" in running.command_line(*listing)[1] for name in ("shop", "bank")),
        "the agent to hold both identities",
    )
    yield {name: f"spiffe://{server.trust_domain}/{name}" for name in ("shop", "bank")}


def test_x509_context_has_the_identity_and_the_bundle(
    running: ModuleType, agent: Any, workload: Workload, shop: dict[str, str], server: Any
) -> None:
    told = running.lines(running.run([workload("shop"), "x509", "-socket", agent.api]))[0]
    assert [each["spiffe_id"] for each in told["identities"]] == [shop["shop"]]
    assert told["identities"][0]["chain_length"] == 2, "leaf and intermediate, without the root"
    assert told["bundles"] == {server.trust_domain: 1}


def test_jwt_source_fetches_and_both_sides_validate(
    running: ModuleType, agent: Any, workload: Workload, shop: dict[str, str]
) -> None:
    command = [workload("shop"), "jwt", "-socket", agent.api, "-audience", "bank"]
    told = running.lines(running.run(command))[0]
    assert told["spiffe_id"] == told["validated_here"] == told["validated_there"] == shop["shop"]
    assert told["audience"] == ["bank"]
    assert told["other_audience_refused"] is True


def test_bundles_of_both_kinds(
    running: ModuleType, agent: Any, workload: Workload, shop: dict[str, str], server: Any
) -> None:
    told = running.lines(running.run([workload("shop"), "bundles", "-socket", agent.api]))[0]
    assert told["x509"] == {server.trust_domain: 1}
    assert told["jwt"][server.trust_domain] >= 1


def test_mutual_tls_both_ways(
    running: ModuleType, agent: Any, workload: Workload, shop: dict[str, str]
) -> None:
    for callee, caller in (("bank", "shop"), ("shop", "bank")):
        greeting, served = _exchange(running, agent, workload, shop, callee, caller, expect=shop[callee])
        assert greeting["peer"] == shop[callee]
        assert served["peer"] == shop[caller]


def test_mutual_tls_refuses_another_identity(
    running: ModuleType, agent: Any, workload: Workload, shop: dict[str, str]
) -> None:
    wrong = shop["bank"] + "/other"
    with pytest.raises(AssertionError, match="unexpected ID"):
        _exchange(running, agent, workload, shop, "bank", "shop", expect=wrong)


def test_unregistered_program_has_no_identity(agent: Any, workload: Workload) -> None:
    command = [str(workload("stranger")), "x509", "-socket", agent.api, "-timeout", "5s"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert refused.returncode != 0
    assert "PermissionDenied" in refused.stderr


def test_watcher_sees_a_new_entry_within_a_second(
    running: ModuleType, server: Any, agent: Any, workload: Workload, shop: dict[str, str]
) -> None:
    command = [str(workload("shop")), "watch", "-socket", agent.api, "-count", "2", "-timeout", "30s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        first = json.loads(watching.stdout.readline())
        assert len(first["identities"]) == 1
        parent = f"spiffe://{server.trust_domain}/node/one"
        entry = server.register("shop/till", parent, f"unix:path:{workload('shop').resolve()}", hint="till")
        created = time.time()
        second = json.loads(watching.stdout.readline())
        arrived = time.time()
    assert {each["spiffe_id"] for each in second["identities"]} == {shop["shop"], shop["shop"] + "/till"}
    assert arrived - created < 1.0
    server.cli("entry", "delete", "--entry-id", entry)


def _exchange(
    running: ModuleType,
    agent: Any,
    workload: Workload,
    shop: dict[str, str],
    callee: str,
    caller: str,
    *,
    expect: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One greeting over mutual TLS: what the caller saw, what the callee saw."""
    serving = [str(workload(callee)), "serve", "-socket", agent.api, "-authorize", shop[caller]]
    with subprocess.Popen(serving, stdout=subprocess.PIPE, text=True) as listener:
        try:
            assert listener.stdout is not None
            address = json.loads(listener.stdout.readline())["listening"]
            calling = [
                workload(caller),
                "call",
                "-socket",
                agent.api,
                "-address",
                address,
                "-authorize",
                expect,
            ]
            greeting = running.lines(running.run(calling))[0]
            return greeting, json.loads(listener.stdout.readline())
        finally:
            listener.terminate()
