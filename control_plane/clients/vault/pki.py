"""A PKI mount of Vault: the issuer that signs, our intermediates, leaves under one role, revocation.

`sign-verbatim` is never used: it would take names from the CSR. Names go by the API's fields alone, and the
role is told to ignore those of the CSR, since a server checks the two ways differently. What comes back is
put in a form that can be checked, and checked by those who asked.
"""

import asyncio
import base64
from collections.abc import Sequence
from typing import Final

from cryptography import x509

from control_plane.authority.vault_ports import LeafOrder, VaultHealth, VaultIssuer
from control_plane.clients.vault.answers import Answer, text_of, texts_of
from control_plane.clients.vault.chains import is_root, ordered_chain, read_pem
from control_plane.clients.vault.door import VaultDoor
from control_plane.core.certificate import read_certificate
from control_plane.core.dns_name import check_dns_name
from control_plane.core.errors import FailedPrecondition, NotFound

DEFAULT_ISSUER: Final = "default"


class PkiMount:
    """Implements `authority.vault_ports.VaultPki`."""

    def __init__(self, door: VaultDoor, *, mount: str, role: str, issuer: str = "") -> None:
        self._door = door
        self._mount = mount
        self._role = role
        # Named in each path, so that what `issuer` shows is what signs, whatever the role says.
        self._issuer = issuer or DEFAULT_ISSUER

    async def issuer(self) -> VaultIssuer:
        """See `VaultPki`."""
        what = f"reading the issuer {self._issuer} of {self._mount}"
        answer = await self._ask("get", f"issuer/{self._issuer}/json", None, what=what, anonymous=True)
        data = answer.section("data", what)
        (certificate, *_) = read_pem((text_of(data, "certificate", what),), what)
        listed = read_pem(texts_of(data, "ca_chain", what), what)
        chain = await asyncio.to_thread(ordered_chain, certificate, listed, what)
        if not is_root(chain[-1]):
            title = read_certificate(chain[-1]).title
            raise FailedPrecondition(
                f"{what}: its chain ends at {title}, which isn't self-signed",
                hint=f"import the root: vault write {self._mount}/issuers/import/cert pem_bundle=@root.pem",
            )
        issuer_id = data.get("issuer_id")
        return VaultIssuer(issuer_id if isinstance(issuer_id, str) else "", certificate, chain)

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
        """See `VaultPki`.

        Vault makes the name constraint from a parameter; OpenBao has none and takes it from the CSR, so it is
        asked for again that way where the first certificate has no constraint.
        """
        issuer = issuer_id or self._issuer
        what = f"signing an intermediate by the issuer {issuer} of {self._mount}"
        # Servers from before there were several issuers in a mount know the first path alone.
        path = "root/sign-intermediate" if issuer == DEFAULT_ISSUER else f"issuer/{issuer}/sign-intermediate"
        body: dict[str, object] = {
            "csr": csr_pem(csr),
            "common_name": common_name,
            "exclude_cn_from_sans": True,
            "format": "pem",
            "max_path_length": 0,
            "not_before_duration": f"{backdate_seconds}s",
            "ttl": f"{ttl_seconds}s",
        }
        # Vault takes these from the request alone, and without them the intermediate is no SVID.
        body["uri_sans"] = ",".join(_uris_of(csr))
        if uri_host:
            body["permitted_uri_domains"] = [uri_host]
        chain = _signed(await self._ask("post", path, body, what=what), what)
        if uri_host and read_certificate(chain[0]).name_constraints is None:
            body |= {"use_csr_values": True}
            chain = _signed(await self._ask("post", path, body, what=what), what)
        return chain

    async def sign_leaf(self, order: LeafOrder) -> tuple[bytes, ...]:
        """See `VaultPki`."""
        what = f"signing a leaf for {order.spiffe_id} under the role {self._role} of {self._mount}"
        body: dict[str, object] = {
            "csr": csr_pem(order.csr),
            "exclude_cn_from_sans": True,
            "format": "pem",
            # Lists with commas: a SPIFFE ID has none, and neither has a DNS name, or one would become two.
            "uri_sans": str(order.spiffe_id),
            "ttl": f"{order.ttl_seconds}s",
        }
        if order.dns_names:
            body["alt_names"] = ",".join(check_dns_name(name) for name in order.dns_names)
        path = f"issuer/{order.issuer_id or self._issuer}/sign/{self._role}"
        return _signed(await self._ask("post", path, body, what=what), what)

    async def health(self) -> VaultHealth:
        """See `VaultPki`."""
        return await self._door.health()

    async def revoke(self, serial: int) -> None:
        """See `VaultPki`. A leaf under a role with `no_store` isn't known; see `revoke_certificate`."""
        digits = f"{serial:x}"
        digits = "0" * (len(digits) % 2) + digits
        colons = ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))
        what = f"revoking the certificate {colons} of {self._mount}"
        await self._ask("post", "revoke", {"serial_number": colons}, what=what)

    async def revoke_certificate(self, certificate: bytes) -> None:
        """Revokes a certificate (DER) that the mount signed and didn't store. Idempotent."""
        what = f"revoking {read_certificate(certificate).title} in {self._mount}"
        await self._ask("post", "revoke", {"certificate": _pem(certificate, "CERTIFICATE")}, what=what)

    async def rotate_crl(self) -> None:
        """See `VaultPki`; the delta list too, where the mount keeps one."""
        what = f"writing the revocation list of {self._mount} anew"
        await self._ask("get", "crl/rotate", None, what=what)
        # Where delta lists are off, or the server has none, this says so, and there is nothing to rotate.
        try:
            await self._ask("get", "crl/rotate-delta", None, what=what)
        except FailedPrecondition:
            return

    async def _ask(
        self, method: str, path: str, body: dict[str, object] | None, *, what: str, anonymous: bool = False
    ) -> Answer:
        try:
            return await self._door.ask(method, f"{self._mount}/{path}", body, what=what, anonymous=anonymous)
        except NotFound as error:
            raise FailedPrecondition(
                error.message, hint="`gatehouse check vault` tells whether mount, issuer and role are there"
            ) from error


def _uris_of(csr: bytes) -> tuple[str, ...]:
    """The URI names that our own request asks for."""
    try:
        names = x509.load_der_x509_csr(csr).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(names.value.get_values_for_type(x509.UniformResourceIdentifier))


def csr_pem(der: bytes) -> str:
    """A CSR as Vault takes it."""
    return _pem(der, "CERTIFICATE REQUEST")


def _signed(answer: Answer, what: str) -> tuple[bytes, ...]:
    """The certificate and what was listed above it, each once; the root may be among them."""
    data = answer.section("data", what)
    texts: Sequence[str] = (
        text_of(data, "certificate", what),
        *texts_of(data, "ca_chain", what),
    )
    issuing = data.get("issuing_ca")
    if isinstance(issuing, str) and issuing:
        texts = (*texts, issuing)
    return read_pem(texts, what)


def _pem(der: bytes, label: str) -> str:
    body = base64.b64encode(der).decode()
    lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n"
