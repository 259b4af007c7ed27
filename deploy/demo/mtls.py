"""Mutual TLS between two SPIFFE identities over the standard library's `ssl`.

OpenSSL checks the chain against the trust bundle, `peer_id` then reads whose certificate it was; a caller
compares that with the one identity it expects. Contexts are made per connection from what the source holds
at that moment, so a renewed certificate is used from the next connection on. A private key passes through a
file in memory, because `ssl` loads keys from files only; it never reaches a disk.
"""

from __future__ import annotations

import os
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from spiffe import X509Source


class WrongPeer(Exception):
    """The other side proved an identity, and not the one that was expected."""


def server_context(source: X509Source) -> ssl.SSLContext:
    """A context that presents our SVID and demands one of the caller."""
    return _context(source, ssl.PROTOCOL_TLS_SERVER)


def client_context(source: X509Source) -> ssl.SSLContext:
    """A context that presents our SVID and checks the callee's by its chain; names are not host names."""
    return _context(source, ssl.PROTOCOL_TLS_CLIENT)


def peer_id(connection: ssl.SSLSocket) -> str:
    """The SPIFFE ID in the certificate that the other side proved to hold. Raises `WrongPeer` if none."""
    presented = connection.getpeercert(binary_form=True)
    if presented is None:
        raise WrongPeer("the other side presented no certificate")
    certificate = x509.load_der_x509_certificate(presented)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise WrongPeer(f"expected one URI in the certificate, found {len(uris)}")
    return uris[0]


def require_peer(connection: ssl.SSLSocket, expected: str) -> str:
    """The peer's ID if it is the expected one. Raises `WrongPeer`."""
    found = peer_id(connection)
    if found != expected:
        raise WrongPeer(f"expected {expected}, and {found} answered")
    return found


def _context(source: X509Source, protocol: int) -> ssl.SSLContext:
    """TLS 1.3, our chain and key, and the bundle of our own trust domain as the only trust."""
    svid = source.svid
    bundle = source.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    if bundle is None:
        raise WrongPeer(f"no bundle for {svid.spiffe_id.trust_domain}")
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the identity is the SPIFFE ID, compared after the handshake
    context.verify_mode = ssl.CERT_REQUIRED
    for authority in bundle.x509_authorities:
        context.load_verify_locations(cadata=authority.public_bytes(serialization.Encoding.DER))
    chain = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in svid.cert_chain)
    key = svid.private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    in_memory = os.memfd_create("svid", os.MFD_CLOEXEC)
    try:
        os.write(in_memory, chain + key)
        context.load_cert_chain(f"/proc/self/fd/{in_memory}")
    finally:
        os.close(in_memory)
    return context
