"""Where this machine keeps the certificate authorities of the public web: one file, in PEM.

Envoy checks with it from whom it fetches the keys of token issuers. The file is looked for on the machine
where Envoy's configuration is written, since that is where Envoy reads it.
"""

import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

USUAL: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Red Hat, Fedora
    "/etc/pki/tls/certs/ca-bundle.crt",  # the same, older
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # the BSDs, macOS
)


def system_authorities() -> str:
    """The file: the one that SSL_CERT_FILE names, the usual ones, OpenSSL's own; empty if none is there."""
    return next((path for path in _candidates() if Path(path).is_file()), "")


def _candidates() -> Iterator[str]:
    if named := os.environ.get("SSL_CERT_FILE"):
        yield str(Path(named).absolute())
    yield from USUAL
    yield ssl.get_default_verify_paths().openssl_cafile
