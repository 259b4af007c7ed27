"""An OPA bundle: a gzipped tar of modules, data, manifest and signature. Pure: same input, same bytes.

Source: OPA's documentation of bundles (file format, signing), measured against OPA 1.19. Snapshots only: OPA
may offer to take deltas, and always takes a snapshot. The signature is a JWT by the policy key over the hash
of each file; JSON files are written in the form that OPA hashes.
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from control_plane.core.jwk import PublicKey, base64url, load_public_key
from control_plane.core.jwt_svid import jwt_algorithm
from control_plane.core.spiffe_id import TrustDomain
from control_plane.rollout.assignment import Assignment
from control_plane.rollout.bundle import PolicyKey
from control_plane.rollout.opa_document import OpaDocument, canonical_json

MEDIA_TYPE: Final = "application/vnd.openpolicyagent.bundles"
"""Without it OPA doesn't poll long."""
_SIGNATURES: Final = ".signatures.json"


@dataclass(frozen=True, slots=True)
class OpaBundle:
    """The file, and the tag that names its content: all but the signature, and the key that made it."""

    revision: str
    tag: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Edition:
    """What a bundle is made from: an assignment, and the revision of the quarantine."""

    trust_domain: TrustDomain
    assignment: Assignment
    quarantine_revision: int

    @property
    def revision(self) -> str:
        """What OPA shows in its status and writes into its decision log."""
        return f"v{self.assignment.version}-a{self.assignment.sequence}-q{self.quarantine_revision}"


def bundle_of(
    document: OpaDocument, edition: Edition, key: PolicyKey, sign: Callable[[bytes], bytes]
) -> OpaBundle:
    """The signed bundle. `sign` gives DER for EC keys, as `authority.ports.Signer` does."""
    manifest = {
        "revision": edition.revision,
        "roots": list(document.roots),
        "rego_version": 1,
        "metadata": {
            "trust_domain": edition.trust_domain.name,
            "version": edition.assignment.version,
            "digest": edition.assignment.digest,
            "sequence": edition.assignment.sequence,
            "quarantine_revision": edition.quarantine_revision,
        },
    }
    files = {
        ".manifest": canonical_json(manifest),
        "data.json": canonical_json(document.data),
        **{name: text.encode() for name, text in document.modules.items()},
    }
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    token = _token(hashes, key, sign)
    signatures = canonical_json({"plugin": "_default", "signatures": [token]})
    tag = hashlib.sha256(json.dumps([hashes, key.key_id], sort_keys=True).encode()).hexdigest()[:32]
    return OpaBundle(edition.revision, f'"{tag}"', _packed({**files, _SIGNATURES: signatures}))


def verification_key(key: PolicyKey) -> dict[str, str]:
    """The key as `keys.<key ID>` in OPA's configuration wants it."""
    public_key = load_public_key(key.public_key)
    pem = public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {"algorithm": _algorithm(public_key), "key": pem.decode("ascii")}


def _token(hashes: Mapping[str, str], key: PolicyKey, sign: Callable[[bytes], bytes]) -> str:
    public_key = load_public_key(key.public_key)
    header = {"alg": _algorithm(public_key), "kid": key.key_id, "typ": "JWT"}
    files = [{"name": name, "hash": found, "algorithm": "SHA-256"} for name, found in sorted(hashes.items())]
    signed = f"{base64url(canonical_json(header))}.{base64url(canonical_json({'files': files}))}"
    signature = sign(signed.encode("ascii"))
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        width = (public_key.curve.key_size + 7) // 8
        first, second = decode_dss_signature(signature)
        signature = first.to_bytes(width, "big") + second.to_bytes(width, "big")
    return f"{signed}.{base64url(signature)}"


def _algorithm(key: PublicKey) -> str:
    """As keys for policies sign, by RFC 7518's names."""
    return "PS256" if isinstance(key, rsa.RSAPublicKey) else jwt_algorithm(key)


def _packed(files: Mapping[str, bytes]) -> bytes:
    """A tar without owners and times."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), compresslevel=6, mtime=0)
