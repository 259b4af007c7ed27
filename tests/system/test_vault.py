"""A whole server whose leaves a Vault signs: sealed, killed, frozen and back, and nobody is left without.

Over the real server where `make peers` has built it, else over the strict fake, which is held against it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from real_vault import ROOT_TOKEN, Api, RealVault, Server
from vault_server import FakeVault

from control_plane.clients.vault.roles import role_fields
from control_plane.core.spiffe_id import TrustDomain

DAY = 86400
pytestmark = pytest.mark.timeout(240)  # starts of processes beside many others


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


@pytest.fixture
def vault() -> Iterator[Away]:
    with contextlib.ExitStack() as stack:
        program = load("interop/peers.py").find("vault")
        if program is None:
            fake = stack.enter_context(FakeVault())
            made = Away(Api(fake.url), fake, None)
        else:
            real = stack.enter_context(RealVault(program, dev=False))
            made = Away(real.api, None, real)
        made.role()
        yield made


def load(path: str) -> ModuleType:
    """A file below `tests/`, which is no package."""
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, Path(__file__).resolve().parents[1] / path)
    assert spec is not None and spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


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
    """The JSON answer of one command."""
    return server.cli(*arguments, check=check)


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

            vault.unseal()
            running.until(signs(server, "vault"), "Vault to sign again", log=server.log)
            assert mint(server, "back")["mark"] == ""

            vault.freeze()
            try:
                assert mint(server, "frozen")["mark"] == "standby"
            finally:
                vault.thaw()


def test_a_role_that_changes_under_us_and_a_crash_without_vault(
    running: ModuleType, monkeypatch: pytest.MonkeyPatch, vault: Away
) -> None:
    point(monkeypatch, vault, VAULT_TRANSIT_MOUNT=vault.api.mount("transit"))
    with running.short_folder() as folder:
        server = running.GatehouseServer(folder, extra=["--issuers", "1"])
        with running.stopping(server):
            server.run()
            # A role that allows more than it should changes nothing: what is asked for is what comes.
            vault.role(allow_any_name=True, allowed_uri_sans=["*"], use_csr_sans=True)
            assert mint(server, "wide")["mark"] == ""

            vault.role(ttl="30m", max_ttl="1h")
            spiffe_id = "spiffe://interop.test/short"
            cli(server, "svid", "mint", "x509", "--spiffe-id", spiffe_id, check=False)
            withheld = newest(server, "x509-withheld")
            assert "cut short" in withheld["reason"] and withheld["spiffe_id"] == spiffe_id
            assert mint(server, "short")["mark"] == "standby"
            vault.role()
            running.until(signs(server, "vault"), "Vault with its role again", log=server.log)

            vault.seal()
            server.kill()
            server.run()
            assert mint(server, "killed")["mark"] == "standby", "it starts without Vault"
            missing = cli(server, "authority", "status")["vault"]["policy_keys_missing"]
            assert "Vault is sealed" in missing, "and says that the keys of policies are there"
            vault.unseal()
            running.until(
                lambda: not cli(server, "authority", "status")["vault"]["policy_keys_missing"],
                "the keys of policies to be found",
                log=server.log,
            )
