"""What Prometheus sees of a running server and agent, and that dashboard and alerts ask for what there is."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "deploy/alerts"
NAME = re.compile(r"\bgatehouse_[a-z0-9_]+")


def asked() -> dict[str, str]:
    """Every metric that the dashboard or an alert asks for, with where."""
    found = {}
    for panel in json.loads((ROOT / "deploy/grafana/gatehouse.json").read_text())["panels"]:
        for target in panel["targets"]:
            found |= dict.fromkeys(NAME.findall(target["expr"]), f"panel {panel['title']}")
    for group in yaml.safe_load((ALERTS / "gatehouse.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            found |= dict.fromkeys(NAME.findall(rule["expr"]), f"alert {rule['alert']}")
    return found


def scrape(port: int) -> dict[str, list[Any]]:
    """Samples by name."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples]
    return {name: [one for one in samples if one.name == name] for name in {one.name for one in samples}}


def three_ports(running: ModuleType, taken: int) -> int:
    """The first of three free ports in a row, without one that somebody else will want."""
    for _ in range(100):
        first = running.free_port()
        if taken in range(first, first + 3):
            continue
        try:
            for port in range(first, first + 3):
                socket.create_server(("127.0.0.1", port)).close()
        except (OSError, OverflowError):
            continue
        return int(first)
    raise AssertionError("no three free ports in a row")


def test_server_and_agent_tell_what_is_asked(running: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with running.short_folder() as folder:
        server = running.GatehouseServer(folder, extra=["--issuers", "1"])
        first = three_ports(running, server.port)
        monkeypatch.setenv("GATEHOUSE_METRICS_BIND", f"127.0.0.1:{first}")
        monkeypatch.setenv("GATEHOUSE_AGENT_METRICS_BIND", f"127.0.0.1:{first + 2}")
        agent = running.GatehouseAgent(folder)
        with running.stopping(server, agent):
            server.run()
            agent.run(f"127.0.0.1:{server.port}", running.TRUST_DOMAIN, server.bundle_file(), server.token())
            [known] = server.cli("agent", "list")["agents"]
            server.register("web", known["spiffe_id"], f"unix:uid:{os.getuid()}")

            def held() -> bool:
                return scrape(first + 2)["gatehouse_agent_svids"][0].value == 1

            running.until(held, "the SVID", log=agent.log)
            management, issuer, node = (scrape(first + offset) for offset in range(3))

            told = {**management, **issuer, **node}
            missing = {name: where for name, where in asked().items() if name not in told}
            assert not missing

            assert node["gatehouse_agent_connected"][0].value == 1
            assert node["gatehouse_agent_svid_expires_timestamp_seconds"][0].value > 1.7e9
            assert management["gatehouse_entries"][0].value == issuer["gatehouse_entries"][0].value == 1
            assert management["gatehouse_authority_expires_timestamp_seconds"][0].value > 1.7e9
            kinds = {one.labels["kind"]: one.value for one in issuer["gatehouse_svids_issued_total"]}
            assert kinds["x509"] >= 2  # the agent's own, and the workload's
            calls = {one.labels["method"]: one for one in issuer["gatehouse_rpc_total"]}
            assert calls["/spire.api.server.agent.v1.Agent/AttestAgent"].labels["code"] == "0"
            assert all(name.count("/") == 2 for name in calls)

            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"http://127.0.0.1:{first}/", timeout=10)
            with socket.create_connection(("127.0.0.1", first), timeout=20) as odd:
                odd.sendall(b"x" * 100_000)
                with_end = b"".join(iter(lambda: _received(odd), b""))
            assert with_end == b""
            assert scrape(first)["gatehouse_started"][0].value == 1


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096)
    except ConnectionResetError:
        return b""


def test_alerts_fire_in_an_incident() -> None:
    """By promtool, where there is one (Debian: package prometheus)."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on the path")
    for command in (["check", "rules", "gatehouse.yaml"], ["test", "rules", "tests.yaml"]):
        done = subprocess.run([promtool, *command], cwd=ALERTS, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried_in_the_incident_or_the_calm() -> None:
    tried = {
        one["alertname"]
        for test in yaml.safe_load((ALERTS / "tests.yaml").read_text())["tests"]
        for one in test["alert_rule_test"]
    }
    rules = yaml.safe_load((ALERTS / "gatehouse.yaml").read_text())["groups"][0]["rules"]
    assert {rule["alert"] for rule in rules} - tried == {"GatehouseSvidsOverdue", "GatehouseLedgerSlow"}
