"""`gatehouse check vault` and `gatehouse authority vault`, against the fake and against Vault itself."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_vault import REAL_KINDS, Api, Server, unique
from typer.testing import CliRunner, Result
from vault_server import FakeVault

from control_plane.cli.root import app

Gatehouse = Callable[..., Result]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Gatehouse:
    for name in [name for name in os.environ if name.startswith(("GATEHOUSE_", "VAULT_"))]:
        monkeypatch.delenv(name)

    def run(*arguments: str, token: str = "", answer: str = "") -> Result:
        environment = {"VAULT_TOKEN": token} if token else {}
        return CliRunner().invoke(app, list(arguments), env=environment, input=answer)

    return run


@pytest.fixture(params=["fake", *(pytest.param(kind, marks=pytest.mark.peers) for kind in REAL_KINDS)])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if request.param == "fake":
        with FakeVault() as fake:
            yield Server("fake", Api(fake.url), fake)
    else:
        yield Server(request.param, request.getfixturevalue("real_vault")(request.param).api)


@pytest.fixture
def config(server: Server, tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("root")
    file = tmp_path / "server.toml"
    file.write_text(
        f"""
        data_dir = "{tmp_path}"
        trust_domain = "td.example"
        [vault]
        address = "{server.api.url}"
        pki_mount = "{unique("pki")}"
        role = "{unique("role")}"
        token_file = "{tmp_path / "token"}"
        [authority]
        kind = "vault"
        key_passphrase = "vault:secret/gatehouse#key_passphrase"
        """
    )
    return file


def test_from_nothing_to_a_vault_that_can_be_used(command: Gatehouse, config: Path) -> None:
    before = command("check", "vault", str(config))
    assert before.exit_code == 1 and "MISSING  issuer of pki" in before.output
    assert f"gatehouse authority vault setup {config}" in before.output
    refused = command("authority", "vault", "setup", str(config), token="root", answer="n\n")
    assert "will mount the engine pki" in refused.output and "nothing was done" in refused.output
    done = command("authority", "vault", "setup", str(config), token="root", answer="y\n")
    assert done.exit_code == 0 and "done: write the role" in done.output
    again = command("authority", "vault", "setup", str(config), "--yes", token="root")
    assert "nothing to do" in again.output
    after = command("check", "vault", str(config))
    assert after.exit_code == 0 and "this Vault can be used" in after.output
    told = json.loads(command("check", "vault", str(config), "--output", "json").output)
    assert {"step": "test leaf", "is_good": True}.items() <= told[-1].items()


def test_setup_needs_a_token_and_does_nothing_unasked(command: Gatehouse, config: Path) -> None:
    without = command("authority", "vault", "setup", str(config))
    assert without.exit_code == 1 and "VAULT_TOKEN" in without.output
    told = command("authority", "vault", "setup", str(config), "--output", "json", token="root")
    answer = json.loads(told.output)
    assert answer["done"] is False and len(answer["steps"]) >= 3


def test_the_policy_is_one_that_vault_takes(command: Gatehouse, config: Path, server: Server) -> None:
    text = command("authority", "vault", "policy", str(config)).output
    assert 'path "secret/data/gatehouse"' in text
    server.api.policy(text)
    told = json.loads(command("authority", "vault", "policy", str(config), "--output", "json").output)
    assert all(each["path"] in text for each in told)


def test_where_no_certificates_are_signed_there_nothing_of_that_is_asked_for(
    command: Gatehouse, config: Path
) -> None:
    text = config.read_text().replace('kind = "vault"', "")
    config.write_text(text.replace("role = ", f'transit_mount = "{unique("transit")}"\nrole = '))
    assert "pki" not in command("authority", "vault", "policy", str(config)).output
    plan = command("authority", "vault", "setup", str(config), "--yes", token="root").output
    assert "transit" in plan and "pki" not in plan
    told = command("check", "vault", str(config)).output
    assert "this Vault can be used" in told and "issuer" not in told


def test_settings_without_a_vault_are_told(command: Gatehouse, tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text(f'data_dir = "{tmp_path}"\ntrust_domain = "td.example"\n')
    for arguments in (("check", "vault"), ("authority", "vault", "policy")):
        told = command(*arguments, str(file))
        assert told.exit_code == 1 and "has no Vault" in told.output


@pytest.mark.peers
@pytest.mark.parametrize("kind", REAL_KINDS)
def test_each_command_that_is_told_does_what_it_says(
    kind: str,
    command: Gatehouse,
    real_vault: Callable[[str], object],
    peer: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    api = real_vault(kind).api  # type: ignore[attr-defined]
    file, mount = tmp_path / "server.toml", unique("pki")
    file.write_text(
        f'data_dir = "{tmp_path}"\ntrust_domain = "td.example"\n'
        f'[authority]\nkind = "vault"\n[vault]\naddress = "{api.url}"\npki_mount = "{mount}"\n'
        f'token = "root"\n'
        f'transit_mount = "{unique("transit")}"\n'
    )
    environment = {
        "VAULT_ADDR": api.url,
        "VAULT_TOKEN": "root",
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
    }

    def shell(line: str) -> None:
        binary = peer(kind)  # either program takes the other's commands
        line = line.replace("vault ", f"{binary} ", 1) if line.startswith("vault ") else line
        subprocess.run(line, shell=True, check=True, env=environment, capture_output=True, timeout=60)

    plan = json.loads(
        command("authority", "vault", "setup", str(file), "--output", "json", token="root").output
    )
    for step in plan["steps"]:
        if step["command"].startswith("vault "):
            shell(step["command"])
    left = json.loads(
        command("authority", "vault", "setup", str(file), "--output", "json", token="root").output
    )
    assert [step["about"].split(":")[0] for step in left["steps"] if "policy" not in step["about"]] == []
    spoilt = {"no_store": False, "allow_ip_sans": True, "key_usage": ["KeyAgreement"], "allowed_uri_sans": []}
    api("PATCH", f"{mount}/roles/gatehouse", spoilt)
    wrong = [
        each
        for each in json.loads(command("check", "vault", str(file), "--output", "json").output)
        if not each["is_good"] and each["remedy"].startswith("vault patch")
    ]
    assert len(wrong) == len(spoilt)
    for each in wrong:
        shell(each["remedy"])
    assert command("check", "vault", str(file)).exit_code == 0
