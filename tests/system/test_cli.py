"""The command line against a real server with a real agent: the stories that operators live through."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.xdist_group("cli-stories")


@pytest.fixture(scope="module")
def folder(running: ModuleType) -> Iterator[Path]:
    with running.short_folder() as path:
        yield path


@pytest.fixture(scope="module")
def server(running: ModuleType, folder: Path) -> Iterator[Any]:
    process = running.GatehouseServer(folder, extra=("--issuers", "1"))
    with running.stopping(process):
        yield process.run()


@pytest.fixture(scope="module")
def agent(running: ModuleType, folder: Path, server: Any) -> Iterator[Any]:
    """An agent as `node/one`, and this very user registered as `me`."""
    node = f"spiffe://{server.trust_domain}/node/one"
    token = server.cli("token", "generate", "--spiffe-id", node)["token"]
    process = running.GatehouseAgent(folder)
    with running.stopping(process):
        process.run(f"127.0.0.1:{server.port}", server.trust_domain, server.bundle_file(), token)
        server.register("me", node, f"unix:uid:{os.getuid()}")
        running.until(lambda: svid(running, process), "the first identity", log=process.log)
        yield process


def svid(running: ModuleType, agent: Any) -> dict[str, Any] | None:
    """What this process gets from the agent, if anything."""
    command = [
        running.BIN / "gatehouse-agent",
        "api",
        "fetch",
        "x509",
        "--data-dir",
        agent.data,
        "--output",
        "json",
    ]
    said = running.run(command, check=False)
    answer = json.loads(said) if said.startswith("{") else {}
    return answer["svids"][0] if answer.get("svids") else None


def test_rotation_by_hand_renews_what_the_old_authority_signed(
    running: ModuleType, server: Any, agent: Any
) -> None:
    def authorities() -> dict[str, list[str]]:
        listed = server.cli("authority", "x509", "show")["authorities"]
        found: dict[str, list[str]] = {}
        for each in listed:
            found.setdefault(each["status"].lower(), []).append(each["authority_id"])
        return found

    old = authorities()["active"][0]
    before = svid(running, agent)
    assert before is not None
    server.cli("authority", "x509", "prepare")
    new = authorities()["prepared"][0]
    assert len(server.cli("bundle", "show")["x509_authorities"]) == 2, "published before it signs"
    server.cli("authority", "x509", "activate", "--authority-id", new)
    assert authorities() == {"active": [new], "old": [old]}
    server.cli("authority", "x509", "taint", "--authority-id", old)

    def renewed() -> bool:
        now = svid(running, agent)
        return now is not None and now["serial"] != before["serial"]

    running.until(renewed, "the tainted authority's certificates to be replaced", seconds=30, log=agent.log)
    server.cli("authority", "x509", "revoke", "--authority-id", old)
    assert [each["subject_key_id"] for each in server.cli("bundle", "show")["x509_authorities"]] == [new]
    running.until(lambda: svid(running, agent), "an identity after the old authority is gone", log=agent.log)


def test_what_was_given_is_in_the_ledger(running: ModuleType, server: Any, agent: Any) -> None:
    given = svid(running, agent)
    assert given is not None
    listed = server.cli("ledger", "list", "--spiffe-id", given["spiffe_id"])["records"]
    record = next(each for each in listed if given["serial"] in json.dumps(each))
    assert record["issuer"].startswith("serialNumber="), "names, not object identifiers"
    assert server.cli("ledger", "show", record["id"])["spiffe_id"] == given["spiffe_id"]


def test_explain_names_what_is_missing(server: Any, agent: Any) -> None:
    node = f"spiffe://{server.trust_domain}/node/one"
    server.register("pair", node, "unix:uid:77", "unix:gid:88")
    told = server.cli("explain", "--selector", "unix:uid:77", "--parent-id", node, check=False)
    assert told["matches"] == []
    near = {each["spiffe_id"]: each["missing"] for each in told["near"]}
    assert near[f"spiffe://{server.trust_domain}/pair"] == ["unix:gid:88"]


def test_agent_explains_this_process(running: ModuleType, server: Any, agent: Any) -> None:
    command = [
        running.BIN / "gatehouse-agent",
        "explain",
        "--pid",
        str(os.getpid()),
        "--data-dir",
        agent.data,
    ]
    told = running.run(command)
    assert f"spiffe://{server.trust_domain}/me" in told
    assert f"unix:uid:{os.getuid()}" in told


def test_human_answers_are_complete_sentences_or_tables(running: ModuleType, server: Any, agent: Any) -> None:
    def said(*arguments: str) -> str:
        return str(running.run([running.BIN / "gatehouse", *arguments, "--data-dir", server.data]))

    assert said("healthcheck") == "the server is serving\n"
    assert "join_token" in said("agent", "list")
    assert f"spiffe://{server.trust_domain}/me" in said("entry", "show")
    assert said("bundle", "show").startswith("-----BEGIN CERTIFICATE-----")
    assert "active" in said("authority", "jwt", "show")
    assert "x509" in said("ledger", "list")
    token = said(
        "svid", "mint", "jwt", "--spiffe-id", f"spiffe://{server.trust_domain}/me", "--audience", "a"
    )
    assert token.count(".") == 2


def test_second_server_in_the_same_folder_is_refused(running: ModuleType, server: Any) -> None:
    command = [
        running.BIN / "gatehouse",
        "server",
        "run",
        "--data-dir",
        server.data,
        "--trust-domain",
        "other.test",
    ]
    refused = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert refused.stderr.startswith("gatehouse: ")
    assert server.cli("healthcheck")["status"] == "serving"


def test_banned_agent_serves_nobody(running: ModuleType, server: Any, agent: Any) -> None:
    agent_id = server.cli("agent", "list")["agents"][0]["spiffe_id"]
    server.cli("agent", "ban", "--spiffe-id", agent_id)
    running.until(lambda: not agent.is_alive, "the banned agent to end", seconds=15, log=agent.log)
    assert svid(running, agent) is None
    assert not list(agent.data.glob("*.cache")), "a banned agent keeps nothing"
