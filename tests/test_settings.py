"""The server's settings: what is refused, with which words, and the way to a child process and back."""

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer

from agent import cli as agent_cli
from agent import settings as agent_settings
from control_plane.cli import server as server_cli
from control_plane.core.errors import InvalidInput
from control_plane.runtime.addresses import parse_bind
from control_plane.runtime.settings import load
from control_plane.settings import ServerSettings, load_settings
from control_plane.settings import written as server_written

ROOT = Path(__file__).parents[1]

GOOD = {"data_dir": "d", "trust_domain": "example.org"}


def loaded(**flags: object) -> ServerSettings:
    return load_settings(file=None, environment={}, flags=GOOD | flags)


def test_defaults() -> None:
    settings = loaded()
    assert (settings.host, settings.port) == ("0.0.0.0", 8081)
    assert settings.issuers >= 1 and settings.data_dir.is_absolute() and settings.key_passphrase is None
    assert settings.admin_socket.name == "server.sock" and settings.rest_socket.name == "api.sock"


def test_a_leaf_that_would_outlive_its_ca_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(InvalidInput, match="6 × 24 h = 144 h are needed"):
        loaded(**{"authority.ca_ttl_seconds": "100h"})
    assert loaded(**{"authority.ca_ttl_seconds": "144h"})


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"data_dir": None}, "data_dir is missing"),
        ({"trust_domain": "Example.org"}, "trust domain"),
        ({"trust_domain": ""}, "trust_domain is missing"),
        ({"bind": "8081"}, "expected host:port"),
        ({"bind": "host:99999"}, "expected host:port"),
        ({"log_level": "loud"}, "log_level"),
        ({"default_x509_svid_ttl_seconds": 5}, "at least 60 s"),
        ({"issuers": 65}, "issuers"),
        ({"api.bind": "8443"}, "expected host:port"),
        ({"api.dns_names": ["a b"]}, "DNS"),
        ({"api.subject_burst": 0}, "subject_burst"),
        ({"admin_ids": ["nonsense"]}, "spiffe://"),
        ({"trust-domian": "x"}, "trust_domain"),
        ({"data_dir": "~nobody-of-this-name/x"}, "data_dir .* no such user"),
        ({"data_dir": "a\0b"}, "data_dir .* NUL"),
        ({"x509pop.ca_bundle": "~nobody-of-this-name/x"}, "x509pop.ca_bundle .* no such user"),
    ],
)
def test_refused(flags: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        loaded(**flags)


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("[rate_limits]\nsigning_per_secnd = 1\n")
    with pytest.raises(InvalidInput, match="signing_per_second"):
        load_settings(file=file, environment={}, flags=GOOD)


def test_environment_and_flags_win_in_this_order(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('trust_domain = "a.org"\nlog_level = "debug"\n[authority]\nca_ttl_seconds = "200h"\n')
    environment = {"GATEHOUSE_TRUST_DOMAIN": "b.org", "GATEHOUSE_AGENT_SERVER": "other's", "PATH": "x"}
    settings = load_settings(
        file=file, environment=environment, flags={"data_dir": "d", "log_level": "error"}
    )
    assert str(settings.trust_domain) == "b.org" and settings.written.log_level == "error"
    assert settings.written.authority.ca_ttl_seconds == 200 * 3600


def test_a_child_process_gets_the_same_settings() -> None:
    settings = loaded(
        **{
            "authority.key_passphrase": "hush",
            "authority.constrain_uris": "false",
            "admin_ids": ["spiffe://b.org/x"],
            "bind": "[::1]:0",
            "issuers": 3,
        }
    )
    assert "hush" not in repr(settings)
    there = ServerSettings.from_json(settings.with_port(4711).to_json())
    assert there == settings.with_port(4711) and there.port == 4711 and there.host == "::1"
    assert there.written.authority.constrain_uris is False
    assert there.key_passphrase is not None and there.key_passphrase.reveal() == "hush"


def test_bind() -> None:
    assert parse_bind("[::]:1") == ("::", 1)
    assert parse_bind("127.0.0.1:0") == ("127.0.0.1", 0)


def written(tmp_path: Path, text: str) -> ServerSettings:
    path = tmp_path / "server.toml"
    path.write_text(text)
    return load_settings(file=path, environment={"GATEHOUSE_TOKEN": "secret"}, flags=GOOD)


ISSUER = '[[oidc]]\nname = "{}"\nissuer = "https://login.test"\njwks_file = "keys"\naudience = "gatehouse"\n'


def test_people_and_their_roles_reach_the_child_process(tmp_path: Path) -> None:
    settings = written(
        tmp_path,
        '[roles]\ngrants = ["login:ada author spiffe://example.org/ns/shop"]\n' + ISSUER.format("login"),
    )
    [grant] = settings.grants
    assert (grant.subject, str(grant.role), grant.scope) == (
        "login:ada", "author", "spiffe://example.org/ns/shop",
    )  # fmt: skip
    again = ServerSettings.from_json(settings.to_json())
    assert again.grants == settings.grants and again.written.oidc == settings.written.oidc
    assert again.written.roles.local_administrators


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[roles]\ngrants = ["ada owner"]', "owner"),
        ('[roles]\ngrants = ["ada author spiffe://other.org"]', "outside of trust domain"),
        (ISSUER.format("local"), "neither local nor spiffe"),
        (ISSUER.format("spiffe"), "neither local nor spiffe"),
        ('[roles]\ngrants = ["spiffe://x author"]', "no SPIFFE ID of a workload"),
        ('[api]\nbind = "8443"', "expected host:port"),
        (ISSUER.format("a") + ISSUER.format("a"), "expected different ones"),
        (ISSUER.format("A b"), "expected different ones"),
        ('[[oidc]]\nname = "a"', "issuer is required"),
    ],
)
def test_wrong_people_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        written(tmp_path, text)


@pytest.mark.parametrize(
    ("heading", "schema", "command", "elsewhere"),
    [
        ("## Server", server_written.WrittenSettings, server_cli.app, {"oidc", "vault"}),
        ("## Agent", agent_settings.WrittenSettings, agent_cli.app, set()),
    ],
)
def test_the_settings_that_are_documented_are_all_and_have_their_defaults(
    tmp_path: Path, heading: str, schema: Any, command: typer.Typer, elsewhere: set[str]
) -> None:
    document = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    block = document.partition(heading)[2].partition("```toml\n")[2].partition("```")[0]
    file = tmp_path / "settings.toml"
    file.write_text(block, encoding="utf-8")
    assert load(schema, file=file) == schema()
    assert _keys(tomllib.loads(block)) == {key for key in _fields(schema) if key[0] not in elsewhere}
    group: Any = typer.main.get_command(command)
    run = group.commands.get("run", group) if hasattr(group, "commands") else group
    flags = {flag for parameter in run.params for flag in parameter.opts}
    assert set(re.findall(r"# (--[a-z0-9-]+)", block)) <= flags


def _keys(table: dict[str, Any], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for name, value in table.items():
        where = (*path, name)
        found |= _keys(value, where) if isinstance(value, dict) else {where}
    return found


def _fields(schema: Any, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    hints = get_type_hints(schema)
    for each in dataclasses.fields(schema):
        kind, where = hints[each.name], (*path, each.name)
        found |= _fields(kind, where) if dataclasses.is_dataclass(kind) else {where}
    return found
