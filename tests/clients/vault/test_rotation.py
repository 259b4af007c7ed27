"""A root that is replaced in Vault: several issuers in one mount, cross-signed, the default moved."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from real_vault import Server, csr

from control_plane.authority.vault_ports import LeafOrder
from control_plane.clients.vault.chains import is_root, ordered_chain, read_pem
from control_plane.clients.vault.roles import role_fields
from control_plane.core.certificate import read_certificate
from control_plane.core.spiffe_id import SpiffeId, TrustDomain

DOMAIN = TrustDomain.parse("td.example")
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


async def test_leaves_are_signed_by_the_issuer_that_was_named_while_the_default_moves(server: Server) -> None:
    mount = server.make_pki()
    server.api.write(f"{mount}/roles/gatehouse", **role_fields(DOMAIN, ttl_seconds=3600))
    pki = server.pki(pki_mount=mount)
    old = await pki.issuer()
    server.api.write(f"{mount}/config/issuers", default=server.make_root(mount))
    new = await pki.issuer()
    assert new.issuer_id != old.issuer_id and new.certificate != old.certificate
    for issuer in (old, new):
        order = LeafOrder(csr(), SpiffeId.parse("spiffe://td.example/x"), (), 3600, issuer.issuer_id)
        signed = read_certificate((await pki.sign_leaf(order))[0])
        signed.parsed.verify_directly_issued_by(read_certificate(issuer.certificate).parsed)
        (ca, *_) = await pki.sign_intermediate(
            csr("spiffe://td.example"),
            common_name="x",
            ttl_seconds=3600,
            uri_host="td.example",
            backdate_seconds=150,
            issuer_id=issuer.issuer_id,
        )
        read_certificate(ca).parsed.verify_directly_issued_by(read_certificate(issuer.certificate).parsed)


class Ca:
    """A CA for chains that no server is needed for."""

    def __init__(self, name: str) -> None:
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.self_signed = self.sign(self)

    def sign(self, other: Ca) -> bytes:
        """`other` certified by us."""
        made = (
            x509.CertificateBuilder()
            .subject_name(other.name)
            .issuer_name(self.name)
            .public_key(other.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW)
            .not_valid_after(NOW + datetime.timedelta(days=1000))
            .add_extension(x509.BasicConstraints(True, None), True)
        )
        return made.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)


OLD, NEW, BETWEEN, STRANGER = (Ca(name) for name in ("old", "new", "between", "stranger"))
NAMESAKE = Ca("old")
CROSS = OLD.sign(NEW)  # the new root, certified by the old one
ISSUING = NEW.sign(BETWEEN)


@given(st.permutations([CROSS, NEW.self_signed, OLD.self_signed, STRANGER.self_signed, ISSUING, CROSS]))
def test_a_chain_in_any_order_with_strangers_and_duplicates_is_put_right(listed: list[bytes]) -> None:
    # Both paths lead to a root; the shorter one is through the new root itself.
    assert ordered_chain(ISSUING, listed, "x") == (ISSUING, NEW.self_signed)


@given(st.permutations([CROSS, OLD.self_signed, NAMESAKE.self_signed, STRANGER.self_signed]))
def test_a_cross_signed_root_leads_to_the_old_one_and_names_alone_to_nothing(listed: list[bytes]) -> None:
    assert ordered_chain(ISSUING, listed, "x") == (ISSUING, CROSS, OLD.self_signed)


def test_a_chain_without_a_root_is_told_from_one_with() -> None:
    assert ordered_chain(ISSUING, [CROSS, NAMESAKE.self_signed], "x") == (ISSUING, CROSS)
    assert is_root(OLD.self_signed) and not is_root(CROSS)


def test_issuers_that_certify_each_other_in_a_circle_end() -> None:
    assert ordered_chain(OLD.sign(NEW), [NEW.sign(OLD), OLD.sign(NEW)], "x")[0]


def test_pem_texts_are_read_one_by_one_or_together() -> None:
    texts = [
        x509.load_der_x509_certificate(each).public_bytes(Encoding.PEM).decode() for each in (CROSS, ISSUING)
    ]
    assert read_pem(["".join(texts), texts[0]], "x") == (CROSS, ISSUING)
