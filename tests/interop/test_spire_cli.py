"""The unmodified `spire-server` command line against our admin socket."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography import x509

pytestmark = [pytest.mark.peers, pytest.mark.xdist_group("spire-cli")]

Spire = Callable[..., Any]


@pytest.fixture(scope="module")
def spire(running: ModuleType, server: Any, peer: Callable[[str], Path]) -> Spire:
    """Runs one command of spire-server against our socket; its JSON answer, or its text."""

    def call(*arguments: str, text: bool = False) -> Any:
        flags = ["-socketPath", server.socket] + ([] if text else ["-output", "json"])
        said = running.run([peer("spire-server"), *arguments, *flags])
        return said if text else json.loads(said)

    return call


def test_healthcheck(spire: Spire) -> None:
    assert "healthy" in spire("healthcheck", text=True)


def test_entry_round(spire: Spire, server: Any) -> None:
    parent, identity = f"spiffe://{server.trust_domain}/host", f"spiffe://{server.trust_domain}/web"
    wanted = [
        "-parentID",
        parent,
        "-spiffeID",
        identity,
        "-selector",
        "unix:uid:1000",
        "-selector",
        "unix:gid:5",
    ]
    made = spire("entry", "create", *wanted, "-dns", "web.test", "-x509SVIDTTL", "7200", "-hint", "front")
    entry = made["results"][0]["entry"]
    assert entry["spiffe_id"] == {"trust_domain": server.trust_domain, "path": "/web"}
    assert (entry["x509_svid_ttl"], entry["hint"], entry["dns_names"]) == (7200, "front", ["web.test"])
    shown = spire("entry", "show", "-spiffeID", identity)
    assert [each["id"] for each in shown["entries"]] == [entry["id"]]
    assert spire("entry", "count")["count"] == len(spire("entry", "show")["entries"])
    changed = spire("entry", "update", "-entryID", entry["id"], *wanted, "-hint", "back")
    assert changed["results"][0]["entry"]["hint"] == "back"
    assert int(changed["results"][0]["entry"]["revision_number"]) > int(entry["revision_number"])
    spire("entry", "delete", "-entryID", entry["id"])
    assert spire("entry", "show", "-spiffeID", identity)["entries"] == []


def test_an_entry_of_a_nested_server_is_shown_unasked(spire: Spire, server: Any) -> None:
    """The command line sends `by_downstream: false` with every question that names no entry."""
    parent, identity = f"spiffe://{server.trust_domain}/host", f"spiffe://{server.trust_domain}/nested"
    flags = ["-parentID", parent, "-spiffeID", identity, "-selector", "unix:uid:7", "-downstream"]
    made = spire("entry", "create", *flags)["results"][0]["entry"]
    assert [each["id"] for each in spire("entry", "show", "-spiffeID", identity)["entries"]] == [made["id"]]
    assert [each["id"] for each in spire("entry", "show", "-downstream")["entries"]] == [made["id"]]
    assert spire("entry", "count", "-spiffeID", identity)["count"] == 1
    spire("entry", "delete", "-entryID", made["id"])


def test_token_makes_an_alias_entry(spire: Spire, server: Any) -> None:
    alias = f"spiffe://{server.trust_domain}/fleet"
    token = spire("token", "generate", "-spiffeID", alias)["value"]
    entry = spire("entry", "show", "-spiffeID", alias)["entries"][0]
    assert entry["selectors"] == [
        {"type": "spiffe_id", "value": f"spiffe://{server.trust_domain}/spire/agent/join_token/{token}"}
    ]


def test_agent_list_and_count(spire: Spire, agent: Any, server: Any) -> None:
    listed = spire("agent", "list")["agents"]
    assert [each["attestation_type"] for each in listed] == ["join_token"]
    assert spire("agent", "count")["count"] == 1


def test_bundles(spire: Spire, server: Any, tmp_path: Path) -> None:
    pem = spire("bundle", "show", text=True)
    assert x509.load_pem_x509_certificate(pem.encode()).subject is not None
    foreign = tmp_path / "foreign.pem"
    foreign.write_text(pem)
    spire("bundle", "set", "-id", "spiffe://other.test", "-path", str(foreign), text=True)
    assert spire("bundle", "list", "-id", "spiffe://other.test")["trust_domain"] == "other.test"
    spire("bundle", "delete", "-id", "spiffe://other.test", text=True)


def test_mint_x509(spire: Spire, server: Any, tmp_path: Path) -> None:
    identity = f"spiffe://{server.trust_domain}/minted"
    spire("x509", "mint", "-spiffeID", identity, "-dns", "minted.test", "-write", str(tmp_path), text=True)
    leaf = x509.load_pem_x509_certificates((tmp_path / "svid.pem").read_bytes())[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [identity]
    assert names.get_values_for_type(x509.DNSName) == ["minted.test"]
    serial = f"{leaf.serial_number:x}"
    records = server.cli("ledger", "list", "--spiffe-id", identity)["records"]
    assert serial in json.dumps(records), "what was minted is in the ledger"


def test_mint_jwt(spire: Spire, server: Any) -> None:
    identity = f"spiffe://{server.trust_domain}/minted"
    token = spire("jwt", "mint", "-spiffeID", identity, "-audience", "bank", text=True).strip()
    assert token.count(".") == 2
