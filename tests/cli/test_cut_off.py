"""Who is cut off, as lists of agents and entries show it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from control_plane.proto.gatehouse.server.v1.quarantine_pb2 import Quarantined
from control_plane.proto.spire.api.types import agent_pb2, spiffeid_pb2

Gatehouse = Callable[..., Result]
AGENT, WEB = "spiffe://cli.test/spire/agent/one", "spiffe://cli.test/web"
CUT = Quarantined(reason="calls what it never called", by="login:olga", quarantined_at=1_700_000_000)
SHOWN = {"reason": "calls what it never called", "by": "login:olga", "quarantined_at": 1_700_000_000}


@pytest.fixture
def attested(registry: Any) -> Any:
    """The fake registry with one agent and one entry."""
    identity = spiffeid_pb2.SPIFFEID(trust_domain="cli.test", path="/spire/agent/one")
    registry.agents = [
        agent_pb2.Agent(id=identity, attestation_type="x509pop", x509svid_expires_at=4_000_000_000)
    ]
    return registry


def test_an_agent_that_is_cut_off_is_not_called_active(gatehouse: Gatehouse, attested: Any) -> None:
    assert gatehouse("agent", "list").stdout.splitlines()[1].split()[-1] == "active"
    attested.quarantined[AGENT] = CUT
    listed = gatehouse("agent", "list").stdout
    assert listed.splitlines()[1].split()[-1] == "quarantined" and "active" not in listed
    shown = gatehouse("agent", "show", "--spiffe-id", AGENT).stdout
    assert "calls what it never called (by login:olga, 2023-11-14 22:13:20Z" in shown


def test_a_ban_is_said_before_a_quarantine_since_a_release_does_not_end_it(
    gatehouse: Gatehouse, attested: Any
) -> None:
    attested.quarantined[AGENT] = CUT
    attested.agents[0].banned = True
    assert gatehouse("agent", "list").stdout.splitlines()[1].split()[-2:] == ["banned,", "quarantined"]


def test_programs_are_told_of_agents_that_are_cut_off(gatehouse: Gatehouse, attested: Any) -> None:
    def agents() -> tuple[Any, Any]:
        listed = json.loads(gatehouse("agent", "list", "--output", "json").stdout)["agents"][0]
        shown = json.loads(gatehouse("agent", "show", "--spiffe-id", AGENT, "--output", "json").stdout)
        return listed["quarantined"], shown["quarantined"]

    assert agents() == (None, None)
    attested.quarantined[AGENT] = CUT
    assert agents() == (SHOWN, SHOWN)


def test_an_entry_says_that_its_identity_is_cut_off(
    gatehouse: Gatehouse, attested: Any, tmp_path: Path
) -> None:
    needed = ("--parent-id", AGENT, "--selector", "unix:uid:1")
    assert gatehouse("entry", "create", "--spiffe-id", WEB, *needed).exit_code == 0
    assert "quarantined" not in gatehouse("entry", "show").stdout
    attested.quarantined[WEB] = CUT
    told = gatehouse("entry", "show").stdout
    assert "quarantined  calls what it never called (by login:olga, 2023-11-14 22:13:20Z" in told

    printed = gatehouse("entry", "show", "--output", "json").stdout
    assert json.loads(printed)["entries"][0]["quarantined"] == SHOWN
    path = tmp_path / "entries.json"
    path.write_text(printed)
    attested.entries.clear()
    assert gatehouse("entry", "create", "--data", str(path)).exit_code == 0, "what was shown can be read"
