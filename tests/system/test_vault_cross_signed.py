"""The root in Vault is replaced by one that the old root has signed: several issuers in one mount.

At each step everybody shakes hands with everybody: who has heard of the step, who hasn't heard of it yet, and
who shows a leaf from before. Nobody is refused.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from handshakes import End, shake_hands
from real_vault import REAL_KINDS, RealVault, Server
from vault_estate import DAY, DOMAIN, Estate, estate, new_csr

from control_plane.authority import schedule
from control_plane.authority.state import Kind
from control_plane.clients.vault.roles import role_fields
from control_plane.core.certificate import read_certificate
from control_plane.core.secret import Secret
from control_plane.runtime.clock import SystemClock
from control_plane.runtime.tls import TlsIdentity


class Mesh:
    """Workloads by what their nodes have heard of."""

    def __init__(self, made: Estate) -> None:
        self.made = made
        self.ends: dict[str, End] = {}
        made.confirmed = lambda sequence: all(e.bundle.sequence >= sequence for e in self.ends.values())

    async def renew(self, name: str) -> tuple[bytes, ...]:
        """A node takes the bundle and a new leaf; the chain of the leaf."""
        key = ec.generate_private_key(ec.SECP256R1())
        svid = await self.made.leaf(csr=new_csr(key))
        private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        self.ends[name] = End(TlsIdentity(svid.chain, Secret(private)), self.made.bundle)
        return svid.chain

    def hear(self, name: str) -> None:
        """A node takes the bundle, and keeps its leaf."""
        self.ends[name].bundle = self.made.bundle

    def shake_all_hands(self) -> None:
        for caller, callee in itertools.product(self.ends.values(), repeat=2):
            shake_hands(caller, callee, self.made.clock.unix())

    async def look(self) -> None:
        """The life cycle sees what Vault has become."""
        self.made.forget()
        await self.made.lifecycle.tick()


def cross_signed(server: Server, mount: str, old: str, new: str) -> str:
    """The new root, certified by the old one, as one more issuer of the mount; its ID."""
    key = server.api.read(f"{mount}/issuer/{new}")["key_id"]
    name = x509.load_pem_x509_certificate(server.api.read(f"{mount}/issuer/{new}")["certificate"].encode())
    (common_name,) = name.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    asked = server.api.write(f"{mount}/intermediate/cross-sign", key_ref=key, common_name=common_name.value)
    signed = server.api.write(
        f"{mount}/issuer/{old}/sign-intermediate",
        csr=asked["data"]["csr"],
        use_csr_values=True,
        ttl="4380h",
        not_before_duration="300s",
    )
    imported = server.api.write(f"{mount}/issuers/import/cert", pem_bundle=signed["data"]["certificate"])
    (issuer,) = imported["data"]["imported_issuers"]
    return str(issuer)


@pytest.mark.peers
@pytest.mark.parametrize("kind", REAL_KINDS)
def test_no_handshake_is_refused_while_a_cross_signed_root_takes_over(
    kind: str, tmp_path: Path, peer: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A quarter of an hour that a real Vault's clock can't skip; that it is waited for has tests of its own.
    monkeypatch.setattr(schedule, "PUBLISHED_SECONDS", 0)

    async def test(real: RealVault) -> None:
        server = Server(kind, real.api)
        mount = server.make_pki()
        server.api.write(f"{mount}/roles/gatehouse", **role_fields(DOMAIN, ttl_seconds=DAY))
        server.api.write(f"{mount}/config/crl", auto_rebuild=True, enable_delta=True)
        pki = server.pki(pki_mount=mount, token=Secret(real.api.token))
        async with estate(tmp_path, SystemClock(), pki) as made:
            mesh = Mesh(made)
            (root_a,) = made.state.x509
            old = server.api.read(f"{mount}/config/issuers")["default"]
            for name in ("prompt", "lagging", "last"):
                assert len(await mesh.renew(name)) == 1
            mesh.shake_all_hands()

            # The new key signs, below the old root: no bundle changes.
            new = server.make_root(mount)
            cross = cross_signed(server, mount, old, new)
            server.api.write(f"{mount}/config/issuers", default=cross)
            await mesh.look()
            chain = await mesh.renew("prompt")
            assert (
                len(chain) == 2 and read_certificate(chain[1]).issuer == read_certificate(root_a.root).subject
            )
            assert made.bundle.x509_authorities[0].subject_key_id == root_a.authority_id
            mesh.shake_all_hands()
            real.seal()
            assert len(await mesh.renew("prompt")) == 3, "the standby below the cross-signed one"
            mesh.shake_all_hands()
            real.unseal()
            async with asyncio.timeout(60):
                while made.authority.status.signer != "vault":
                    await made.authority.look()
                    await asyncio.sleep(0.05)
            await mesh.renew("prompt")
            await mesh.renew("lagging")

            # The new root itself is published, and waits until everybody has it.
            server.api.write(f"{mount}/config/issuers", default=new)
            await mesh.look()
            assert len(made.bundle.x509_authorities) == 2
            await mesh.renew("prompt")
            await mesh.look()
            mesh.hear("lagging")
            await mesh.look()
            active = made.state.active_x509
            assert active is not None and active.authority_id == root_a.authority_id, "the last hasn't it"
            mesh.shake_all_hands()

            # Now everybody has it, and the old root is no longer above what is signed.
            mesh.hear("last")
            await mesh.look()
            active = made.state.active_x509
            assert active is not None and active.authority_id != root_a.authority_id
            assert len(await mesh.renew("prompt")) == 1
            mesh.shake_all_hands()

            # The old root goes: leaves that it signed itself have been replaced, those below the new key
            # verify without it.
            root_a_now = made.state.x509[0]
            await made.lifecycle.taint(Kind.X509, root_a.authority_id)
            await mesh.renew("last")
            await made.lifecycle.revoke(Kind.X509, root_a.authority_id)
            mesh.hear("prompt")
            assert len(made.bundle.x509_authorities) == 1
            assert len(mesh.ends["lagging"].identity.chain) == 2
            mesh.shake_all_hands()
            serial = read_certificate(root_a_now.issuing.certificate).serial
            assert serial in revoked(server, mount, cross)
        server.close()

    with RealVault(peer(kind), dev=False) as real:
        asyncio.run(test(real))


def revoked(server: Server, mount: str, issuer: str) -> list[int]:
    """Serial numbers in the issuer's revocation list; the delta list was written anew after it."""
    whole, delta = (
        x509.load_pem_x509_crl(server.api.read(f"{mount}/issuer/{issuer}/{path}")["crl"].encode())
        for path in ("crl", "crl/delta")
    )
    base = delta.extensions.get_extension_for_class(x509.DeltaCRLIndicator).value.crl_number
    assert base == whole.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    return [each.serial_number for each in whole]
