"""The `spiffe` package (py-spiffe) as a workload; the foreign client that is always there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.xdist_group("py-spiffe")

# Runs in a process of its own: its generated messages have the names of ours.
PROGRAM = """
import json, sys, threading
from spiffe import JwtSource, WorkloadApiClient, X509Source

address, changes = sys.argv[1], int(sys.argv[2])
with X509Source(socket_path=address, timeout_in_seconds=20) as source:
    leaf = source.svid.leaf
    print(json.dumps({"x509": str(source.svid.spiffe_id), "chain": len(source.svid.cert_chain),
                      "bundles": sorted(str(each.trust_domain) for each in source.bundles)}), flush=True)
    if changes:
        changed = threading.Event()
        source.subscribe_for_updates(changed.set)
        print(json.dumps({"waiting": True}), flush=True)
        assert changed.wait(20)
        print(json.dumps({"x509": str(source.svid.spiffe_id)}), flush=True)
with JwtSource(socket_path=address, timeout_in_seconds=20) as source:
    svid = source.fetch_svid(audience={"bank"})
    print(json.dumps({"jwt": str(svid.spiffe_id), "audience": sorted(svid.audience)}), flush=True)
with WorkloadApiClient(address) as client:
    told = client.validate_jwt_svid(svid.token, "bank")
    print(json.dumps({"validated": str(told.spiffe_id)}), flush=True)
"""


@pytest.fixture(scope="module")
def identity(server: Any, agent: Any, my_uid: str) -> str:
    """Everything that runs as this user is `app`."""
    server.register("app", f"spiffe://{server.trust_domain}/node/one", my_uid)
    return f"spiffe://{server.trust_domain}/app"


def test_sources_of_both_kinds(
    running: ModuleType, agent: Any, identity: str, tmp_path: Path, server: Any
) -> None:
    program = tmp_path / "workload.py"
    program.write_text(PROGRAM)
    told = running.lines(running.run([sys.executable, program, agent.api, "0"]))
    assert told[0] == {"x509": identity, "chain": 2, "bundles": [server.trust_domain]}
    assert told[1] == {"jwt": identity, "audience": ["bank"]}
    assert told[2] == {"validated": identity}


def test_source_follows_a_change(
    running: ModuleType, server: Any, agent: Any, identity: str, tmp_path: Path
) -> None:
    program = tmp_path / "workload.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), agent.api, "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert "waiting" in process.stdout.readline()
        entry = server.register(
            "second", f"spiffe://{server.trust_domain}/node/one", "unix:uid:0", hint="second"
        )
        assert identity in process.stdout.readline(), "the older entry stays the default"
        process.stdout.read()
        assert process.wait(30) == 0
    server.cli("entry", "delete", "--entry-id", entry)
