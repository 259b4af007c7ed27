"""The secrets that an Envoy may ask for by name, made from what its process is entitled to.

    default                    the default SVID with its key
    spiffe://domain/path       this SVID with its key
    ROOTCA                     our trust domain's authorities, as a plain list of CAs
    spiffe://domain            that trust domain's, ours or a federated one
    ALL                        every trust domain with its own authorities, for Envoy's SPIFFE validator

Those are the names of SPIRE, and the ones that Istio's proxies ask for. Any other name (`file-root:…`,
`kubernetes://…`, an identity of somebody else) is one that isn't there: it is waited for, and no error.
Messages are made once for all streams that are entitled to the same.
"""

import base64
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, Final

from agent.envoy import wire
from agent.envoy.subscription import Resource
from agent.holdings import Identity, View
from control_plane.core.bundle import Bundle

DEFAULT: Final = "default"
OWN_BUNDLE: Final = "ROOTCA"
ALL_BUNDLES: Final = "ALL"
VALIDATOR: Final = "envoy.tls.cert_validator.spiffe"
MAX_SHARED: Final = 512


class SecretMaker:
    """Makes secrets, and keeps those last made."""

    def __init__(self) -> None:
        self._made: OrderedDict[Hashable, Resource] = OrderedDict()

    def of(self, view: View) -> "Secrets":
        """All secrets of a workload, each made when it is looked at."""
        return Secrets(view, self._shared)

    def _shared(self, key: Hashable, make: Callable[[], Resource]) -> Resource:
        known = self._made.get(key)
        if known is None:
            known = self._made[key] = make()
        self._made.move_to_end(key)
        while len(self._made) > MAX_SHARED:
            self._made.popitem(last=False)
        return known


class Secrets(Mapping[str, Resource]):
    """The secrets of one view by name; those that can't be given yet are missing."""

    def __init__(self, view: View, shared: Callable[[Hashable, Callable[[], Resource]], Resource]) -> None:
        self._shared = shared
        bundles = [one for one in (view.bundle, *view.federated) if one is not None and one.x509_authorities]
        self._bundles = {str(one.trust_domain.id): one for one in bundles}
        self._own = view.bundle if view.bundle in bundles else None
        self._identities = {str(one.held.svid.spiffe_id): one for one in reversed(view.identities)}
        # While the SVID of the default entry is being signed there is no default, rather than a wrong one.
        first = view.entries[0].id if view.entries else ""
        self._default = next((one for one in view.identities if one.entry.id == first), None)

    def __getitem__(self, name: str) -> Resource:
        identity = self._default if name == DEFAULT else self._identities.get(name)
        if identity is not None:
            return self._certificate(name, identity)
        if name == ALL_BUNDLES and self._own is not None:
            return self._validator(name)
        bundle = self._own if name == OWN_BUNDLE else self._bundles.get(name)
        if bundle is not None:
            return self._authorities(name, bundle)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        if self._default is not None:
            yield DEFAULT
        if self._own is not None:
            yield from (OWN_BUNDLE, ALL_BUNDLES)
        yield from self._identities
        yield from self._bundles

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _certificate(self, name: str, identity: Identity) -> Resource:
        svid = identity.held.svid

        def make() -> Resource:
            message = wire.Secret(name=name)
            message.tls_certificate.certificate_chain.inline_bytes = b"".join(map(_pem, svid.chain))
            key = _pem(identity.held.private_key.reveal(), "PRIVATE KEY")
            message.tls_certificate.private_key.inline_bytes = key
            # The certificate names its key, so that its digest is version enough and tells nothing.
            return _resource(name, message, svid.chain)

        return self._shared((name, svid.chain), make)

    def _authorities(self, name: str, bundle: Bundle) -> Resource:
        certificates = tuple(one.certificate for one in bundle.x509_authorities)

        def make() -> Resource:
            message = wire.Secret(name=name)
            message.validation_context.trusted_ca.inline_bytes = b"".join(map(_pem, certificates))
            return _resource(name, message, certificates)

        return self._shared((name, certificates), make)

    def _validator(self, name: str) -> Resource:
        content = tuple(
            (one.trust_domain.name, tuple(each.certificate for each in one.x509_authorities))
            for one in self._bundles.values()
        )

        def make() -> Resource:
            validator = wire.SpiffeValidator()
            for domain, certificates in content:
                added = validator.trust_domains.add(name=domain)
                added.trust_bundle.inline_bytes = b"".join(map(_pem, certificates))
            message = wire.Secret(name=name)
            custom = message.validation_context.custom_validator_config
            custom.name = VALIDATOR
            custom.typed_config.Pack(validator)
            parts = [part for domain, found in content for part in (domain.encode(), *found)]
            return _resource(name, message, parts)

        return self._shared((name, content), make)


def _resource(name: str, message: Any, parts: tuple[bytes, ...] | list[bytes]) -> Resource:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(4, "big") + part)
    return Resource(name, digest.hexdigest()[:16], message.SerializeToString(deterministic=True))


def _pem(der: bytes, label: str = "CERTIFICATE") -> bytes:
    text = base64.b64encode(der)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return b"\n".join([f"-----BEGIN {label}-----".encode(), *lines, f"-----END {label}-----".encode(), b""])
