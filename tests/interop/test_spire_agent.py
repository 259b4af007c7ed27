"""An unmodified spire-agent against our server: attestation, sync, issue, renewal of what it serves, ban."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = [pytest.mark.peers, pytest.mark.xdist_group("spire-agent")]


@pytest.fixture(scope="module")
def spire_agent(running: ModuleType, folder: Path, server: Any, peer: Callable[[str], Path]) -> Iterator[Any]:
    """spire-agent, attested by a join token."""
    process = running.SpireAgent(folder, peer("spire-agent"))
    token = server.cli("token", "generate", "--spiffe-id", f"spiffe://{server.trust_domain}/node/spire")[
        "token"
    ]
    with running.stopping(process):
        yield process.run(server.port, server.trust_domain, server.bundle_file(), attestor=token)


def test_agent_is_listed_with_its_version(spire_agent: Any, server: Any) -> None:
    agents = server.cli("agent", "list")["agents"]
    assert [each["attestation_type"] for each in agents] == ["join_token"]
    assert agents[0]["can_reattest"] is False


def test_go_workload_gets_its_identity(
    running: ModuleType, spire_agent: Any, server: Any, workload: Callable[[str], Path]
) -> None:
    program = workload("web")
    parent = f"spiffe://{server.trust_domain}/node/spire"
    server.register("web", parent, f"unix:path:{program.resolve()}")

    def fetch() -> list[dict[str, Any]]:
        command = [program, "x509", "-socket", spire_agent.api, "-timeout", "2s"]
        return list(running.lines(running.run(command, check=False)))

    told = running.until(fetch, "the entry to reach spire-agent (it polls every 5 s)", log=spire_agent.log)[0]
    assert [each["spiffe_id"] for each in told["identities"]] == [f"spiffe://{server.trust_domain}/web"]
    jwt = running.lines(running.run([program, "jwt", "-socket", spire_agent.api, "-audience", "bank"]))[0]
    assert jwt["validated_there"] == f"spiffe://{server.trust_domain}/web"


def test_agent_command_fetches_for_itself(
    running: ModuleType, spire_agent: Any, server: Any, folder: Path
) -> None:
    """`spire-agent api fetch` is a workload like any other."""
    parent = f"spiffe://{server.trust_domain}/node/spire"
    server.register("cli", parent, f"unix:path:{spire_agent.binary.resolve()}")

    def fetch() -> str:
        command = [
            spire_agent.binary,
            "api",
            "fetch",
            "x509",
            "-socketPath",
            spire_agent.socket,
            "-output",
            "json",
        ]
        return str(running.run(command, check=False)).partition("{")[1]

    running.until(fetch, "spire-agent api fetch to get an identity", log=spire_agent.log)
    command = [spire_agent.binary, "api", "fetch", "jwt", "-audience", "a", "-socketPath", spire_agent.socket]
    assert f"spiffe://{server.trust_domain}/cli" in running.run(command)


def test_more_entries_than_one_page(
    running: ModuleType, spire_agent: Any, server: Any, folder: Path, workload: Callable[[str], Path]
) -> None:
    """Over 500 entries spire-agent asks for revisions first and then for what it lacks, page by page."""
    program = workload("many")
    selectors = [f"unix:uid:{100_000 + number}" for number in range(1200)]
    selectors[600] = f"unix:path:{program.resolve()}"
    entries = [
        {
            "spiffe_id": f"spiffe://{server.trust_domain}/many/{number}",
            "parent_id": f"spiffe://{server.trust_domain}/node/spire",
            "selectors": [selector],
        }
        for number, selector in enumerate(selectors)
    ]
    path = folder / "many.json"
    path.write_text(json.dumps(entries))
    made = server.cli("entry", "create", "--data", str(path))["results"]
    assert len(made) == 1200

    def fetch() -> list[dict[str, Any]]:
        command = [program, "x509", "-socket", spire_agent.api, "-timeout", "2s"]
        return list(running.lines(running.run(command, check=False)))

    told = running.until(fetch, "an entry of the third page to reach spire-agent", log=spire_agent.log)[0]
    assert [each["spiffe_id"] for each in told["identities"]] == [f"spiffe://{server.trust_domain}/many/600"]


def test_banned_agent_leaves(running: ModuleType, spire_agent: Any, server: Any) -> None:
    """AGENT_BANNED in the status details makes spire-agent drop its SVID and exit."""
    agent_id = server.cli("agent", "list")["agents"][0]["spiffe_id"]
    server.cli("agent", "ban", "--spiffe-id", agent_id)
    running.until(lambda: not spire_agent.is_alive, "the banned spire-agent to exit", log=spire_agent.log)
    assert not spire_agent.is_alive


def test_x509pop(running: ModuleType, peer: Callable[[str], Path], x509pop: Any) -> None:
    """spire-agent proves possession of a key whose certificate our server's configured CA signed."""
    with running.short_folder() as place:
        ours = running.GatehouseServer(place, extra=x509pop.server_flags)
        theirs = running.SpireAgent(place, peer("spire-agent"))
        block = (
            'NodeAttestor "x509pop" { plugin_data { '
            f'private_key_path = "{x509pop.key}" certificate_path = "{x509pop.certificate}" }} }}'
        )
        with running.stopping(ours, theirs):
            ours.run()
            theirs.run(ours.port, ours.trust_domain, ours.bundle_file(), attestor=block)
            agents = ours.cli("agent", "list")["agents"]
            assert [each["attestation_type"] for each in agents] == ["x509pop"]
            assert agents[0]["spiffe_id"].endswith(f"/spire/agent/x509pop/{x509pop.fingerprint}")
            assert agents[0]["can_reattest"] is True


def test_our_agent_proves_possession_too(running: ModuleType, x509pop: Any) -> None:
    """The same certificate with our own agent; it may attest again after losing everything."""
    with running.short_folder() as place:
        ours = running.GatehouseServer(place, extra=x509pop.server_flags)
        agent = running.GatehouseAgent(place)
        flags = ("--x509pop-certificate", str(x509pop.certificate), "--x509pop-key", str(x509pop.key))
        with running.stopping(ours, agent):
            ours.run()
            agent.run(f"127.0.0.1:{ours.port}", ours.trust_domain, ours.bundle_file(), extra=flags)
            first = ours.cli("agent", "list")["agents"][0]
            assert first["spiffe_id"].endswith(f"/spire/agent/x509pop/{x509pop.fingerprint}")
            agent.kill()
            for path in agent.data.glob("*.cache"):
                path.unlink()
            agent.run(f"127.0.0.1:{ours.port}", ours.trust_domain, ours.bundle_file(), extra=flags)
            second = ours.cli("agent", "list")["agents"]
            assert [each["spiffe_id"] for each in second] == [first["spiffe_id"]]
            assert second[0]["serial"] != first["serial"]
