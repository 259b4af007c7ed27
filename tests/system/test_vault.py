"""A whole server whose leaves a Vault signs: sealed, killed, frozen and back, and nobody is left without.

Over the strict fake, and over the real server where `make peers` has built it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from real_vault import ROOT_TOKEN, Api, RealVault, Server
from typer.testing import CliRunner
from vault_server import FakeVault

from control_plane.cli.root import app
from control_plane.clients.vault.roles import role_fields
from control_plane.core.spiffe_id import TrustDomain

KINDS = ["fake", pytest.param("vault", marks=pytest.mark.peers)]
DAY = 86400


class Away:
    """A Vault that can be sent away, the same for both kinds."""

    def __init__(self, api: Api, fake: FakeVault | None, real: RealVault | None) -> None:
        self.api = api
        self.server = Server("fake" if fake else "vault", api, fake)
        self._fake = fake
        self._real = real
        self.mount = self.server.make_pki()

    @property
    def is_real(self) -> bool:
        return self._real is not None

    def seal(self) -> None:
        if self._fake is not None:
            self._fake.state.sealed = True
        else:
            assert self._real is not None
            self._real.seal()

    def unseal(self) -> None:
        if self._fake is not None:
            self._fake.state.sealed = False
        else:
            assert self._real is not None
            self._real.unseal()

    def freeze(self) -> None:
        if self._fake is not None:
            self._fake.faults.delay_seconds = 30
        else:
            assert self._real is not None
            self._real.pause()

    def thaw(self) -> None:
        if self._fake is not None:
            self._fake.faults.delay_seconds = 0
        else:
            assert self._real is not None
            self._real.resume()

    def role(self, **changes: Any) -> None:
        fields = role_fields(TrustDomain("interop.test"), ttl_seconds=DAY)
        self.api.write(f"{self.mount}/roles/gatehouse", **(fields | changes))


@pytest.fixture(params=KINDS)
def vault(request: pytest.FixtureRequest, peer: Callable[[str], Path]) -> Iterator[Away]:
    with contextlib.ExitStack() as stack:
        if request.param == "fake":
            fake = stack.enter_context(FakeVault())
            made = Away(Api(fake.url), fake, None)
        else:
            real = stack.enter_context(RealVault(peer("vault"), dev=False))
            made = Away(real.api, None, real)
        made.role()
        yield made


def point(monkeypatch: pytest.MonkeyPatch, vault: Away, **settings: str) -> None:
    """The server's environment."""
    given = {
        "AUTHORITY_KIND": "vault",
        "VAULT_ADDRESS": vault.api.url,
        "VAULT_TOKEN": vault.api.token or ROOT_TOKEN,
        "VAULT_PKI_MOUNT": vault.mount,
        "VAULT_TIMEOUT_SECONDS": "2",
    }
    for name, value in (given | settings).items():
        monkeypatch.setenv(f"GATEHOUSE_{name}", value)


def cli(server: Any, *arguments: str, check: bool = True) -> Any:
    """The JSON answer of one command, run in this process: a dozen starts of Python would take a minute."""
    done = CliRunner().invoke(app, [*arguments, "--data-dir", str(server.data), "--output", "json"])
    if check:
        assert done.exit_code == 0, f"{arguments}: {done.output}"
    return json.loads(done.stdout) if done.exit_code == 0 else None


def newest(server: Any, kind: str = "x509") -> dict[str, Any]:
    """The last record of a kind."""
    record: dict[str, Any] = cli(server, "ledger", "list", "--limit", "1", "--kind", kind)["records"][0]
    return record


def mint(server: Any, name: str) -> dict[str, Any]:
    """Has one leaf issued; its record in the ledger."""
    spiffe_id = f"spiffe://interop.test/{name}"
    cli(server, "svid", "mint", "x509", "--spiffe-id", spiffe_id)
    found: dict[str, Any] = cli(server, "ledger", "list", "--spiffe-id", spiffe_id, "--kind", "x509")[
        "records"
    ][0]
    return found


