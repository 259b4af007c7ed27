"""What we issue: the issuer's rules of X509-SVID.md, both ways of building, and the last look."""

import os
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.core import leaf_check
from control_plane.core.bundle import Bundle, X509Authority
from control_plane.core.ca_profile import build_intermediate, build_root, can_be_constrained
from control_plane.core.certificate import Certificate, read_certificate
from control_plane.core.errors import Bug, InvalidInput
from control_plane.core.jwk import spki_of
from control_plane.core.leaf_check import check_leaf, check_signature
from control_plane.core.lifetime import Window
from control_plane.core.profile import SigningRequest, build_leaf, leaf_tbs
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.core.svid import Purpose, validate_x509
from control_plane.core.tbs import new_serial
from control_plane.core.template import LeafTemplate

NOW = 1_800_000_000
DOMAIN = TrustDomain("example.org")
LEAF_KEY = ec.generate_private_key(ec.SECP256R1())
LEAF_SPKI = spki_of(LEAF_KEY.public_key())
ID = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")


def signing(key: Any) -> Any:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.key_size]
        return lambda data: key.sign(data, ec.ECDSA(algorithm))
    if isinstance(key, rsa.RSAPrivateKey):
        return lambda data: key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return key.sign


class Hierarchy:
    def __init__(self, root_key: Any, issuing_key: Any, trust_domain: TrustDomain = DOMAIN) -> None:
        window = Window(NOW - 3600, NOW + 7 * 86400)
        root_spki = spki_of(root_key.public_key())
        self.sign = signing(issuing_key)
        self.root_der = build_root(trust_domain, root_spki, new_serial(os.urandom), window, signing(root_key))
        self.root = read_certificate(self.root_der)
        issuing_spki = spki_of(issuing_key.public_key())
        self.issuer_der = build_intermediate(
            trust_domain, issuing_spki, new_serial(os.urandom), window, self.root, signing(root_key)
        )
        self.issuer = read_certificate(self.issuer_der)
        self.bundle = Bundle(trust_domain, (X509Authority(self.root_der),))


P256 = Hierarchy(ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1()))


def request(**changes: Any) -> SigningRequest:
    fields: dict[str, Any] = {
        "spiffe_id": ID,
        "spki": LEAF_SPKI,
        "serial": new_serial(os.urandom),
        "window": Window(NOW - 120, NOW + 86400),
    }
    return SigningRequest(**{**fields, **changes})


def issued(**changes: Any) -> tuple[x509.Certificate, Certificate]:
    der = build_leaf(request(**changes), P256.issuer, P256.sign)
    return x509.load_der_x509_certificate(der), read_certificate(der)


SEGMENTS = st.lists(
    st.text("abcXYZ019._-", min_size=1, max_size=40).filter(lambda t: t not in (".", "..")),
    min_size=1,
    max_size=20,
)


@settings(max_examples=100)
@given(
    segments=SEGMENTS,
    randomness=st.binary(min_size=16, max_size=16),
    begins=st.integers(NOW - 3600, NOW + 3600),
    life=st.integers(60, 30 * 365 * 86400),
    dns=st.lists(st.sampled_from(["a.example.org", "*.b.example.org", "x" * 63 + ".y"]), unique=True),
)
def test_template_and_builder_give_the_same_bytes(
    segments: list[str], randomness: bytes, begins: int, life: int, dns: list[str]
) -> None:
    wanted = request(
        spiffe_id=SpiffeId.of(DOMAIN, *segments),
        serial=new_serial(lambda count: randomness[:count]),
        window=Window(begins, begins + life),
        dns_names=tuple(dns),
    )
    assert LeafTemplate.fits(wanted)
    assert LeafTemplate(P256.issuer).tbs(wanted) == leaf_tbs(wanted, P256.issuer)


