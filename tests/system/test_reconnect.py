"""Agents that come back together are all served under the default limits; bench/reconnect.py has 10,000."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.reconnect import TRUST_DOMAIN, measure, server_in
from control_plane.runtime.loop import run

AGENTS = 200
MIB_EACH = 0.25  # of the server's memory, for a connection over TLS with an open stream; more would be a leak


@pytest.mark.timeout(240)
@pytest.mark.xdist_group("chaos")
def test_agents_that_reconnect_together_are_served_and_not_banned(short_dir: Path) -> None:
    with server_in(short_dir) as (data, pid):
        address = json.loads((data / "server.json").read_text())["address"]
        port = int(address.rpartition(":")[2])
        outcome, scales = run(measure(data, port, pid, TRUST_DOMAIN, AGENTS, at_once=AGENTS))
    assert outcome.served == AGENTS, outcome.refusals
    assert outcome.banned == 0
    assert scales.peak_mib - scales.before_mib < 32 + AGENTS * MIB_EACH
