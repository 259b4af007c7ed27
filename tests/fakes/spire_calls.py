"""Single requests to SPIRE's server API, with what a test wants to say of them as arguments.

An entry is `deviant` unless it is given an ID, and a bundle is named by its test: both can be removed.
"""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from foreign_caller import Request
from spire_requests import AGENT, BUNDLE, ENTRY

from control_plane.proto.spire.api.server.agent.v1 import agent_pb2 as agent
from control_plane.proto.spire.api.server.bundle.v1 import bundle_pb2 as bundle
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2 as entry
from control_plane.proto.spire.api.server.svid.v1 import svid_pb2 as svid
from control_plane.proto.spire.api.types import bundle_pb2, jointoken_pb2, selector_pb2
from control_plane.proto.spire.api.types.entry_pb2 import Entry
from control_plane.proto.spire.api.types.spiffeid_pb2 import SPIFFEID

SVID = "/spire.api.server.svid.v1.SVID/"


def entry_of(
    *, selectors: list[tuple[str, str]] | None = None, path: str = "/deviant", **other: Any
) -> Entry:
    pairs = [("unix", "uid:77")] if selectors is None else selectors
    return Entry(
        **{"id": "deviant", **other},
        spiffe_id=SPIFFEID(trust_domain="interop.test", path=path),
        parent_id=SPIFFEID(trust_domain="interop.test", path="/node"),
        selectors=[selector_pb2.Selector(type=type_, value=value) for type_, value in pairs],
    )


def create(*entries: Entry) -> Request:
    message = entry.BatchCreateEntryRequest(entries=entries)
    return Request(ENTRY + "BatchCreateEntry", message, entry.BatchCreateEntryResponse)


def delete(*ids: str) -> Request:
    return Request(
        ENTRY + "BatchDeleteEntry", entry.BatchDeleteEntryRequest(ids=ids), entry.BatchDeleteEntryResponse
    )


def list_entries(**fields: Any) -> Request:
    return Request(ENTRY + "ListEntries", entry.ListEntriesRequest(**fields), entry.ListEntriesResponse)


def filtered(**fields: Any) -> Request:
    return list_entries(filter=entry.ListEntriesRequest.Filter(**fields))


def bundle_of(trust_domain: str, *certificates: bytes, keys: tuple[Any, ...] = (), hint: int = 0) -> Any:
    message = bundle_pb2.Bundle(trust_domain=trust_domain, refresh_hint=hint)
    for certificate in certificates:
        message.x509_authorities.add(asn1=certificate)
    for key in keys:
        message.jwt_authorities.add(public_key=_public(key), key_id="key")
    return message


def _public(key: Any) -> bytes:
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    encoded: bytes = key.public_key().public_bytes(serialization.Encoding.DER, spki)
    return encoded


def set_bundle(one: bundle_pb2.Bundle) -> Request:
    message = bundle.BatchSetFederatedBundleRequest(bundle=[one])
    return Request(BUNDLE + "BatchSetFederatedBundle", message, bundle.BatchSetFederatedBundleResponse)


def delete_bundle(trust_domain: str) -> Request:
    message = bundle.BatchDeleteFederatedBundleRequest(trust_domains=[trust_domain])
    return Request(BUNDLE + "BatchDeleteFederatedBundle", message, bundle.BatchDeleteFederatedBundleResponse)


def join_token(**fields: Any) -> Request:
    message = agent.CreateJoinTokenRequest(**{"ttl": 60, **fields})
    return Request(AGENT + "CreateJoinToken", message, jointoken_pb2.JoinToken)


def mint_x509(key: Any, ttl: int = 0, dns_name: str = "") -> Request:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier("spiffe://interop.test/minted")]
    names += [x509.DNSName(dns_name)] if dns_name else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    csr = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    return Request(
        SVID + "MintX509SVID", svid.MintX509SVIDRequest(csr=csr, ttl=ttl), svid.MintX509SVIDResponse
    )


def mint_jwt(*audience: str, ttl: int = 0) -> Request:
    identity = SPIFFEID(trust_domain="interop.test", path="/minted")
    message = svid.MintJWTSVIDRequest(id=identity, audience=audience, ttl=ttl)
    return Request(SVID + "MintJWTSVID", message, svid.MintJWTSVIDResponse)


def match_of(kind: Any, number: int, **fields: Any) -> Any:
    message = kind(**fields)
    message.match = number
    return message
