"""Whom an X.509-SVID is believed: the validator's rules of X509-SVID.md, and path validation of RFC 5280."""

import ipaddress
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane.core.bundle import Bundle, X509Authority
from control_plane.core.certificate import read_certificate
from control_plane.core.errors import InvalidInput, Unauthenticated
from control_plane.core.spiffe_id import TrustDomain
from control_plane.core.svid import Purpose, X509Svid, validate_x509, verify_x509
from control_plane.core.x509_path import MAX_CHAIN, validate_path

UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")


def accepted(chain: list[Any], bundle: Any, now: int, **options: Any) -> str:
    return str(verify_x509([party.der for party in chain], bundle, now, **options))


def refused(chain: list[Any], bundle: Any, now: int, **options: Any) -> str:
    with pytest.raises(Unauthenticated) as caught:
        verify_x509([party.der for party in chain], bundle, now, **options)
    return caught.value.message


def test_a_leaf_below_the_root(pki: Any) -> None:
    root = pki.ca()
    assert accepted([pki.leaf(root)], pki.bundle(root), pki.now) == "spiffe://example.org/workload"


def test_a_leaf_below_intermediates_in_any_order(pki: Any) -> None:
    root = pki.ca()
    upper, lower = (upper := pki.ca(root)), pki.ca(upper)
    leaf = pki.leaf(lower)
    for chain in ([leaf, lower, upper], [leaf, upper, lower], [leaf, upper, lower, upper, root]):
        assert accepted(chain, pki.bundle(root), pki.now)


def test_x_01_other_names_beside_the_id_are_allowed(pki: Any) -> None:
    root = pki.ca()
    leaf = pki.leaf(
        root, dns=["a.example.org"], other_names=[x509.IPAddress(ipaddress.ip_address("10.0.0.1"))]
    )
    assert accepted([leaf], pki.bundle(root), pki.now)


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["spiffe://example.org/a", "spiffe://example.org/b"],
        ["spiffe://example.org/a", "spiffe://example.org/a"],
        ["spiffe://example.org/a", "https://example.org"],
    ],
)
def test_x_02_exactly_one_uri_name(pki: Any, uris: list[str]) -> None:
    root = pki.ca()
    assert "exactly one" in refused([pki.leaf(root, uris=uris, dns=["a.b"])], pki.bundle(root), pki.now)


def test_x_03_a_leaf_without_a_path_is_refused(pki: Any) -> None:
    root = pki.ca()
    assert "no path" in refused([pki.leaf(root, "spiffe://example.org")], pki.bundle(root), pki.now)


def test_x_07_signing_certificates_do_not_authenticate(pki: Any) -> None:
    root = pki.ca()
    signer = pki.ca(root, uris=["spiffe://example.org/a"], usage=pki.usage("digital_signature"))
    assert "signing certificate" in refused([signer], pki.bundle(root), pki.now)


def test_x_07_an_authority_of_the_bundle_does_not_authenticate_itself(pki: Any) -> None:
    root = pki.ca(uris=["spiffe://example.org/a"], usage=pki.usage("digital_signature", "key_cert_sign"))
    refused([root], pki.bundle(root), pki.now)


def test_x_08_only_cas_sign(pki: Any) -> None:
    root = pki.ca()
    workload = pki.leaf(root)
    forged = pki.leaf(workload, "spiffe://example.org/admin")
    assert "is not a CA" in refused([forged, workload], pki.bundle(root), pki.now)


def test_x_08_no_basic_constraints_means_no_ca(pki: Any) -> None:
    root = pki.ca()
    middle = pki.ca(root, ca=None)
    assert "is not a CA" in refused([pki.leaf(middle), middle], pki.bundle(root), pki.now)
    assert accepted([pki.leaf(root, ca=None)], pki.bundle(root), pki.now)


def test_x_08_an_authority_of_the_bundle_must_be_a_ca(pki: Any) -> None:
    root = pki.ca(ca=False)
    assert "is not a CA" in refused([pki.leaf(root)], pki.bundle(root), pki.now)


@pytest.mark.parametrize(
    ("length", "below", "works"), [(0, 0, True), (0, 1, False), (1, 1, True), (1, 2, False)]
)
def test_x_09_path_length_binds(pki: Any, length: int, below: int, works: bool) -> None:
    root = pki.ca(path_length=length)
    chain: list[Any] = [root]
    for _ in range(below):
        chain.insert(0, pki.ca(chain[0]))
    chain.insert(0, pki.leaf(chain[0]))
    if works:
        assert accepted(chain[:-1], pki.bundle(root), pki.now)
    else:
        assert "path length" in refused(chain[:-1], pki.bundle(root), pki.now)


