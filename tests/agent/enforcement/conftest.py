"""Signed policies to feed an agent with."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from control_plane.proto.gatehouse.node.v1 import node_pb2 as wire

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


@dataclass
class Author:
    """Signs policies as a server does, independently of the server's code."""

    key: Key

    @property
    def spki(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def key_id(self) -> str:
        return hashlib.sha256(self.spki).hexdigest()

    @property
    def keys(self) -> dict[str, bytes]:
        return {self.key_id: self.spki}

    def sign(self, payload: bytes) -> wire.SignedPolicy:
        data = b"gatehouse policy bundle v1\n" + payload
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            digest = hashes.SHA384() if self.key.curve.key_size == 384 else hashes.SHA256()
            signature = self.key.sign(data, ec.ECDSA(digest))
        elif isinstance(self.key, rsa.RSAPrivateKey):
            signature = self.key.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
        else:
            signature = self.key.sign(data)
        return wire.SignedPolicy(payload=payload, signature=signature, key_id=self.key_id)

    def policy(
        self,
        sequence: int = 1,
        *,
        version: int = 1,
        files: Mapping[str, str] | None = None,
        inventory: str = "",
        trust_domain: str = "example.org",
    ) -> wire.SignedPolicy:
        bundle = wire.PolicyBundle(
            trust_domain=trust_domain,
            sequence=sequence,
            version=version,
            digest=f"sha256:{version}",
            issued_at=1_800_000_000,
            files=[wire.PolicyFile(path=path, content=text.encode()) for path, text in (files or {}).items()],
            inventory=inventory.encode(),
        )
        return self.sign(zlib.compress(bundle.SerializeToString()))


@pytest.fixture(scope="session")
def author_of() -> Callable[[Key], Author]:
    return Author


@pytest.fixture(scope="session")
def author() -> Author:
    return Author(ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(scope="session")
def stranger() -> Author:
    return Author(ec.generate_private_key(ec.SECP256R1()))
