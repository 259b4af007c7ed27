"""Our agent against an unmodified spire-server: it polls, since that server pushes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agent.storage import PAUSE_SECONDS, SETTLE_SECONDS

pytestmark = [pytest.mark.peers, pytest.mark.xdist_group("spire-server")]


@pytest.fixture(scope="module")
def spire_server(running: ModuleType, folder: Path, peer: Callable[[str], Path]) -> Iterator[Any]:
    """spire-server with its limits off."""
    process = running.SpireServer(folder, peer("spire-server"))
    with running.stopping(process):
        yield process.run()


@pytest.fixture(scope="module")
def our_agent(running: ModuleType, folder: Path, spire_server: Any) -> Iterator[tuple[Any, str]]:
    """Our agent and the SPIFFE ID that spire-server gave it."""
    token = spire_server.token()
    process = running.GatehouseAgent(folder)
    with running.stopping(process):
        process.run(
            f"127.0.0.1:{spire_server.port}", spire_server.trust_domain, spire_server.bundle_file(), token
        )
        yield process, f"spiffe://{spire_server.trust_domain}/spire/agent/join_token/{token}"


def test_agent_attests(spire_server: Any, our_agent: tuple[Any, str]) -> None:
    listed = spire_server.cli("agent", "list")["agents"]
    assert [each["attestation_type"] for each in listed] == ["join_token"]


def test_workload_gets_x509_and_jwt(
    running: ModuleType, spire_server: Any, our_agent: tuple[Any, str], workload: Callable[[str], Path]
) -> None:
    agent, agent_id = our_agent
    program = workload("web")
    spire_server.register("web", agent_id, f"unix:path:{program.resolve()}")

    def fetch() -> list[dict[str, Any]]:
        command = [program, "x509", "-socket", agent.api, "-timeout", "2s"]
        return list(running.lines(running.run(command, check=False)))

    told = running.until(fetch, "the entry to reach our agent by polling", log=agent.log)[0]
    assert [each["spiffe_id"] for each in told["identities"]] == [f"spiffe://{spire_server.trust_domain}/web"]
    jwt = running.lines(running.run([program, "jwt", "-socket", agent.api, "-audience", "bank"]))[0]
    assert jwt["validated_here"] == jwt["validated_there"] == f"spiffe://{spire_server.trust_domain}/web"


def test_agent_restarts_from_its_cache(
    running: ModuleType, spire_server: Any, our_agent: tuple[Any, str], workload: Callable[[str], Path]
) -> None:
    """A join token is used once; after a crash the agent goes on with what it keeps."""
    agent, _ = our_agent
    time.sleep(
        PAUSE_SECONDS + SETTLE_SECONDS + 1
    )  # so long may what the workload has be newer than the cache
    agent.kill()
    agent.run(f"127.0.0.1:{spire_server.port}", spire_server.trust_domain, spire_server.bundle_file())
    told = running.lines(running.run([workload("web"), "x509", "-socket", agent.api], check=False))
    assert told, f"refused after the restart; the agent said:\n{running.tail(agent.log)}"
    assert [each["spiffe_id"] for each in told[0]["identities"]] == [
        f"spiffe://{spire_server.trust_domain}/web"
    ]