def test_x_09_path_length_of_an_intermediate_binds(pki: Any) -> None:
    root = pki.ca()
    middle = pki.ca(root, path_length=0)
    lower = pki.ca(middle)
    assert "path length" in refused([pki.leaf(lower), lower, middle], pki.bundle(root), pki.now)


def uri_constraint(permitted: list[str] | None, excluded: list[str] | None = None) -> x509.NameConstraints:
    def names(texts: list[str] | None) -> list[x509.GeneralName] | None:
        return None if texts is None else [x509.UniformResourceIdentifier(text) for text in texts]

    return x509.NameConstraints(names(permitted), names(excluded))


@pytest.mark.parametrize(
    ("permitted", "excluded", "works"),
    [
        (["example.org"], None, True),
        (["EXAMPLE.org"], None, True),
        (["other.org"], None, False),
        (["other.org", "example.org"], None, True),
        ([".example.org"], None, False),
        ([".org"], None, True),
        (["org"], None, False),
        (["xample.org"], None, False),
        (None, ["example.org"], False),
        (None, ["other.org"], True),
        (["example.org"], [".org"], False),
    ],
)
def test_x_09_uri_constraints_bind(pki: Any, permitted: Any, excluded: Any, works: bool) -> None:
    root = pki.ca()
    middle = pki.ca(root, constraints=uri_constraint(permitted, excluded))
    chain = [pki.leaf(middle), middle]
    if works:
        assert accepted(chain, pki.bundle(root), pki.now)
    else:
        assert "spiffe://example.org/workload" in refused(chain, pki.bundle(root), pki.now)


def test_x_09_constraints_of_the_root_bind_two_levels_down(pki: Any) -> None:
    root = pki.ca(constraints=uri_constraint(["other.org"]))
    middle = pki.ca(root)
    assert "not permitted" in refused([pki.leaf(middle), middle], pki.bundle(root), pki.now)


def test_x_09_constraints_bind_intermediates_too(pki: Any) -> None:
    root = pki.ca(constraints=uri_constraint(["example.org"]))
    middle = pki.ca(root, uris=["spiffe://other.org"])
    assert "not permitted" in refused([pki.leaf(middle), middle], pki.bundle(root), pki.now)


@pytest.mark.parametrize(
    ("constraint", "dns", "works"),
    [
        ("example.org", "example.org", True),
        ("example.org", "a.example.org", True),
        ("example.org", "aexample.org", False),
        (".example.org", "A.EXAMPLE.ORG", True),
        ("example.org", "*.example.org", True),
        ("a.example.org", "*.example.org", False),
    ],
)
def test_x_09_dns_constraints_bind(pki: Any, constraint: str, dns: str, works: bool) -> None:
    root = pki.ca(constraints=x509.NameConstraints([x509.DNSName(constraint)], None))
    (accepted if works else refused)([pki.leaf(root, dns=[dns])], pki.bundle(root), pki.now)


@pytest.mark.parametrize(
    ("excluded", "dns", "works"),
    [
        ("a.example.org", "*.example.org", False),
        ("a.b.example.org", "*.example.org", True),
        ("example.org", "b.example.org", False),
        ("example.org", "example.com", True),
    ],
)
def test_x_09_excluded_dns_names_cover_wildcards(pki: Any, excluded: str, dns: str, works: bool) -> None:
    root = pki.ca(constraints=x509.NameConstraints(None, [x509.DNSName(excluded)]))
    (accepted if works else refused)([pki.leaf(root, dns=[dns])], pki.bundle(root), pki.now)


@pytest.mark.parametrize(("address", "works"), [("10.1.2.3", True), ("11.0.0.1", False), ("::1", False)])
def test_x_09_address_constraints_bind(pki: Any, address: str, works: bool) -> None:
    root = pki.ca(
        constraints=x509.NameConstraints([x509.IPAddress(ipaddress.ip_network("10.0.0.0/8"))], None)
    )
    leaf = pki.leaf(root, other_names=[x509.IPAddress(ipaddress.ip_address(address))])
    (accepted if works else refused)([leaf], pki.bundle(root), pki.now)


@pytest.mark.parametrize(
    "constraint",
    [
        x509.DirectoryName(x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "x")])),
        x509.RFC822Name("example.org"),
    ],
)
def test_x_09_constrained_forms_that_cannot_be_judged_refuse(pki: Any, constraint: x509.GeneralName) -> None:
    root = pki.ca(constraints=x509.NameConstraints(None, [constraint]))
    leaf = pki.leaf(root, other_names=[x509.RFC822Name("me@example.com")])
    assert "can't be judged" in refused([leaf], pki.bundle(root), pki.now)