@pytest.mark.parametrize("serial", [1, 127, 128, 255, 256, 2**64 - 1, 2**127, 2**128, 2**129 - 1])
def test_template_and_builder_agree_on_serial_numbers_of_any_length(serial: int) -> None:
    wanted = request(serial=serial)
    assert LeafTemplate(P256.issuer).tbs(wanted) == leaf_tbs(wanted, P256.issuer)


@pytest.mark.parametrize("end", [2524607999, 2524608000])
def test_template_and_builder_agree_on_both_sides_of_2050(end: int) -> None:
    wanted = request(window=Window(NOW, end))
    assert LeafTemplate(P256.issuer).tbs(wanted) == leaf_tbs(wanted, P256.issuer)


def test_only_p256_fits_the_template() -> None:
    other = spki_of(ed25519.Ed25519PrivateKey.generate().public_key())
    assert not LeafTemplate.fits(request(spki=other))
    assert not LeafTemplate.fits(request(serial=1 << 140))
    ed = Hierarchy(ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate())
    with pytest.raises(InvalidInput, match="P-256"):
        LeafTemplate(ed.issuer)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
)
def test_every_kind_of_authority_and_leaf_verifies(key: Any) -> None:
    made = Hierarchy(key, key.__class__ and key)
    wanted = request(spki=spki_of(key.public_key()))
    leaf = build_leaf(wanted, made.issuer, made.sign)
    check_leaf(leaf, wanted, made.issuer)
    check_signature(leaf, made.issuer)
    verified = validate_x509([leaf, made.issuer_der], made.bundle, NOW, purpose=Purpose.SERVER_AUTH)
    assert verified.spiffe_id == ID


def test_x_01_exactly_one_uri_name_the_id() -> None:
    _, facts = issued(dns_names=("a.example.org",))
    assert facts.names.uris == (str(ID),)
    assert facts.names.dns == ("a.example.org",) and not facts.names.others


def test_x_03_no_leaf_without_a_path() -> None:
    for build in (lambda r: leaf_tbs(r, P256.issuer), LeafTemplate(P256.issuer).tbs):
        with pytest.raises(InvalidInput, match="no path"):
            build(request(spiffe_id=DOMAIN.id))


def test_x_04_the_subject_is_not_empty_so_the_names_need_not_be_critical() -> None:
    parsed, facts = issued()
    assert parsed.subject.rdns and not facts.names.critical


def test_x_05_signing_certificates_are_svids_themselves() -> None:
    assert P256.root.names.uris == P256.issuer.names.uris == (str(DOMAIN.id),)


def test_id_11_the_signing_authority_of_a_trust_domain_carries_its_id() -> None:
    for authority in P256.bundle.x509_authorities:
        assert read_certificate(authority.certificate).names.uris == (str(DOMAIN.id),)


def test_id_13_id_and_key_are_inside_of_what_is_signed() -> None:
    parsed = x509.load_der_x509_certificate(leaf_with())
    assert str(ID).encode() in parsed.tbs_certificate_bytes
    assert GOOD.spki in parsed.tbs_certificate_bytes


def test_x_06_the_id_of_a_signing_certificate_has_no_path() -> None:
    assert not SpiffeId.parse(P256.issuer.names.uris[0]).has_path


def test_x_08_cas_are_cas_and_leaves_are_not() -> None:
    _, facts = issued()
    assert P256.root.is_ca and P256.issuer.is_ca
    assert facts.has_basic_constraints and not facts.is_ca


def test_x_09_path_lengths_and_the_uri_constraint() -> None:
    assert (P256.root.path_length, P256.issuer.path_length) == (1, 0)
    assert P256.root.name_constraints is None and P256.issuer.name_constraints is not None
    assert P256.issuer.name_constraints.permitted_subtrees == [x509.UniformResourceIdentifier("example.org")]


