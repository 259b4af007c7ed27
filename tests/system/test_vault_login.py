"""Logging in to Vault with SVIDs: the server by its own, workloads by theirs, as docs/vault.md tells.

Policies are signed by keys in Vault's transit engine here; a real Vault holds them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
from cryptography import x509
from joserfc.jwk import ECKey
from real_vault import Api, RealVault, Server
from tls_authority import CertificateAuthority
from typer.testing import CliRunner

from control_plane.cli.root import app
from control_plane.clients.vault.roles import role_fields
from control_plane.core.errors import GatehouseError, Unavailable
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.core.svid import JwtSvid, X509Svid
from control_plane.identity.issuance import Issuer, JwtIssue
from control_plane.runtime.clock import FakeClock
from control_plane.runtime.vault_settings import LoginMethod, VaultSettings
from control_plane.settings import ServerSettings, WrittenSettings
from control_plane.wiring.vault_login import OwnLogin, common_name

DOMAIN = "interop.test"
OWN_ID = f"spiffe://{DOMAIN}/spire/server"
CART = f"spiffe://{DOMAIN}/ns/shop/sa/cart"


@pytest.fixture
def vault(peer: Callable[[str], Path], tmp_path: Path) -> Iterator[RealVault]:
    web = CertificateAuthority.make(tmp_path, "web")
    certificate, key = web.write("vault", web.issue(x509.IPAddress(ipaddress.ip_address("127.0.0.1"))))
    with RealVault(peer("vault"), tls=(certificate, key, tmp_path / "web.pem")) as started:
        yield started


def cli(server: Any, *arguments: str) -> Any:
    """The JSON answer of one command."""
    return server.cli(*arguments)


def jwt_login(api: Api, server: Any, *, policy: str, subject: str) -> str:
    """Has Vault take JWT-SVIDs of one SPIFFE ID; gives the mount."""
    shown = CliRunner().invoke(
        app, ["bundle", "show", "--format", "spiffe", "--data-dir", str(server.data), "--output", "human"]
    )
    mount, bundle = api.login("jwt"), json.loads(shown.stdout)
    keys = [
        ECKey.import_key({name: each[name] for name in ("kty", "crv", "x", "y")})
        .as_pem(private=False)
        .decode()
        for each in bundle["keys"]
        if each["use"] == "jwt-svid"
    ]
    api.write(f"auth/{mount}/config", jwt_validation_pubkeys=keys)
    api.write(
        f"auth/{mount}/role/one",
        role_type="jwt",
        user_claim="sub",
        bound_audiences=["vault"],
        bound_subject=subject,
        token_policies=[policy],
        token_ttl="10m",
    )
    return mount


@pytest.mark.peers
@pytest.mark.timeout(300)
def test_the_servers_own_svids_open_vault_and_workloads_read_their_secret(
    running: ModuleType,
    peer: Callable[[str], Path],
    short_dir: Path,
    vault: RealVault,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api = vault.api
    server = running.GatehouseServer(short_dir, extra=["--issuers", "1"])
    with running.stopping(server):
        server.run()
        transit, secrets = api.mount("transit"), api.mount("kv", options={"version": "2"})
        api.write(f"{secrets}/data/shop/cart", data={"password": "tulip"})
        reads = api.policy(f'path "{secrets}/data/shop/cart" {{ capabilities = ["read"] }}')
        signs = api.policy(f'path "{transit}/*" {{ capabilities = ["create", "read", "update", "list"] }}')

        by_jwt = jwt_login(api, server, policy=reads, subject=CART)
        token = tmp_path / "jwt"
        cli(server, "svid", "mint", "jwt", "--spiffe-id", CART, "--audience", "vault", "--write", str(token))
        workload = Workload(peer("vault"), vault, tmp_path)
        given = workload.vault("write", "-field=token", f"auth/{by_jwt}/login", "role=one", f"jwt=@{token}")
        assert (
            workload.vault("kv", "get", "-field=password", f"-mount={secrets}", "shop/cart", token=given)
            == "tulip"
        )

        other = tmp_path / "other"
        name = f"{CART}2"
        cli(server, "svid", "mint", "jwt", "--spiffe-id", name, "--audience", "vault", "--write", str(other))
        with pytest.raises(subprocess.CalledProcessError):
            workload.vault("write", f"auth/{by_jwt}/login", "role=one", f"jwt=@{other}")

        by_own = jwt_login(api, server, policy=signs, subject=OWN_ID)
        settings = {"ADDRESS": vault.url, "CA_FILE": str(tmp_path / "web.pem"), "LOGIN_ROLE": "one"}
        settings |= {"LOGIN": "jwt", "LOGIN_MOUNT": by_own}
        settings |= {"TRANSIT_MOUNT": transit, "TIMEOUT_SECONDS": "20"}
        server.stop()
        for path in (server.data / "keys").glob("policy-*"):
            path.unlink()
        for name, value in settings.items():
            monkeypatch.setenv(f"GATEHOUSE_VAULT_{name}", value)
        server.run()
        (made,) = api("LIST", f"{transit}/keys")["data"]["keys"]
        assert made.startswith("policy-") and not list((server.data / "keys").glob("policy-*"))
        # The key of the next root is made there as well; the root from before has its own here.
        cli(server, "authority", "x509", "prepare")
        kinds = [name.split("-")[0] for name in api("LIST", f"{transit}/keys")["data"]["keys"]]
        assert sorted(kinds) == ["policy", "x509"]


@pytest.mark.peers
@pytest.mark.timeout(300)
def test_the_servers_own_x509_svid_opens_vault_after_a_first_token(
    running: ModuleType,
    short_dir: Path,
    vault: RealVault,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api = vault.api
    pki = Server("vault", api).make_pki()
    api.write(f"{pki}/roles/gatehouse", **role_fields(TrustDomain(DOMAIN), ttl_seconds=24 * 3600))
    policy = api.policy(f'path "{pki}/*" {{ capabilities = ["create", "read", "update", "list"] }}')
    by_cert = api.login("cert")
    api.write(
        f"auth/{by_cert}/certs/gatehouse",
        certificate=api.read(f"{pki}/cert/ca")["certificate"],
        allowed_uri_sans=[OWN_ID],
        token_policies=[policy],
        token_ttl="10m",
    )
    first = api.make_token(policy, ttl="10m")
    settings = {"ADDRESS": vault.url, "CA_FILE": str(tmp_path / "web.pem"), "PKI_MOUNT": pki}
    settings |= {"LOGIN": "cert", "LOGIN_MOUNT": by_cert, "TOKEN": first, "TIMEOUT_SECONDS": "20"}
    monkeypatch.setenv("GATEHOUSE_AUTHORITY_KIND", "vault")
    for name, value in settings.items():
        monkeypatch.setenv(f"GATEHOUSE_VAULT_{name}", value)

    server = running.GatehouseServer(short_dir, extra=["--issuers", "1"])
    with running.stopping(server):
        server.run()
        cli(server, "svid", "mint", "x509", "--spiffe-id", CART)
        server.stop()
        # From the second start on nothing but the SVID is needed.
        api.write("auth/token/revoke", token=first)
        monkeypatch.delenv("GATEHOUSE_VAULT_TOKEN")
        server.run()
        assert cli(server, "authority", "status")["vault"]["last_error"] == ""
        cli(server, "svid", "mint", "x509", "--spiffe-id", CART)
        records = cli(server, "ledger", "list", "--spiffe-id", CART, "--kind", "x509")["records"]
        assert [each["mark"] for each in records] == ["", ""], "Vault signed both"
        logins = cli(server, "ledger", "list", "--spiffe-id", OWN_ID, "--kind", "x509")["records"]
        assert "standby" in {each["mark"] for each in logins}, "its own is signed here, and recorded"
    (entity,) = [
        each
        for each in api("LIST", "identity/entity-alias/id")["data"]["key_info"].values()
        if each["mount_path"] == f"auth/{by_cert}/"
    ]
    assert entity["name"] == f"Gatehouse server of {DOMAIN}"


class Workload:
    """Somebody with the `vault` command and an SVID."""

    def __init__(self, program: Path, vault: RealVault, home: Path) -> None:
        self._program = program
        self._environment = {
            "VAULT_ADDR": vault.url,
            "VAULT_CACERT": str(home / "web.pem"),
            "HOME": str(home),
            "PATH": os.environ["PATH"],
        }

    def vault(self, *arguments: str, token: str = "") -> str:
        environment = self._environment | ({"VAULT_TOKEN": token} if token else {})
        finished = subprocess.run(
            [str(self._program), *arguments], env=environment, capture_output=True, text=True, timeout=60
        )
        finished.check_returncode()
        return finished.stdout.strip()


class Issuing:
    """What `OwnLogin` asks of an issuer; refuses as long as `failing`."""

    failing = False
    can_issue_here = True
    count = 0

    async def issue_jwt(self, items: Sequence[JwtIssue]) -> list[JwtSvid | GatehouseError]:
        if self.failing:
            return [Unavailable("nothing signs")]
        return [JwtSvid(item.spiffe_id, str(item.spiffe_id), item.audience, 0, 300) for item in items]

    async def issue_here(self, spiffe_id: SpiffeId, csr: bytes, *, common_name: str) -> X509Svid:
        self.count += 1
        if self.failing:
            raise Unavailable("nothing signs")
        assert x509.load_der_x509_csr(csr).is_signature_valid
        chain = (f"{spiffe_id} {common_name} {self.count}".encode(),)
        return X509Svid(spiffe_id, chain, self.count, 1000, 2000, "authority")


def test_a_jwt_svid_is_had_from_a_thread_and_a_refusal_is_told(tmp_path: Path) -> None:
    vault = VaultSettings(address="https://vault.example", login=LoginMethod.JWT, login_role="one")
    written = WrittenSettings(data_dir=str(tmp_path), trust_domain=DOMAIN, vault=vault)
    login, issuing = OwnLogin(ServerSettings.parse(written), FakeClock(1000)), Issuing()
    with pytest.raises(Unavailable, match="yet"):
        login.jwt()

    async def ask() -> Secret[str]:
        login.bind(cast(Issuer, issuing))
        return await asyncio.to_thread(login.jwt)

    assert asyncio.run(ask()) == Secret(OWN_ID)
    issuing.failing = True
    with pytest.raises(Unavailable, match="nothing signs"):
        asyncio.run(ask())


def test_an_x509_svid_is_kept_for_half_of_its_life_and_longer_if_it_must(tmp_path: Path) -> None:
    vault = VaultSettings(address="https://vault.example", login=LoginMethod.CERT)
    written = WrittenSettings(data_dir=str(tmp_path), trust_domain=DOMAIN, vault=vault)
    clock, issuing = FakeClock(1000), Issuing()
    login = OwnLogin(ServerSettings.parse(written), clock)
    assert not login.is_ready

    async def test() -> None:
        def shown() -> str:
            return login.identity().chain[0].decode()

        login.bind(cast(Issuer, issuing))
        assert login.is_ready
        name = f"{OWN_ID} Gatehouse server of {DOMAIN}"
        assert [await asyncio.to_thread(shown) for _ in range(2)] == [f"{name} 1"] * 2
        clock.advance(499)
        assert await asyncio.to_thread(shown) == f"{name} 1"
        clock.advance(1)
        issuing.failing = True
        assert await asyncio.to_thread(shown) == f"{name} 1", "it serves on"
        issuing.failing = False
        assert await asyncio.to_thread(shown) == f"{name} 3"
        issuing.failing = True
        clock.advance(500)
        with pytest.raises(Unavailable, match="nothing signs"):
            await asyncio.to_thread(shown)

    asyncio.run(test())


def test_a_common_name_is_no_host_and_fits() -> None:
    for text in ("a", "example.org", "x" * 43, "x" * 44, "y" * 255):
        name = common_name(TrustDomain(text))
        assert " " in name and len(name) <= 64
    assert common_name(TrustDomain("x" * 60)) != common_name(TrustDomain("y" * 60))