def test_x_09_a_uri_without_a_host_is_refused_where_uris_are_constrained(pki: Any) -> None:
    root = pki.ca(constraints=uri_constraint(["example.org"]))
    middle = pki.ca(root, uris=["urn:x"])
    assert "no host" in refused([pki.leaf(middle), middle], pki.bundle(root), pki.now)


def test_x_09_thousands_of_names_and_constraints_are_refused_quickly(pki: Any) -> None:
    root = pki.ca(constraints=uri_constraint([f"a{i}.org" for i in range(1000)]))
    leaf = pki.leaf(root, dns=[f"a{i}.b" for i in range(900)])
    assert "too many names" in refused([leaf], pki.bundle(root), pki.now)


@pytest.mark.parametrize("bit", ["key_cert_sign", "crl_sign"])
def test_x_13_leaves_with_signing_bits_are_refused(pki: Any, bit: str) -> None:
    root = pki.ca()
    leaf = pki.leaf(root, usage=pki.usage("digital_signature", bit))
    assert "keyCertSign or cRLSign" in refused([leaf], pki.bundle(root), pki.now)


@pytest.mark.parametrize("usage", [None, ("key_encipherment",)])
def test_x_12_leaves_without_digital_signature_are_refused(pki: Any, usage: Any) -> None:
    root = pki.ca()
    leaf = pki.leaf(root, usage=pki.usage(*usage) if usage else None)
    assert "digitalSignature" in refused([leaf], pki.bundle(root), pki.now)


def test_x_11_cas_without_key_cert_sign_do_not_sign(pki: Any) -> None:
    root = pki.ca()
    middle = pki.ca(root, usage=pki.usage("digital_signature", "crl_sign"))
    assert "key usage" in refused([pki.leaf(middle), middle], pki.bundle(root), pki.now)


def test_x_14_the_extended_key_usage_is_held_against_the_purpose(pki: Any) -> None:
    root = pki.ca()
    client = pki.leaf(root, usages=[ExtendedKeyUsageOID.CLIENT_AUTH])
    assert accepted([client], pki.bundle(root), pki.now, purpose=Purpose.CLIENT_AUTH)
    assert accepted([client], pki.bundle(root), pki.now)
    assert "extended key usage" in refused([client], pki.bundle(root), pki.now, purpose=Purpose.SERVER_AUTH)
    for usages in (None, [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]):
        assert accepted(
            [pki.leaf(root, usages=usages)], pki.bundle(root), pki.now, purpose=Purpose.SERVER_AUTH
        )


def test_x_14_the_extended_key_usage_of_an_intermediate_binds_too(pki: Any) -> None:
    root = pki.ca()
    middle = pki.ca(root, usages=[ExtendedKeyUsageOID.CODE_SIGNING])
    assert "excludes" in refused(
        [pki.leaf(middle), middle], pki.bundle(root), pki.now, purpose=Purpose.CLIENT_AUTH
    )


@pytest.mark.parametrize("which", ["leaf", "middle", "root"])
@pytest.mark.parametrize(("offset", "works"), [(-1, False), (0, True), (100, True), (101, False)])
def test_x_15_each_certificate_must_be_valid_now(pki: Any, which: str, offset: int, works: bool) -> None:
    window = {"not_before": pki.now, "not_after": pki.now + 100}
    root = pki.ca(**(window if which == "root" else {}))
    middle = pki.ca(root, **(window if which == "middle" else {}))
    leaf = pki.leaf(middle, **(window if which == "leaf" else {}))
    (accepted if works else refused)([leaf, middle], pki.bundle(root), pki.now + offset)


@pytest.mark.parametrize("which", ["leaf", "middle", "root"])
def test_x_15_unknown_critical_extensions_refuse(pki: Any, which: str) -> None:
    for critical in (False, True):
        bad = {"extensions": [(UNKNOWN, critical)]}
        root = pki.ca(**(bad if which == "root" else {}))
        middle = pki.ca(root, **(bad if which == "middle" else {}))
        chain = [pki.leaf(middle, **(bad if which == "leaf" else {})), middle]
        if critical:
            assert "critical extension" in refused(chain, pki.bundle(root), pki.now)
        else:
            assert accepted(chain, pki.bundle(root), pki.now)


def test_x_15_critical_policies_are_not_processed_so_they_refuse(pki: Any) -> None:
    root = pki.ca()
    policy = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("2.5.29.32.0"), None)])
    refused([pki.leaf(root, extensions=[(policy, True)])], pki.bundle(root), pki.now)


