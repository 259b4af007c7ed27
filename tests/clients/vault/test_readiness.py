"""The least policy, the set-up and the check: each is held against what the other makes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from real_vault import Server, csr, unique

from control_plane.authority.ports import KeyPurpose
from control_plane.authority.vault_ports import LeafOrder
from control_plane.clients.vault.inspection import Finding, Inspection, Needs
from control_plane.clients.vault.opening import open_pki
from control_plane.clients.vault.policies import hcl, rules
from control_plane.clients.vault.preparation import Preparation, Wanted
from control_plane.clients.vault.roles import role_faults, role_fields
from control_plane.clients.vault.transit import TransitKeyManager
from control_plane.core.errors import FailedPrecondition, PermissionDenied
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.runtime.clock import SystemClock
from control_plane.runtime.vault_settings import LoginMethod, VaultSettings

DOMAIN = TrustDomain.parse("td.example")
DAY = 86_400
NEEDS = Needs(DOMAIN, DAY, 4 * DAY)


def fresh(server: Server, **changed: Any) -> tuple[VaultSettings, Wanted]:
    """Settings that name nothing that is there yet."""
    names = {"pki_mount": unique("pki"), "transit_mount": unique("transit")}
    return server.settings(**(names | changed)), Wanted(DOMAIN, DAY, policy=unique("gatehouse"))


async def set_up(server: Server, settings: VaultSettings, wanted: Wanted) -> int:
    """Plans and carries out as root; the number of steps."""
    preparation = Preparation(server.door(), settings, wanted)
    steps = await preparation.plan()
    for step in steps:
        await preparation.carry_out(step)
    return len(steps)


async def check(server: Server, settings: VaultSettings, needs: Needs = NEEDS) -> list[Finding]:
    inspection = Inspection(server.open(settings), settings, needs, SystemClock())
    return [finding async for finding in inspection.findings()]


def with_policy(server: Server, settings: VaultSettings, *policies: str) -> VaultSettings:
    import dataclasses

    return dataclasses.replace(settings, token=Secret(server.api.make_token(*policies, ttl="300s")))


async def test_what_setup_makes_check_finds_good_and_nothing_is_left_to_do(server: Server) -> None:
    settings, wanted = fresh(server)
    assert await set_up(server, settings, wanted) == 5
    assert await set_up(server, settings, wanted) == 0
    findings = await check(server, with_policy(server, settings, wanted.policy))
    assert [each for each in findings if not each.is_good or each.is_warning] == []
    assert {"test leaf", "rights of the token"} <= {each.step for each in findings}


async def test_the_least_policy_is_enough_and_no_more(server: Server) -> None:
    settings, wanted = fresh(server)
    await set_up(server, settings, wanted)
    limited = with_policy(server, settings, wanted.policy)
    door = server.open(limited)
    pki = open_pki(door, limited)
    issuer = await pki.issuer()
    spiffe_id = SpiffeId.parse("spiffe://td.example/x")
    await pki.sign_leaf(LeafOrder(csr(), spiffe_id, (), DAY, issuer.issuer_id))
    (ca, *_) = await pki.sign_intermediate(
        csr("spiffe://td.example"),
        common_name="x",
        ttl_seconds=DAY,
        uri_host="td.example",
        backdate_seconds=150,
        issuer_id=issuer.issuer_id,
    )
    await pki.revoke_certificate(ca)
    await pki.rotate_crl()
    keys = TransitKeyManager(door, settings.transit_mount, random_bytes=lambda size: b"\x07" * size)
    signer = await asyncio.to_thread(keys.create, KeyPurpose.JWT)
    assert await asyncio.to_thread(signer.sign, b"x")
    assert await asyncio.to_thread(keys.key_ids) == [signer.key_id]
    await asyncio.to_thread(keys.delete, signer.key_id)
    for method, path in (
        ("post", f"{settings.pki_mount}/roles/{settings.role}"),
        ("post", f"{settings.pki_mount}/sign-verbatim"),
        ("post", f"{settings.pki_mount}/sign/other"),
        ("post", f"{settings.pki_mount}/root/generate/internal"),
        ("post", f"sys/policies/acl/{wanted.policy}"),
        ("get", "sys/mounts"),
        ("post", f"{settings.transit_mount}/encrypt/{signer.key_id}"),
    ):
        with pytest.raises(PermissionDenied):
            await door.ask(method, path, {} if method == "post" else None, what="overreaching")


async def test_an_approle_that_setup_made_can_log_in(server: Server) -> None:
    mount = unique("approle")
    settings, wanted = fresh(
        server,
        login=LoginMethod.APPROLE,
        login_mount=mount,
        login_role="gatehouse",
        role_id="later",
        secret_id=Secret("later"),
    )
    await set_up(server, settings, wanted)
    assert await set_up(server, settings, wanted) == 0
    role_id = server.api.read(f"auth/{mount}/role/gatehouse/role-id")["role_id"]
    made = server.api.write(f"auth/{mount}/role/gatehouse/secret-id")["data"]["secret_id"]
    import dataclasses

    settings = dataclasses.replace(settings, role_id=role_id, secret_id=Secret(made))
    assert all(each.is_good and not each.is_warning for each in await check(server, settings))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("allowed_uri_sans", ["spiffe://*"]),
        ("allow_ip_sans", True),
        ("use_csr_sans", True),
        ("key_usage", ["DigitalSignature", "KeyAgreement"]),
        ("no_store", False),
        ("max_ttl", 3600),
        ("server_flag", False),
        ("require_cn", True),
    ],
)
async def test_a_role_that_was_changed_is_found_and_set_right(
    server: Server, field: str, value: object
) -> None:
    settings, wanted = fresh(server)
    await set_up(server, settings, wanted)
    fields = role_fields(DOMAIN, ttl_seconds=DAY) | {"ttl": 3600, field: value}
    server.api.write(f"{settings.pki_mount}/roles/{settings.role}", **fields)
    wrong = [each for each in await check(server, settings) if not each.is_good]
    found = next(each for each in wrong if each.step == f"role {settings.role}: {field}")
    assert found.remedy.startswith(f"vault patch {settings.pki_mount}/roles/{settings.role} {field}=")
    assert await set_up(server, settings, wanted) == 1
    assert all(each.is_good for each in await check(server, settings))


async def test_domains_of_a_role_are_kept(server: Server) -> None:
    import dataclasses

    settings, wanted = fresh(server)
    await set_up(server, settings, dataclasses.replace(wanted, dns_domains=("svc.example",)))
    assert await set_up(server, settings, wanted) == 0
    server.api.write(
        f"{settings.pki_mount}/roles/{settings.role}",
        **role_fields(DOMAIN, ttl_seconds=DAY, dns_domains=("svc.example",)) | {"no_store": False},
    )
    await set_up(server, settings, wanted)
    role = server.api.read(f"{settings.pki_mount}/roles/{settings.role}")
    assert role["allowed_domains"] == ["svc.example"]


async def test_each_thing_that_is_missing_is_named_with_what_to_run(server: Server) -> None:
    settings, _ = fresh(server)
    findings = {each.step: each for each in await check(server, settings)}
    assert "vault secrets enable" in findings[f"issuer of {settings.pki_mount}"].remedy
    assert "vault secrets enable" in findings[f"keys in {settings.transit_mount}"].remedy
    assert findings["login by token"].is_warning  # root
    limited = with_policy(server, settings, "default")
    missing = [each for each in await check(server, limited) if each.step.startswith("right to")]
    assert {each.step.split()[-1] for each in missing} >= {
        f"{settings.pki_mount}/issuer/+/sign/{settings.role}",
        f"{settings.pki_mount}/issuer/+/sign-intermediate",
    }
    assert all("vault policy write" in each.remedy for each in missing)
    wrong = await check(server, server.settings(token=Secret("hvs.wrong")))
    assert [each.is_good for each in wrong] == [True, False] and "token" in wrong[1].remedy


async def test_an_issuer_that_ends_too_soon_is_told_with_the_arithmetic(server: Server) -> None:
    settings, wanted = fresh(server, transit_mount="")
    server.api.mount("pki", settings.pki_mount, config={"max_lease_ttl": "87600h"})
    server.make_root(settings.pki_mount, ttl="80h", back="30s")
    await set_up(server, settings, wanted)
    findings = {each.step: each for each in await check(server, settings)}
    issuer = findings[f"issuer of {settings.pki_mount}"]
    assert not issuer.is_good and "345600 s" in issuer.expected
    assert "not_before_duration" in findings[f"age of the issuer of {settings.pki_mount}"].remedy


async def test_a_mount_of_another_kind_is_not_touched(server: Server) -> None:
    settings, wanted = fresh(server)
    server.api.mount("kv", settings.pki_mount)
    with pytest.raises(FailedPrecondition, match="mounted already, as kv"):
        await Preparation(server.door(), settings, wanted).plan()


async def test_a_sealed_server_ends_the_check(fake: Server) -> None:
    settings, _ = fresh(fake)
    fake.fake.state.sealed = True
    (finding,) = await check(fake, settings)
    assert not finding.is_good and finding.remedy == "vault operator unseal"


async def test_a_server_that_cannot_be_reached_is_told_with_the_reason(fake: Server) -> None:
    settings, _ = fresh(fake)
    fake.fake.faults.html = True
    (finding,) = await check(fake, settings)
    assert not finding.is_good and "login page" in finding.remedy
    fake.fake.__exit__()
    (finding,) = await check(fake, settings)
    assert "ConnectionRefused" in finding.found and "vault status" in finding.remedy


def test_the_policy_names_no_path_twice_and_nothing_of_sys_but_ourselves() -> None:
    settings = VaultSettings(address="https://v.example", transit_mount="transit")
    paths = [rule.path for rule in rules(settings)]
    assert len(set(paths)) == len(paths)
    assert [path for path in paths if path.startswith("sys/")] == ["sys/capabilities-self"]
    assert "sudo" not in hcl(rules(settings)) and '"*"' not in hcl(rules(settings))


def test_a_role_as_vault_gives_it_back_has_no_faults() -> None:
    fields = role_fields(DOMAIN, ttl_seconds=DAY)
    assert role_faults(fields, DOMAIN, ttl_seconds=DAY) == []
    without = {name: value for name, value in fields.items() if value}
    assert role_faults(without, DOMAIN, ttl_seconds=DAY) == []
    assert len(role_faults({}, DOMAIN, ttl_seconds=DAY)) >= 8
