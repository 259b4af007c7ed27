"""Agents that come back together are all served under the default limits; bench/reconnect.py has 10,000."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.reconnect import server_in, storm

AGENTS = 200
MIB_EACH = 0.25  # of the server's memory, for a connection over TLS with an open stream; more would be a leak


@pytest.mark.timeout(240)
def test_agents_that_reconnect_together_are_served_and_not_banned(short_dir: Path) -> None:
    with server_in(short_dir) as (data, pid):
        seen = storm(data, pid, AGENTS, crowds=1)
    assert seen.outcome.served == AGENTS, seen.outcome.refusals
    assert seen.outcome.banned == 0
    assert seen.peak_mib - seen.before_mib < 32 + AGENTS * MIB_EACH
