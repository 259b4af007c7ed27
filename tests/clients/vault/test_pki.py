"""The PKI mount: the issuer, intermediates, leaves, revocation; over the fake, Vault and OpenBao."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import pytest
from real_vault import NOT_IN_VAULT, Server, csr, unique

from control_plane.authority.keys import MemoryKeyManager
from control_plane.authority.ports import KeyPurpose
from control_plane.authority.vault_ports import LeafOrder, VaultHealth
from control_plane.clients.vault.roles import role_fields
from control_plane.core.ca_csr import build_ca_csr
from control_plane.core.certificate import read_certificate
from control_plane.core.errors import (
    FailedPrecondition,
    InvalidInput,
    PeerMisbehaved,
    PermissionDenied,
    Unavailable,
)
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import SpiffeId, TrustDomain

DOMAIN = TrustDomain.parse("td.example")
DAY = 86_400


def order(path: str = "/app", *, ttl: int = DAY, dns: tuple[str, ...] = (), csr_: bytes = b"") -> LeafOrder:
    spiffe_id = SpiffeId.parse(f"spiffe://td.example{path}")
    return LeafOrder(csr_ or csr(str(spiffe_id)), spiffe_id, dns, ttl)


def with_role(server: Server, mount: str, **changed: Any) -> None:
    fields = role_fields(DOMAIN, ttl_seconds=DAY, dns_domains=("svc.example",)) | changed
    server.api.write(f"{mount}/roles/gatehouse", **fields)


async def test_a_leaf_is_what_was_asked_for(server: Server) -> None:
    mount = server.make_pki()
    with_role(server, mount)
    pki = server.pki(pki_mount=mount)
    asked = order(dns=("a.svc.example",))
    leaf, *above = await pki.sign_leaf(asked)
    issuer = await pki.issuer()
    assert issuer.certificate == issuer.chain[0] == issuer.chain[-1] and above == [issuer.certificate]
    found = read_certificate(leaf)
    assert found.names.uris == ("spiffe://td.example/app",) and found.names.dns == ("a.svc.example",)
    assert not found.is_ca and found.has_basic_constraints
    assert found.key_usage is not None and found.key_usage.digital_signature
    assert found.subject_key_id is not None
    assert found.authority_key_id == read_certificate(issuer.certificate).subject_key_id
    assert found.serial.bit_length() > 64
    assert found.not_before <= time.time() - 100 and abs(found.not_after - time.time() - DAY) < 60
    assert found.parsed.subject.rfc4514_string() == "O=Gatehouse"
    found.parsed.verify_directly_issued_by(read_certificate(issuer.certificate).parsed)


async def test_names_of_the_csr_count_for_nothing(server: Server) -> None:
    mount = server.make_pki()
    with_role(server, mount)
    sneaky = csr("spiffe://td.example/app", "spiffe://td.example/admin", "spiffe://other.example/x")
    (leaf, *_) = await server.pki(pki_mount=mount).sign_leaf(order(csr_=sneaky))
    assert read_certificate(leaf).names.uris == ("spiffe://td.example/app",)


async def test_what_the_role_does_not_allow_is_refused(server: Server) -> None:
    mount = server.make_pki()
    with_role(server, mount)
    pki = server.pki(pki_mount=mount)
    with pytest.raises(FailedPrecondition, match=r"signing a leaf for spiffe://other\.example/app"):
        other = SpiffeId.parse("spiffe://other.example/app")
        await pki.sign_leaf(LeafOrder(csr(str(other)), other, (), DAY))
    with pytest.raises(FailedPrecondition, match=r"web\.example"):
        await pki.sign_leaf(order(dns=("web.example",)))


async def test_a_life_beyond_the_issuers_is_refused_and_one_beyond_the_roles_is_cut(server: Server) -> None:
    mount = server.make_pki(ttl="2h")
    with_role(server, mount, max_ttl="1h", ttl="1h")
    pki = server.pki(pki_mount=mount)
    (leaf, *_) = await pki.sign_leaf(order())
    assert read_certificate(leaf).not_after < time.time() + 3660
    with_role(server, mount)
    with pytest.raises(FailedPrecondition, match="beyond the expiration of the CA certificate"):
        await pki.sign_leaf(order())


async def test_a_mount_or_role_that_is_missing_is_named(server: Server) -> None:
    mount = server.make_pki()
    with pytest.raises(FailedPrecondition, match="role"):
        await server.pki(pki_mount=mount).sign_leaf(order())
    for pki in (server.pki(pki_mount="nowhere"), server.pki(pki_mount=mount, issuer="nobody")):
        with pytest.raises((FailedPrecondition, PermissionDenied, Unavailable), match=r"nowhere|nobody"):
            await pki.issuer()


async def test_an_empty_mount_has_no_issuer(server: Server) -> None:
    mount = server.api.mount("pki")
    with pytest.raises((FailedPrecondition, Unavailable), match="no default issuer"):
        await server.pki(pki_mount=mount).issuer()


@pytest.mark.parametrize("named", [False, True])
async def test_an_intermediate_is_bound_and_backdated(server: Server, named: bool) -> None:
    mount = server.make_pki()
    pki = server.pki(pki_mount=mount)
    issuer = await pki.issuer()
    signer = MemoryKeyManager(os.urandom).create(KeyPurpose.X509)
    chain = await pki.sign_intermediate(
        # OpenBao takes the constraint from here, Vault from a parameter.
        build_ca_csr(DOMAIN, "Gatehouse standby", signer.public_key, signer.sign, constrain_uris=True),
        common_name="Gatehouse standby",
        ttl_seconds=4 * DAY,
        uri_host="td.example",
        backdate_seconds=150,
        issuer_id=issuer.issuer_id if named else "",
    )
    found = read_certificate(chain[0])
    assert found.is_ca and found.path_length == 0 and issuer.certificate in chain[1:]
    assert found.names.uris == ("spiffe://td.example",) and found.names.dns == ()
    assert found.name_constraints is not None
    permitted = found.name_constraints.permitted_subtrees
    assert [each.value for each in permitted or ()] == ["td.example"]
    assert abs(found.not_before - (time.time() - 150)) < 60
    assert abs(found.not_after - time.time() - 4 * DAY) < 60
    assert found.subject_key_id is not None


async def test_a_stored_certificate_is_revoked_by_serial_and_any_by_itself(server: Server) -> None:
    mount = server.make_pki()
    with_role(server, mount)
    pki = server.pki(pki_mount=mount)
    (leaf, *_) = await pki.sign_leaf(order())
    with pytest.raises(FailedPrecondition, match="not found"):
        await pki.revoke(read_certificate(leaf).serial)  # no_store
    await pki.revoke_certificate(leaf)
    (ca, *_) = await pki.sign_intermediate(
        csr(), common_name="x", ttl_seconds=DAY, uri_host="", backdate_seconds=150
    )
    assert read_certificate(ca).name_constraints is None
    await pki.revoke(read_certificate(ca).serial)
    await pki.revoke(read_certificate(ca).serial)
    await pki.rotate_crl()
    server.api.write(f"{mount}/config/crl", auto_rebuild=True, enable_delta=True)
    await pki.rotate_crl()


async def test_the_chain_of_a_cross_signed_mount_leads_to_a_root(server: Server) -> None:
    mount = server.make_pki()
    first = await server.pki(pki_mount=mount).issuer()
    second = server.make_root(mount)
    pki = server.pki(pki_mount=mount, issuer=second)
    made = await pki.issuer()
    assert made.issuer_id == second and made.certificate != first.certificate
    assert len(made.chain) == 1
    server.api.write(f"{mount}/config/issuers", default=second)
    assert (await server.pki(pki_mount=mount).issuer()).certificate == made.certificate


async def test_health_is_told_without_a_token(server: Server) -> None:
    assert await server.pki(token=Secret("wrong")).health() is VaultHealth.ACTIVE


@pytest.mark.parametrize("server", NOT_IN_VAULT, indirect=True)
async def test_a_mount_in_a_namespace_is_used_and_health_is_the_servers(server: Server) -> None:
    name = unique("team")
    server.api.write(f"sys/namespaces/{name}")
    inside = Server(server.kind, server.api.inside(name), server.fake)
    mount = inside.make_pki()
    with_role(inside, mount)
    pki = server.pki(pki_mount=mount, namespace=name)
    issuer = await pki.issuer()
    (leaf, *_) = await pki.sign_leaf(order())
    assert read_certificate(leaf).issuer == read_certificate(issuer.certificate).subject
    assert await pki.health() is VaultHealth.ACTIVE
    with pytest.raises((PermissionDenied, FailedPrecondition)):
        await server.pki(pki_mount=mount, namespace=unique("other")).sign_leaf(order())


@pytest.mark.parametrize("name", ["a.example,b.example", "a@example", "*.example,x", "a b", "x\n"])
async def test_a_name_that_vault_would_read_as_two_never_gets_there(fake: Server, name: str) -> None:
    with pytest.raises(InvalidInput):
        await fake.pki().sign_leaf(order(dns=(name,)))
    assert all("sign" not in path for _, path in fake.fake.requests)


async def test_an_issuer_that_has_ended_signs_nothing(server: Server) -> None:
    mount = server.make_pki(ttl="2s", back="10s")
    with_role(server, mount)
    pki = server.pki(pki_mount=mount)
    issuer = await pki.issuer()
    await asyncio.sleep(max(0.0, read_certificate(issuer.certificate).not_after - time.time()) + 1)
    with pytest.raises((FailedPrecondition, Unavailable), match=r"beyond the expiration|expired"):
        await pki.sign_leaf(order(ttl=60))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: {},
        lambda data: data | {"certificate": ""},
        lambda data: data | {"certificate": 7},
        lambda data: data | {"certificate": "no PEM"},
        lambda data: data | {"certificate": data["certificate"].replace("M", "N")},
        lambda data: data | {"ca_chain": "text"},
        lambda data: data | {"ca_chain": [1]},
    ],
)
async def test_an_answer_that_breaks_the_contract_is_the_peers_fault(fake: Server, spoil: Any) -> None:
    mount = fake.make_pki()
    with_role(fake, mount)
    pki = fake.pki(pki_mount=mount)

    def change(path: str, answer: dict[str, Any]) -> dict[str, Any]:
        return {"data": spoil(answer["data"])} if "/sign/" in path else answer

    fake.fake.faults.change = change
    with pytest.raises(PeerMisbehaved):
        await pki.sign_leaf(order())


async def test_a_shuffled_chain_with_duplicates_is_handed_on_once_each(fake: Server) -> None:
    mount = fake.make_pki()
    with_role(fake, mount)
    pki = fake.pki(pki_mount=mount)
    issuer = await pki.issuer()

    def change(path: str, answer: dict[str, Any]) -> dict[str, Any]:
        if "/sign/" in path:
            data = answer["data"]
            data["ca_chain"] = [*data["ca_chain"], data["certificate"], *data["ca_chain"]]
        return answer

    fake.fake.faults.change = change
    leaf, *above = await pki.sign_leaf(order())
    assert above == [issuer.certificate] and leaf != issuer.certificate
