"""The bundle as a value: the same bytes each time, hashes of what is in it, and what stands in its way."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jws
from joserfc.jwk import ECKey

from control_plane.authority.keys import MemoryKeyManager
from control_plane.authority.ports import KeyPurpose, KeyType
from control_plane.core.errors import InvalidInput
from control_plane.core.jwk import spki_of
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.rollout.assignment import Assignment, Cause
from control_plane.rollout.bundle import PolicyKey
from control_plane.rollout.opa_bundle import Edition, bundle_of, verification_key
from control_plane.rollout.opa_document import OpaDocument, canonical_json
from control_plane.rollout.opa_push import Wanted
from control_plane.rollout.version import PolicySource

INVENTORY = "mesh: {trust_domain: example.org}\nworkloads: []\n"
AUTHZ = "package gatehouse.authz\n\ndefault allow := false\n"
PRIVATE = ec.derive_private_key(7, ec.SECP256R1())
KEY = PolicyKey("name", spki_of(PRIVATE.public_key()), 1)
EDITION = Edition(
    TrustDomain.parse("example.org"),
    Assignment(
        sequence=4, version=2, digest="sha256:x", percent=100, cause=Cause.APPLY, by="a", reason="r", at=1
    ),
    3,
)


def document(**files: str) -> OpaDocument:
    source = PolicySource.of({"authz.rego": AUTHZ, **files}, INVENTORY)
    return OpaDocument.of(source, [SpiffeId.parse("spiffe://example.org/x")])


def sign(data: bytes) -> bytes:
    return PRIVATE.sign(data, ec.ECDSA(hashes.SHA256()))


def content(bundle: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(bundle)) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive}  # type: ignore[union-attr]


def test_every_file_is_signed_as_it_is() -> None:
    bundle = bundle_of(document(**{"x_test.rego": "package x_test\n"}), EDITION, KEY, sign)
    files = content(bundle.content)
    [token] = json.loads(files.pop(".signatures.json"))["signatures"]
    known = verification_key(KEY)
    told: Any = json.loads(jws.deserialize_compact(token, ECKey.import_key(known["key"])).payload)
    hashed = {one["name"]: one["hash"] for one in told["files"]}
    assert hashed == {name: hashlib.sha256(text).hexdigest() for name, text in files.items()}
    assert set(files) == {".manifest", "data.json", "authz.rego", "gatehouse/sidecar.rego"}
    assert known["algorithm"] == "ES256"


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_opa_takes_what_each_kind_of_key_signed(
    kind: str, peer: Callable[[str], Path], tmp_path: Path
) -> None:
    manager = MemoryKeyManager(os.urandom)
    signer = manager.create(KeyPurpose.POLICY, {"ec": KeyType.EC_P384, "rsa": KeyType.RSA_2048}[kind])
    key = PolicyKey("name", signer.public_key, 1)
    known = verification_key(key)
    (tmp_path / "key.pem").write_text(known["key"])
    for text, is_good in ((b"", True), (b"another", False)):
        bundle = bundle_of(document(), EDITION, key, lambda data, more=text: signer.sign(data + more))  # type: ignore[misc]
        (tmp_path / "bundle.tar.gz").write_bytes(bundle.content)
        command = [str(peer("opa")), "build", "-b", str(tmp_path / "bundle.tar.gz"), "-o", "out.tar.gz"]
        command += ["--verification-key", str(tmp_path / "key.pem"), "--verification-key-id", key.key_id]
        command += ["--signing-alg", known["algorithm"]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (done.returncode == 0) is is_good, done.stderr
    assert known["algorithm"] == {"ec": "ES384", "rsa": "PS256"}[kind]


def test_the_same_policy_has_the_same_tag_and_another_has_another() -> None:
    first, again = (bundle_of(document(), EDITION, KEY, sign) for _ in range(2))
    assert first.tag == again.tag
    assert {k: v for k, v in content(first.content).items() if k[:2] != ".s"} == {
        k: v for k, v in content(again.content).items() if k[:2] != ".s"
    }
    fixed = [bundle_of(document(), EDITION, KEY, lambda _: sign_of_one()).content for _ in range(2)]
    assert fixed[0] == fixed[1]
    other = document(**{"data.json": '{"a": 1}'})
    assert bundle_of(other, EDITION, KEY, sign).tag != first.tag


def sign_of_one() -> bytes:
    return bytes.fromhex("3006020101020101")


@pytest.mark.parametrize(
    "files",
    [
        {"mine.rego": "package gatehouse.sidecar\n\nx := 1\n"},
        {"mine.rego": "package gatehouse.sidecar.more\n\nx := 1\n"},
        {"mine.rego": "package inventory\n\nx := 1\n"},
        {"inventory/data.json": "{}"},
        {"data.json": '{"inventory": {}}'},
        {"gatehouse/sidecar/data.json": '{"quarantined": {}}'},
        {"gatehouse/sidecar.rego": "package other\n\nx := 1\n"},
    ],
)
def test_what_stands_where_ours_has_to_stand_is_refused(files: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match="has to stand"):
        document(**files)


def test_json_is_written_as_opa_hashes_it() -> None:
    value = {"b": ["<&>", "\u2028", "\u2029"], "a": {"é": None, "Z": 1.5}}
    text = '{"a":{"Z":1.5,"é":null},"b":["<&>","\\u2028","\\u2029"]}'
    assert canonical_json(value) == text.encode()


def test_a_push_splits_data_where_packages_stand() -> None:
    wanted = Wanted.of(
        document(**{"gatehouse/authz/limits/data.json": '{"n": 1}', "data.json": '{"a": [1]}'})
    )
    places = {".".join(place) for place in wanted.values}
    assert places == {
        "a", "inventory", "gatehouse.authz.limits",
        "gatehouse.sidecar.quarantined", "gatehouse.sidecar.pushed",
    }  # fmt: skip
    assert wanted.values[("gatehouse", "authz", "limits")] == {"n": 1}