def signs(server: Any, who: str) -> Callable[[], bool]:
    return lambda: bool(cli(server, "authority", "status")["signer"] == who)


def test_a_server_goes_on_without_its_vault_and_comes_back(
    running: ModuleType, monkeypatch: pytest.MonkeyPatch, vault: Away
) -> None:
    point(monkeypatch, vault)
    with running.short_folder() as folder:
        server = running.GatehouseServer(folder, extra=["--issuers", "1"])
        with running.stopping(server):
            server.run()
            status = cli(server, "authority", "status")
            assert status["signer"] == "vault" and status["vault"]["health"] == "active"
            assert status["seconds_left"] > 95 * 3600
            assert mint(server, "before")["mark"] == ""
            intents = cli(server, "ledger", "list", "--kind", "x509-intent")["records"]
            assert len(intents) == len(cli(server, "ledger", "list", "--kind", "x509")["records"])

            vault.seal()
            record = mint(server, "sealed")
            assert (record["mark"], record["authority_id"]) == ("standby", status["authority_id"])
            status = cli(server, "authority", "status")
            assert status["signer"] == "standby" and "sealed" in status["vault"]["last_error"]
            assert newest(server, "authority-mark")["mark"] == "standby"

            server.kill()
            server.run()
            assert mint(server, "killed")["mark"] == "standby", "it starts without Vault"

            vault.unseal()
            running.until(signs(server, "vault"), "Vault to sign again", log=server.log)
            assert mint(server, "back")["mark"] == ""

            vault.freeze()
            try:
                assert mint(server, "frozen")["mark"] == "standby"
            finally:
                vault.thaw()


def test_a_role_that_changes_under_us(
    running: ModuleType, monkeypatch: pytest.MonkeyPatch, vault: Away
) -> None:
    point(monkeypatch, vault)
    with running.short_folder() as folder:
        server = running.GatehouseServer(folder, extra=["--issuers", "1"])
        with running.stopping(server):
            server.run()
            for changes, needle in (
                ({"max_ttl": "1h"}, "cut short"),
                ({"key_usage": ["DigitalSignature", "KeyAgreement"]}, "key usage"),
                ({"allowed_uri_sans": ["spiffe://other.test/*"]}, ""),
            ):
                vault.role(**changes)
                spiffe_id = "spiffe://interop.test/any"
                cli(server, "svid", "mint", "x509", "--spiffe-id", spiffe_id, check=False)
                running.until(signs(server, "standby"), f"the standby after {changes}", log=server.log)
                assert mint(server, "any")["mark"] == "standby"
                if needle:
                    withheld = newest(server, "x509-withheld")
                    assert needle in withheld["reason"] and withheld["spiffe_id"] == spiffe_id
                vault.role()
                running.until(signs(server, "vault"), f"Vault after {changes}", log=server.log, seconds=100)
            # A role that allows more than it should changes nothing: what is asked for is what comes.
            vault.role(
                allow_any_name=True, allowed_uri_sans=["*"], use_csr_sans=True, enforce_hostnames=False
            )
            assert mint(server, "wide")["mark"] == ""


def test_mode_intermediate_needs_vault_for_nothing_but_the_intermediate(
    running: ModuleType, monkeypatch: pytest.MonkeyPatch, vault: Away
) -> None:
    point(monkeypatch, vault, VAULT_MODE="intermediate")
    with running.short_folder() as folder:
        server = running.GatehouseServer(folder, extra=["--issuers", "1"])
        with running.stopping(server):
            server.run()
            vault.seal()
            assert mint(server, "sealed")["mark"] == ""
            status = cli(server, "authority", "status")
            assert status["signer"] == "intermediate" and status["vault"]["health"] == "sealed"
            assert status["seconds_left"] > 6.9 * DAY