def test_x_15_a_signature_by_another_key_of_the_same_name_is_refused(pki: Any) -> None:
    real, impostor = pki.ca(name="root"), pki.ca(name="root")
    leaf = pki.leaf(impostor, key_ids=False)
    assert "not signed by" in refused([leaf], pki.bundle(real), pki.now)
    assert accepted([leaf], pki.bundle(real, impostor), pki.now)


def test_x_15_a_flipped_bit_anywhere_is_refused(pki: Any) -> None:
    root = pki.ca()
    good = pki.leaf(root).der
    for position in range(0, len(good), 3):
        bad = good[:position] + bytes((good[position] ^ 1,)) + good[position + 1 :]
        with pytest.raises(Unauthenticated):
            verify_x509([bad], pki.bundle(root), pki.now)


@pytest.mark.parametrize("algorithm", [hashes.SHA224(), hashes.SHA3_256()])
def test_x_15_weak_hashes_are_refused(pki: Any, algorithm: hashes.HashAlgorithm) -> None:
    root = pki.ca()
    try:
        leaf = pki.leaf(root, hash_algorithm=algorithm)
    except (ValueError, TypeError):
        pytest.skip("the library no longer signs with this hash")
    assert "SHA-256 or better" in refused([leaf], pki.bundle(root), pki.now)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP224R1()),
        ec.generate_private_key(ec.SECP256K1()),
        rsa.generate_private_key(public_exponent=65537, key_size=1024),
        dsa.generate_private_key(key_size=2048),
    ],
)
def test_x_15_weak_and_foreign_keys_are_refused(pki: Any, key: Any) -> None:
    root = pki.ca()
    refused([pki.leaf(root, key=key)], pki.bundle(root), pki.now)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
)
def test_x_15_keys_of_other_good_kinds_are_accepted(pki: Any, key: Any) -> None:
    root = pki.ca(key=key)
    leaf = pki.leaf(root, key=key)
    assert accepted([leaf], pki.bundle(root), pki.now)


def test_x_15_cross_signed_loops_end(pki: Any) -> None:
    one, two = pki.ca(name="one"), pki.ca(name="two")
    one_by_two = pki.ca(two, name="one", key=one.key)
    two_by_one = pki.ca(one, name="two", key=two.key)
    stranger = pki.ca(name="root")
    chain = [pki.leaf(one), one_by_two, two_by_one, one, two]
    refused(chain, pki.bundle(stranger), pki.now)
    assert accepted(chain, pki.bundle(two), pki.now)


def test_x_15_an_expired_twin_of_the_root_does_not_hide_the_good_one(pki: Any) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    expired = pki.ca(name="root", key=key, not_after=pki.now - 10)
    good = pki.ca(name="root", key=key)
    leaf = pki.leaf(good)
    for bundle in (pki.bundle(expired, good), pki.bundle(good, expired)):
        assert accepted([leaf], bundle, pki.now)
    assert "expired" in refused([leaf], pki.bundle(expired), pki.now)


def test_x_15_the_work_is_bounded(pki: Any) -> None:
    roots = [pki.ca(name="root") for _ in range(60)]
    leaf = pki.leaf(roots[-1], key_ids=False)
    assert "signatures" in refused([leaf], pki.bundle(*roots[:-1]), pki.now)


def test_x_15_long_and_empty_chains_are_refused(pki: Any) -> None:
    root = pki.ca()
    chain = [root]
    for _ in range(MAX_CHAIN):
        chain.insert(0, pki.ca(chain[0]))
    chain.insert(0, pki.leaf(chain[0]))
    assert "at most 6" in refused(chain[:-1], pki.bundle(root), pki.now)
    assert "empty" in refused([], pki.bundle(root), pki.now)


def test_x_15_a_broken_intermediate_refuses_the_chain(pki: Any) -> None:
    root = pki.ca()
    with pytest.raises(Unauthenticated):
        verify_x509([pki.leaf(root).der, b"\x30\x03\x02\x01\x01"], pki.bundle(root), pki.now)


@pytest.mark.parametrize(
    "uri",
    ["https://example.org/workload", "SPIFFE://example.org/a", "urn:spiffe:a", "spiffe://example.org/a/../b"],
)
def test_x_16_the_scheme_and_form_of_the_id_are_checked(pki: Any, uri: str) -> None:
    root = pki.ca()
    refused([pki.leaf(root, uri)], pki.bundle(root), pki.now)