def test_x_09_a_stolen_issuing_key_cannot_speak_for_another_trust_domain() -> None:
    foreign = request(spiffe_id=SpiffeId.parse("spiffe://other.org/a"))
    leaf = build_leaf(foreign, P256.issuer, P256.sign)
    bundle = Bundle(TrustDomain("other.org"), P256.bundle.x509_authorities)
    with pytest.raises(Exception, match="not permitted"):
        validate_x509([leaf, P256.issuer_der], bundle, NOW)


@pytest.mark.parametrize("name", ["1.2.3.4", "a..b", ".a", "a.", "a.5"])
def test_x_09_names_that_cannot_be_constraints_are_left_unconstrained(name: str) -> None:
    domain = TrustDomain(name)
    assert not can_be_constrained(domain)
    made = Hierarchy(LEAF_KEY, ec.generate_private_key(ec.SECP256R1()), domain)
    assert made.issuer.name_constraints is None
    wanted = request(spiffe_id=SpiffeId.of(domain, "a"))
    validate_x509([build_leaf(wanted, made.issuer, made.sign), made.issuer_der], made.bundle, NOW)


def test_x_10_key_usage_is_there_and_critical() -> None:
    _, facts = issued()
    for certificate in (facts, P256.root, P256.issuer):
        assert certificate.key_usage is not None and certificate.key_usage.critical


def test_x_11_signing_certificates_may_sign() -> None:
    for certificate in (P256.root, P256.issuer):
        assert certificate.key_usage is not None
        assert certificate.key_usage.key_cert_sign and certificate.key_usage.crl_sign


def test_x_12_leaves_have_digital_signature_and_nothing_else() -> None:
    parsed, _ = issued()
    usage = parsed.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not (usage.key_cert_sign or usage.crl_sign or usage.key_encipherment or usage.key_agreement)


def test_x_14_leaves_serve_and_call() -> None:
    _, facts = issued()
    both = {ExtendedKeyUsageOID.SERVER_AUTH.dotted_string, ExtendedKeyUsageOID.CLIENT_AUTH.dotted_string}
    assert facts.extended_key_usages == both


def test_cas_have_distinct_subjects_and_leaves_key_identifiers() -> None:
    other = Hierarchy(LEAF_KEY, LEAF_KEY)
    assert len({P256.root.subject, P256.issuer.subject, other.root.subject, other.issuer.subject}) == 4
    _, facts = issued()
    assert facts.subject not in (P256.root.subject, P256.issuer.subject)
    assert facts.subject_key_id and facts.authority_key_id == P256.issuer.subject_key_id


def test_serial_numbers_have_128_random_bits_and_are_positive() -> None:
    zeros, ones = new_serial(lambda count: b"\x00" * count), new_serial(lambda count: b"\xff" * count)
    assert ones - zeros == 2**128 - 1
    for serial in (zeros, ones):
        parsed, _ = issued(serial=serial)
        assert parsed.serial_number == serial > 0


GOOD = request(dns_names=("a.example.org",))


def leaf_with(builder_changes: Any = None, **changes: Any) -> bytes:
    """A leaf by the library's builder, which may differ from GOOD in one thing."""
    wanted = SigningRequest(
        changes.get("spiffe_id", GOOD.spiffe_id),
        changes.get("spki", GOOD.spki),
        changes.get("serial", GOOD.serial),
        changes.get("window", GOOD.window),
        changes.get("dns_names", GOOD.dns_names),
    )
    return build_leaf(wanted, changes.get("issuer", P256.issuer), changes.get("sign", P256.sign))


@pytest.mark.parametrize(
    "changes",
    [
        {"spiffe_id": SpiffeId.parse("spiffe://example.org/admin")},
        {"spki": spki_of(ec.generate_private_key(ec.SECP256R1()).public_key())},
        {"spki": spki_of(ed25519.Ed25519PrivateKey.generate().public_key())},
        {"serial": GOOD.serial + 1},
        {"window": Window(NOW - 120, NOW + 86401)},
        {"window": Window(NOW - 121, NOW + 86400)},
        {"dns_names": ()},
        {"dns_names": ("a.example.org", "b.example.org")},
        {"issuer": P256.root},
    ],
)
def test_the_last_look_notices_each_difference(changes: dict[str, Any]) -> None:
    with pytest.raises(Bug):
        check_leaf(leaf_with(**changes), GOOD, P256.issuer)


