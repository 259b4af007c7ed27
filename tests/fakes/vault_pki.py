"""A PKI mount of a Vault at the level of `authority.vault_ports`, on a clock that tests move.

It signs with real keys, cuts lifetimes silently as Vault does, and can be sealed, broken and told to lie.
What HTTP does to all that is the business of `vault_server`, which is held against real servers.
"""

from __future__ import annotations

import asyncio
import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control_plane.authority.vault_ports import LeafOrder, VaultHealth, VaultIssuer
from control_plane.core.errors import FailedPrecondition, GatehouseError, Unavailable
from control_plane.runtime.clock import Clock

DAY = 86400
Builder = x509.CertificateBuilder


@dataclass(eq=False)
class Ca:
    """One issuer of the mount, with what is above it."""

    name: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    above: Ca | None = None

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def chain(self) -> tuple[bytes, ...]:
        return (self.der, *(self.above.chain if self.above is not None else ()))


@dataclass(eq=False)
class FakePki:
    """Implements `VaultPki`."""

    clock: Clock
    fault: GatehouseError | None = None
    hangs: bool = False
    clock_error_seconds: int = 0
    max_ttl_seconds: int = 10 * 365 * DAY
    leaf_max_ttl_seconds: int = DAY
    leaf_backdate_seconds: int = 150
    allowed: Callable[[LeafOrder], bool] = lambda order: True
    change: Callable[[LeafOrder, dict[str, Any]], None] | None = None  # what a leaf is made of
    answer: Callable[[tuple[bytes, ...]], tuple[bytes, ...]] | None = None  # what is said about it
    constraint: bool = True
    issuers: list[Ca] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    revoked: list[int] = field(default_factory=list)
    rotations: int = 0
    calls: int = 0
    at_once: int = 0
    most_at_once: int = 0
    sealed: bool = False

    def __post_init__(self) -> None:
        self.root = self.add_root("root-1")
        self.default = self.root

    def now(self) -> int:
        return self.clock.unix() + self.clock_error_seconds

    def add_root(self, name: str, *, ttl_seconds: int = 3650 * DAY) -> Ca:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Vault {name}")])
        builder = self._builder(subject, subject, key.public_key(), -7200, ttl_seconds)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        builder = builder.add_extension(_ca_usage(), True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        made = Ca(name, builder.sign(key, hashes.SHA256()), key)
        self.issuers.append(made)
        return made

    def add_intermediate(self, name: str, above: Ca, *, path_length: int | None = 1) -> Ca:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Vault {name}")])
        builder = self._builder(subject, above.certificate.subject, key.public_key(), -7000, 1000 * DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), True)
        builder = builder.add_extension(_ca_usage(), True)
        builder = _with_key_ids(builder, key.public_key(), above)
        made = Ca(name, builder.sign(above.key, hashes.SHA256()), key, above)
        self.issuers.append(made)
        return made

    async def issuer(self) -> VaultIssuer:
        await self._called()
        return VaultIssuer(self.default.name, self.default.der, self.default.chain)

    async def sign_intermediate(
        self,
        csr: bytes,
        *,
        common_name: str,
        ttl_seconds: int,
        uri_host: str,
        backdate_seconds: int,
        issuer_id: str = "",
    ) -> tuple[bytes, ...]:
        await self._called()
        ca = self._named(issuer_id)
        request = x509.load_der_x509_csr(csr)
        assert request.is_signature_valid
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        key: Any = request.public_key()
        ends_in = min(ttl_seconds, self.max_ttl_seconds, self._left(ca))
        builder = self._builder(subject, ca.certificate.subject, key, -backdate_seconds, ends_in)
        if self.now() - backdate_seconds < ca.certificate.not_valid_before_utc.timestamp():
            raise FailedPrecondition("not_before_duration reaches before the issuer's own start")
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        builder = builder.add_extension(_ca_usage(), True)
        if uri_host and self.constraint:
            permitted = [x509.UniformResourceIdentifier(uri_host)]
            builder = builder.add_extension(x509.NameConstraints(permitted, None), True)
        builder = _with_key_ids(builder, key, ca)
        made = builder.sign(ca.key, hashes.SHA256()).public_bytes(Encoding.DER)
        chain = (made, *ca.chain)
        return self.answer(chain) if self.answer is not None else chain

    async def sign_leaf(self, order: LeafOrder) -> tuple[bytes, ...]:
        await self._called()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
        finally:
            self.at_once -= 1
        if not self.allowed(order):
            raise FailedPrecondition(f"role gatehouse: URI name {order.spiffe_id} not allowed")
        ca = self._named(order.issuer_id)
        facts: dict[str, Any] = {
            "key": x509.load_der_x509_csr(order.csr).public_key(),
            "uris": [str(order.spiffe_id)],
            "dns": list(order.dns_names),
            "common_name": "",
            "ca": None,
            "usage": None,  # False: none at all
            "critical": True,
            "client": True,
            "serial": None,
            "begins_in": -self.leaf_backdate_seconds,
            "ends_in": min(order.ttl_seconds, self.leaf_max_ttl_seconds, self._left(ca)),
            "signer": ca,
        }
        if self.change is not None:
            self.change(order, facts)
        made = self._leaf(facts, ca)
        self.leaves.append(made)
        chain = (made, *ca.chain)
        return self.answer(chain) if self.answer is not None else chain

    async def health(self) -> VaultHealth:
        if self.sealed:
            return VaultHealth.SEALED
        return VaultHealth.ACTIVE if self.fault is None and not self.hangs else VaultHealth.UNREACHABLE

    async def revoke(self, serial: int) -> None:
        await self._called()
        self.revoked.append(serial)

    async def rotate_crl(self) -> None:
        await self._called()
        self.rotations += 1

    async def _called(self) -> None:
        self.calls += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.sealed:
            raise Unavailable("Vault is sealed")
        if self.fault is not None:
            raise self.fault

    def _named(self, issuer_id: str) -> Ca:
        for ca in self.issuers:
            if ca.name == issuer_id:
                return ca
        raise FailedPrecondition(f"issuer {issuer_id} isn't there")

    def _left(self, ca: Ca) -> int:
        return int(ca.certificate.not_valid_after_utc.timestamp()) - self.now()

    def _leaf(self, facts: dict[str, Any], issuer: Ca) -> bytes:
        names = (
            [x509.NameAttribute(NameOID.COMMON_NAME, facts["common_name"])] if facts["common_name"] else []
        )
        builder = self._builder(
            x509.Name(names),
            issuer.certificate.subject,
            facts["key"],
            facts["begins_in"],
            facts["ends_in"],
            facts["serial"],
        )
        usages = [ExtendedKeyUsageOID.SERVER_AUTH] + [ExtendedKeyUsageOID.CLIENT_AUTH] * facts["client"]
        san: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in facts["uris"]]
        san += [x509.DNSName(name) for name in facts["dns"]]
        if facts["usage"] is not False:
            builder = builder.add_extension(facts["usage"] or _usage(), facts["critical"])
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), False)
        if facts["ca"] is not None:
            builder = builder.add_extension(x509.BasicConstraints(facts["ca"], None), True)
        builder = _with_key_ids(builder, facts["key"], issuer)
        builder = builder.add_extension(x509.SubjectAlternativeName(san), False)
        return builder.sign(facts["signer"].key, hashes.SHA256()).public_bytes(Encoding.DER)

    def _builder(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        key: Any,
        begins_in: int,
        ends_in: int,
        serial: int | None = None,
    ) -> Builder:
        def at(seconds: int) -> datetime.datetime:
            return datetime.datetime.fromtimestamp(self.now() + seconds, datetime.UTC)

        return x509.CertificateBuilder(
            subject_name=subject,
            issuer_name=issuer,
            public_key=key,
            serial_number=int.from_bytes(os.urandom(20), "big") >> 1 if serial is None else serial,
            not_valid_before=at(begins_in),
            not_valid_after=at(ends_in),
        )


def _with_key_ids(builder: Builder, key: Any, issuer: Ca) -> Builder:
    own = x509.SubjectKeyIdentifier.from_public_key(key)
    above = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = builder.add_extension(own, False)
    return builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(above), False)


def usage(**changes: bool) -> x509.KeyUsage:
    """A key usage: none of all but what is named."""
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: changes.get(name, False) for name in names})


def _usage() -> x509.KeyUsage:
    return usage(digital_signature=True)


def _ca_usage() -> x509.KeyUsage:
    return usage(key_cert_sign=True, crl_sign=True)