def test_a_foreign_trust_domain_signed_by_our_root_is_refused(pki: Any) -> None:
    ours, theirs = pki.ca(), pki.ca()
    foreign = pki.leaf(ours, "spiffe://other.org/workload")
    bundles = {b.trust_domain: b for b in (pki.bundle(ours), pki.bundle(theirs, trust_domain="other.org"))}
    assert "no bundle" in refused([foreign], pki.bundle(ours), pki.now)
    refused([foreign], bundles, pki.now)
    assert accepted([pki.leaf(theirs, "spiffe://other.org/workload")], bundles, pki.now)
    refused([pki.leaf(theirs)], bundles, pki.now)


def test_a_bundle_under_the_wrong_name_vouches_for_nobody(pki: Any) -> None:
    root = pki.ca()
    refused(
        [pki.leaf(root)], {TrustDomain("example.org"): pki.bundle(root, trust_domain="other.org")}, pki.now
    )


def test_b_06_an_empty_bundle_trusts_nobody(pki: Any) -> None:
    root = pki.ca()
    assert "no X.509 authority" in refused([pki.leaf(root)], pki.bundle(), pki.now)
    unreadable = Bundle(TrustDomain("example.org"), (X509Authority(b"\x30\x00"),))
    refused([pki.leaf(root)], unreadable, pki.now)


def test_tainted_authorities_still_verify_and_are_visible(pki: Any) -> None:
    root, other = pki.ca(), pki.ca()
    leaf = pki.leaf(root)
    assert validate_x509([leaf.der], pki.bundle(root, tainted=True), pki.now).tainted
    mixed = Bundle(
        TrustDomain("example.org"), (X509Authority(other.der, tainted=True), X509Authority(root.der))
    )
    assert not validate_x509([leaf.der], mixed, pki.now).tainted


def test_a_chain_that_leads_to_both_kinds_of_authority_is_not_tainted(pki: Any) -> None:
    old, new = pki.ca(name="old"), pki.ca(name="new")
    cross = pki.ca(old, name="new", key=new.key)
    bundle = Bundle(
        TrustDomain("example.org"), (X509Authority(old.der, tainted=True), X509Authority(new.der))
    )
    verified = validate_x509([pki.leaf(new).der, cross.der], bundle, pki.now)
    assert not verified.tainted and verified.path[-1] == new.der


def test_the_common_name_is_never_an_identity(pki: Any) -> None:
    root = pki.ca()
    leaf = pki.leaf(root, name="spiffe://example.org/admin", uris=[], dns=["example.org"])
    assert "exactly one" in refused([leaf], pki.bundle(root), pki.now)


def test_a_dns_name_that_spells_an_id_changes_nothing(pki: Any) -> None:
    root = pki.ca()
    leaf = pki.leaf(root, "spiffe://example.org/a", dns=["spiffe.example.org"])
    assert accepted([leaf], pki.bundle(root), pki.now) == "spiffe://example.org/a"


def test_certificates_of_other_pkis_go_through_path_validation_alone(pki: Any) -> None:
    root = pki.ca()
    machine = pki.leaf(root, uris=[], dns=["host.example.org"])
    path = validate_path([machine.der], [root.der], pki.now, purpose=Purpose.CLIENT_AUTH)
    assert [certificate.der for certificate in path] == [machine.der, root.der]


def test_an_svid_reads_from_its_chain(pki: Any) -> None:
    root = pki.ca()
    middle = pki.ca(root)
    leaf = pki.leaf(middle, serial=77)
    svid = X509Svid.from_chain([leaf.der, middle.der])
    assert (str(svid.spiffe_id), svid.serial) == ("spiffe://example.org/workload", 77)
    assert (svid.not_before, svid.not_after) == (pki.now - 3600, pki.now + 86400)
    assert svid.authority_id == X509Authority(root.der).subject_key_id
    assert "chain" not in repr(svid)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_calmly(pki: Any, data: bytes) -> None:
    with pytest.raises(Unauthenticated):
        verify_x509([data], Bundle(TrustDomain("example.org")), pki.now)


def test_serial_numbers_that_are_not_positive_are_refused(pki: Any) -> None:
    root = pki.ca()
    good = pki.leaf(root, serial=0x7F0102030405).der
    at = good.index(b"\x02\x06\x7f\x01\x02\x03\x04\x05")
    negative = good[: at + 2] + b"\xff" + good[at + 3 :]
    assert read_certificate(good).serial == 0x7F0102030405
    with pytest.raises(InvalidInput, match="positive"):
        read_certificate(negative)


def test_huge_certificates_are_refused(pki: Any) -> None:
    with pytest.raises(Unauthenticated, match="allowed"):
        verify_x509([b"\x30" * 40_000], Bundle(TrustDomain("example.org")), pki.now)
