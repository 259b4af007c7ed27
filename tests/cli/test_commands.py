"""What each command asks of the server, and how it shows the answer."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from typer.testing import CliRunner, Result

from control_plane.cli import bundle, entry_flags
from control_plane.cli.root import app
from control_plane.proto.grpc.health.v1 import health_pb2
from control_plane.proto.spire.api.types import agent_pb2, spiffeid_pb2

Gatehouse = Callable[..., Result]
PARENT, WEB = "spiffe://cli.test/node", "spiffe://cli.test/web"


def create(gatehouse: Gatehouse, identity: str = WEB, *flags: str) -> Result:
    needed = ("--spiffe-id", identity, "--parent-id", PARENT, "--selector", "unix:uid:1")
    return gatehouse("entry", "create", *needed, *flags)


def test_entry_create_sends_every_flag(gatehouse: Gatehouse, registry: Any) -> None:
    flags = [
        "--x509-svid-ttl",
        "60",
        "--jwt-svid-ttl",
        "61",
        "--federates-with",
        "spiffe://other.test",
        "--dns",
        "a.b",
    ]
    done = create(
        gatehouse,
        WEB,
        *flags,
        "--hint",
        "h",
        "--admin",
        "--entry-expiry",
        "9",
        "--priority",
        "-7",
        "--output",
        "json",
    )
    assert done.exit_code == 0, done.output
    entry = json.loads(done.stdout)["results"][0]["entry"]
    assert entry == {
        "id": "entry-0", "spiffe_id": WEB, "parent_id": PARENT, "selectors": ["unix:uid:1"],
        "x509_svid_ttl_seconds": 60, "jwt_svid_ttl_seconds": 61, "federates_with": ["other.test"],
        "dns_names": ["a.b"], "hint": "h", "admin": True, "downstream": False, "store_svid": False,
        "expires_at": 9, "priority": -7, "created_at": 0, "revision": 0,
    }  # fmt: skip


def test_entry_that_exists_is_shown_and_fails(gatehouse: Gatehouse, registry: Any) -> None:
    create(gatehouse)
    again = create(gatehouse)
    assert again.exit_code == 1
    assert "already exists" in again.stderr
    assert "entry-0" in again.stdout


def test_node_entry_has_the_server_as_parent(gatehouse: Gatehouse, registry: Any) -> None:
    done = gatehouse("entry", "create", "--node", "--spiffe-id", WEB, "--selector", "x:y", "--output", "json")
    assert json.loads(done.stdout)["results"][0]["entry"]["parent_id"] == "spiffe://cli.test/spire/server"


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ((), "--spiffe-id"),
        (("--spiffe-id", WEB), "--selector"),
        (("--spiffe-id", WEB, "--selector", "x:y"), "--parent-id"),
        (("--spiffe-id", "spiffe://CLI.test/web", "--selector", "x:y", "--parent-id", PARENT), "--spiffe-id"),
        (("--spiffe-id", WEB, "--selector", "nonsense", "--parent-id", PARENT), "--selector"),
        (("--spiffe-id", WEB, "--selector", "x:y", "--parent-id", PARENT + "/"), "--parent-id"),
    ],
)
def test_wrong_entry_names_the_flag(gatehouse: Gatehouse, flags: tuple[str, ...], named: str) -> None:
    refused = gatehouse("entry", "create", *flags)
    assert refused.exit_code == 2
    assert named in refused.stderr


def test_entries_from_a_file_come_back_as_shown(gatehouse: Gatehouse, registry: Any, tmp_path: Path) -> None:
    for number in range(5):
        create(gatehouse, f"{WEB}/{number}", "--priority", str(number))
    shown = gatehouse("entry", "show", "--output", "json")
    assert len(json.loads(shown.stdout)["entries"]) == 5, "pages of two are joined"
    path = tmp_path / "entries.json"
    path.write_text(shown.stdout)
    registry.entries.clear()
    registry.priorities.clear()
    assert gatehouse("entry", "create", "--data", str(path)).exit_code == 0
    assert len(registry.entries) == 5
    assert list(registry.priorities.values()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "text",
    [
        '{"entries": 5}',
        "[1]",
        '[{"priority": 2147483648}]',
        '[{"spiffeid": "x"}]',
        "{",
        '[{"x509_svid_ttl_seconds": "a"}]',
    ],
)
def test_wrong_file_is_refused_whole(gatehouse: Gatehouse, registry: Any, tmp_path: Path, text: str) -> None:
    path = tmp_path / "entries.json"
    path.write_text(text)
    refused = gatehouse("entry", "create", "--data", str(path))
    assert refused.exit_code == 2
    assert "--data" in refused.stderr
    assert not registry.entries


def test_entry_show_filters_on_the_server(gatehouse: Gatehouse, registry: Any) -> None:
    gatehouse("entry", "show", "--spiffe-id", WEB, "--selector", "unix:uid:1", "--hint", "h", "--downstream")
    wanted = registry.asked[-1].filter
    assert (wanted.by_spiffe_id.path, wanted.by_hint.value, wanted.by_downstream.value) == ("/web", "h", True)
    assert wanted.by_selectors.selectors[0].value == "uid:1"


def test_entries_are_counted_and_shown_by_the_same_flags(gatehouse: Gatehouse, registry: Any) -> None:
    flags = ("--parent-id", PARENT, "--selector", "a:1", "--match-selectors-on", "exact")
    flags += ("--federates-with", "spiffe://other.test", "--match-federates-with-on", "any")
    asked = []
    for command in ("show", "count"):
        done = gatehouse("entry", command, *flags)
        assert done.exit_code == 0, done.output
        asked.append(registry.asked[-1].filter)
    shown, counted = asked
    assert shown.SerializeToString(deterministic=True) == counted.SerializeToString(deterministic=True)
    assert (counted.by_parent_id.path, counted.by_selectors.match, counted.by_federates_with.match) == (
        "/node",
        0,
        3,
    )
    assert list(counted.by_federates_with.trust_domains) == ["other.test"]
    refused = gatehouse("entry", "count", "--selector", "a:1", "--match-selectors-on", "like")
    assert refused.exit_code == 2 and "superset" in refused.stderr


@pytest.mark.parametrize(
    "command", [("entry", "create", "--data"), ("bundle", "set", "--id", "other.test", "--path")], ids=str
)
def test_a_file_without_end_is_refused_after_its_limit(
    gatehouse: Gatehouse, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """Its size, as the system tells it, is 0."""
    for module in (entry_flags, bundle):
        monkeypatch.setattr(module, "MAX_FILE_BYTES", 1000)
    refused = gatehouse(*command, "/dev/zero")
    assert refused.exit_code == 2
    assert "1000 bytes" in refused.stderr and "/dev/zero" in refused.stderr


def test_a_file_that_is_no_bundle_is_said_to_be_none(gatehouse: Gatehouse, tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("no bundle — a note")
    for form in ("pem", "spiffe"):
        refused = gatehouse("bundle", "set", "--id", "other.test", "--path", str(path), "--format", form)
        assert refused.exit_code == 2
        assert str(path) in refused.stderr and "codec" not in refused.stderr and "bundle" in refused.stderr


def test_an_unknown_key_of_an_entry_comes_with_the_nearest_right_one(
    gatehouse: Gatehouse, tmp_path: Path
) -> None:
    path = tmp_path / "entries.json"
    path.write_text('[{"x509_svid_ttl": 60}]')
    assert "x509_svid_ttl_seconds" in gatehouse("entry", "create", "--data", str(path)).stderr


def test_entry_update_needs_the_id(gatehouse: Gatehouse, registry: Any) -> None:
    needed = ("--spiffe-id", WEB, "--parent-id", PARENT, "--selector", "unix:uid:2")
    assert gatehouse("entry", "update", *needed).exit_code == 2
    assert gatehouse("entry", "update", "--entry-id", "e", *needed).exit_code == 0
    assert registry.asked[-1].request.entries[0].id == "e"
    assert dict(registry.asked[-1].priorities) == {0: 0}, "an update is of the whole entry"
    changed = gatehouse("entry", "update", "--entry-id", "e", *needed, "--priority", "3")
    assert "priority" in changed.stdout and registry.asked[-1].priorities[0] == 3
    assert gatehouse("entry", "update", "--entry-id", "e", *needed, "--priority", str(2**31)).exit_code == 2


def test_delete_and_what_is_not_there(gatehouse: Gatehouse, registry: Any) -> None:
    create(gatehouse)
    assert gatehouse("entry", "delete", "--entry-id", "entry-0").stdout == "deleted entry-0\n"
    missing = gatehouse("entry", "delete", "--entry-id", "entry-0", "--output", "json")
    assert missing.exit_code == 3
    assert json.loads(missing.stdout)["results"][0]["deleted"] is False
    create(gatehouse)
    deleted = gatehouse("entry", "delete", "--entry-id", "entry-0", "--output", "json")
    assert json.loads(deleted.stdout)["results"] == [{"id": "entry-0", "deleted": True, "error": ""}]
    absent = gatehouse("entry", "show", "--entry-id", "entry-0")
    assert absent.exit_code == 3
    assert absent.stderr.count("\n") == 1
    assert "lists all" in absent.stderr, "the server's hint reaches the person"


@pytest.mark.parametrize(("refusal", "exit_code"), [(0, 0), (5, 3), (7, 1)])
def test_what_is_not_there_to_be_changed_is_not_found(
    gatehouse: Gatehouse, registry: Any, refusal: int, exit_code: int
) -> None:
    registry.refusal = refusal
    needed = ("--spiffe-id", WEB, "--parent-id", PARENT, "--selector", "unix:uid:1")
    for command in (("entry", "update", "--entry-id", "e", *needed), ("bundle", "delete", "--id", "b.test")):
        done = gatehouse(*command)
        assert done.exit_code == exit_code, done.output


def test_a_file_that_is_not_there_is_said_without_numbers(gatehouse: Gatehouse, tmp_path: Path) -> None:
    for command in (("bundle", "set", "--id", "a.test", "--path"), ("entry", "create", "--data")):
        said = gatehouse(*command, str(tmp_path / "none")).output
        assert "No such file or directory" in said and "Errno" not in said


def test_token_goes_to_standard_output_alone(gatehouse: Gatehouse, registry: Any) -> None:
    made = gatehouse("token", "generate", "--ttl", "60", "--spiffe-id", PARENT)
    assert made.stdout == "a-token\n"
    assert (registry.asked[-1].ttl, registry.asked[-1].agent_id.path) == (60, "/node")


def agent(name: str, **fields: Any) -> agent_pb2.Agent:
    identity = spiffeid_pb2.SPIFFEID(trust_domain="cli.test", path=f"/spire/agent/{name}")
    return agent_pb2.Agent(id=identity, attestation_type="x509pop", **fields)


def test_purge_spares_banned_current_and_one_time_agents(gatehouse: Gatehouse, registry: Any) -> None:
    registry.agents = [
        agent("old", x509svid_expires_at=1, can_reattest=True),
        agent("banned", x509svid_expires_at=1, can_reattest=True, banned=True),
        agent("token", x509svid_expires_at=1),
        agent("current", x509svid_expires_at=4_000_000_000, can_reattest=True),
    ]
    tried = gatehouse("agent", "purge", "--dry-run", "--output", "json")
    assert json.loads(tried.stdout) == {"purged": [], "due": ["spiffe://cli.test/spire/agent/old"]}
    assert not registry.asked
    assert gatehouse("agent", "purge").exit_code == 0
    assert [each.id.path for each in registry.asked] == ["/spire/agent/old"]


def test_agent_list_show_ban_evict(gatehouse: Gatehouse, registry: Any) -> None:
    registry.agents = [agent("one", x509svid_expires_at=4_000_000_000, banned=True)]
    identity = "spiffe://cli.test/spire/agent/one"
    assert "banned" in gatehouse("agent", "list").stdout
    assert json.loads(gatehouse("agent", "show", "--spiffe-id", identity, "--output", "json").stdout)[
        "banned"
    ]
    assert gatehouse("agent", "ban", "--spiffe-id", identity).stdout == f"banned {identity}\n"
    assert gatehouse("agent", "evict", "--spiffe-id", identity).stdout == f"evicted {identity}\n"


def test_bundle_round(gatehouse: Gatehouse, registry: Any, tmp_path: Path) -> None:
    pem = gatehouse("bundle", "show")
    assert x509.load_pem_x509_certificate(pem.stdout.encode()).serial_number == 77
    spiffe = gatehouse("bundle", "show", "--format", "spiffe")
    assert json.loads(spiffe.stdout)["spiffe_sequence"] == 7
    for name, text in (("pem", pem.stdout), ("spiffe", spiffe.stdout)):
        path = tmp_path / name
        path.write_text(text)
        done = gatehouse(
            "bundle", "set", "--id", "spiffe://other.test", "--path", str(path), "--format", name
        )
        assert done.exit_code == 0, done.output
        assert registry.federated["other.test"].x509_authorities[0].asn1 == registry.authority
    assert "other.test" in gatehouse("bundle", "list").stdout
    wrong = gatehouse(
        "bundle", "set", "--id", "other.test", "--path", str(tmp_path / "pem"), "--format", "spiffe"
    )
    assert wrong.exit_code == 2


def test_mint_x509_keeps_the_key_to_its_owner(gatehouse: Gatehouse, registry: Any, tmp_path: Path) -> None:
    folder = tmp_path / "minted"
    identity = "spiffe://cli.test/minted"
    done = gatehouse(
        "svid", "mint", "x509", "--spiffe-id", identity, "--dns", "m.test", "--write", str(folder)
    )
    assert done.exit_code == 0, done.output
    assert {path.name for path in folder.iterdir()} == {"svid.pem", "key.pem", "bundle.pem"}
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    names = registry.asked[-1].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [identity]
    assert "PRIVATE KEY" not in done.stdout, "a key that was written is not printed as well"


def test_mint_jwt(gatehouse: Gatehouse, registry: Any) -> None:
    done = gatehouse(
        "svid", "mint", "jwt", "--spiffe-id", WEB, "--audience", "a", "--audience", "b", "--output", "json"
    )
    assert json.loads(done.stdout)["token"] == "a.b.c"
    assert json.loads(done.stdout)["audience"] == ["a", "b"]


def test_healthcheck_says_it_in_its_exit_code(gatehouse: Gatehouse, registry: Any) -> None:
    assert gatehouse("healthcheck").exit_code == 0
    registry.status = health_pb2.HealthCheckResponse.NOT_SERVING
    unwell = gatehouse("healthcheck", "--output", "json")
    assert unwell.exit_code == 1
    assert json.loads(unwell.stdout) == {"status": "not serving"}


def test_settings_are_checked_with_the_flags_of_a_start(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('[roles]\ngrants = ["spiffe://cli.test/watch viewer"]\n')

    def check(*flags: str) -> Result:
        return CliRunner().invoke(app, ["check", "config", str(file), *flags, "--output", "json"])

    refused = check()
    assert refused.exit_code == 1 and "give --trust-domain" in refused.output
    good = check("--trust-domain", "cli.test", "--data-dir", str(tmp_path / "d"))
    assert good.exit_code == 0 and json.loads(good.output)["data_dir"] == str(tmp_path / "d")
    default = check("--trust-domain", "cli.test")
    assert default.exit_code == 0 and Path(json.loads(default.output)["data_dir"]).is_absolute()