def test_the_last_look_accepts_what_was_asked_for() -> None:
    assert check_leaf(leaf_with(), GOOD, P256.issuer) is None, "it raises or says nothing"


def test_a_common_name_is_there_if_it_was_asked_for_and_only_then() -> None:
    named = request(common_name="Gatehouse server of example.org")
    assert not LeafTemplate.fits(named)
    made = build_leaf(named, P256.issuer, P256.sign)
    check_leaf(made, named, P256.issuer)
    (name,) = x509.load_der_x509_certificate(made).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == named.common_name
    for other in ("", "Gatehouse server of example.com"):
        with pytest.raises(Bug, match="subject"):
            check_leaf(made, replace(named, common_name=other), P256.issuer)
    with pytest.raises(InvalidInput, match="common name"):
        build_leaf(request(common_name="x" * 65), P256.issuer, P256.sign)


def with_extensions(*extensions: tuple[x509.ExtensionType, bool]) -> bytes:
    parsed = x509.load_der_x509_certificate(leaf_with())
    builder = x509.CertificateBuilder(
        issuer_name=parsed.issuer,
        subject_name=parsed.subject,
        public_key=parsed.public_key(),
        serial_number=parsed.serial_number,
        not_valid_before=parsed.not_valid_before_utc,
        not_valid_after=parsed.not_valid_after_utc,
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(LEAF_KEY, hashes.SHA256()).public_bytes(Encoding.DER)


def test_the_last_look_accepts_another_order_and_refuses_more_or_less() -> None:
    parsed = x509.load_der_x509_certificate(leaf_with())
    extensions = [(extension.value, extension.critical) for extension in parsed.extensions]
    check_leaf(with_extensions(*reversed(extensions)), GOOD, P256.issuer)
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    for spoiled in (extensions[:-1], extensions[1:], [*extensions, (unknown, False)]):
        with pytest.raises(Bug, match="extension"):
            check_leaf(with_extensions(*spoiled), GOOD, P256.issuer)
    ca = [(x509.BasicConstraints(True, None), True), *extensions[:2], *extensions[3:]]
    with pytest.raises(Bug, match="extension"):
        check_leaf(with_extensions(*ca), GOOD, P256.issuer)
    uncritical = [(value, False) for value, _ in extensions]
    with pytest.raises(Bug, match="extension"):
        check_leaf(with_extensions(*uncritical), GOOD, P256.issuer)


def test_another_parser_reads_the_first_leaf_of_each_length_and_a_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    issuer = Hierarchy(ec.generate_private_key(ec.SECP256R1()), LEAF_KEY).issuer
    template = LeafTemplate(issuer)

    def look(*, serial: int = 1 << 128 | 1, path: str = "/cart") -> None:
        wanted = request(serial=serial, spiffe_id=SpiffeId(DOMAIN, path))
        tbs = template.tbs(wanted)
        check_leaf(template.assemble(tbs, P256.sign(tbs)), wanted, issuer)

    def look_where_parsing_differs(**changes: Any) -> None:
        with monkeypatch.context() as other:
            other.setattr(leaf_check, "spki_of", lambda key: b"another key")
            look(**changes)

    for _ in range(2):  # what another parser reads otherwise doesn't become known
        with pytest.raises(Bug, match="another parser"):
            look_where_parsing_differs()
    look()
    look_where_parsing_differs(serial=1 << 128 | 2, path="/shop")
    for changes in (
        {"path": "/cashier"},
        {"serial": 1 << 128},
        {"serial": (1 << 128) + leaf_check.PARSE_SAMPLE},
    ):
        with pytest.raises(Bug, match="another parser"):
            look_where_parsing_differs(**changes)


def test_another_parser_reads_every_leaf_that_is_not_as_we_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    extensions = x509.load_der_x509_certificate(leaf_with()).extensions
    turned = with_extensions(*((one.value, one.critical) for one in reversed(list(extensions))))
    for _ in range(2):
        check_leaf(turned, GOOD, P256.issuer)
    monkeypatch.setattr(leaf_check, "spki_of", lambda key: b"another key")
    with pytest.raises(Bug, match="another parser"):
        check_leaf(turned, GOOD, P256.issuer)


@pytest.mark.parametrize("cut", [0, 1, 10, 100, 300])
def test_the_last_look_refuses_what_cannot_be_read(cut: int) -> None:
    with pytest.raises(Bug):
        check_leaf(leaf_with()[:cut], GOOD, P256.issuer)


def test_the_last_look_refuses_every_changed_byte_before_the_signature() -> None:
    good = leaf_with()
    signed = len(leaf_tbs(GOOD, P256.issuer)) + 4
    for index in range(4, signed + 12):
        with pytest.raises(Bug):
            check_leaf(good[:index] + bytes((good[index] ^ 1,)) + good[index + 1 :], GOOD, P256.issuer)


def test_a_leaf_never_outlives_its_issuer() -> None:
    late = request(window=Window(NOW, P256.issuer.not_after + 1))
    with pytest.raises(Bug, match="beyond its issuer"):
        check_leaf(build_leaf(late, P256.issuer, P256.sign), late, P256.issuer)


def test_a_signature_by_another_key_is_noticed() -> None:
    with pytest.raises(Bug, match="signature"):
        check_signature(leaf_with(sign=signing(LEAF_KEY)), P256.issuer)


def test_openssl_believes_a_handshake_with_our_certificates(tmp_path: Path) -> None:
    now_window = Window(1_700_000_000, 4_000_000_000)
    key = ec.generate_private_key(ec.SECP256R1())
    root_key = ec.generate_private_key(ec.SECP256R1())
    root_spki, spki = spki_of(root_key.public_key()), spki_of(key.public_key())
    root_der = build_root(DOMAIN, root_spki, new_serial(os.urandom), now_window, signing(root_key))
    root = read_certificate(root_der)
    issuing = build_intermediate(DOMAIN, spki, new_serial(os.urandom), now_window, root, signing(root_key))
    issuer = read_certificate(issuing)
    wanted = request(window=now_window, dns_names=("localhost",))
    template = LeafTemplate(issuer)
    tbs = template.tbs(wanted)
    leaf = template.assemble(tbs, signing(key)(tbs))
    pem = "".join(ssl.DER_cert_to_PEM_cert(der) for der in (leaf, issuing))
    private = LEAF_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    (tmp_path / "chain.pem").write_text(pem + private)
    (tmp_path / "root.pem").write_text(ssl.DER_cert_to_PEM_cert(root_der))
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (server, client):
        context.load_cert_chain(tmp_path / "chain.pem")
        context.load_verify_locations(tmp_path / "root.pem")
    server.verify_mode = ssl.CERT_REQUIRED
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ends[0].version() == "TLSv1.3"
    assert ends[1].getpeercert(binary_form=True) == leaf


def test_the_openssl_command_sees_nothing_wrong(tmp_path: Path) -> None:
    program = Path("/usr/bin/openssl")
    if not program.exists():
        pytest.skip("no openssl command on this machine")
    for name, der in (("root", P256.root_der), ("issuing", P256.issuer_der), ("leaf", leaf_with())):
        (tmp_path / f"{name}.pem").write_text(ssl.DER_cert_to_PEM_cert(der))
    arguments = [
        "verify",
        "-x509_strict",
        "-attime",
        str(NOW),
        "-CAfile",
        "root.pem",
        "-untrusted",
        "issuing.pem",
    ]
    done = subprocess.run(
        [str(program), *arguments, "leaf.pem"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
