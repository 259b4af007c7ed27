"""Fuzz targets of what servers answer: to an agent, to a command, and Vault to a server."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, cast

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from fuzz_files import InMemory
from fuzz_identity import BUNDLE, KEY, NOW, SPKI, WEB
from fuzz_wire import ended
from google.protobuf.message import DecodeError

from agent import jwt_svids, server_api
from agent.enforcement.bundle import read_keys
from agent.heard import Heard
from agent.node_attestors import X509ProofOfPossession
from control_plane.cli import remote, watching
from control_plane.clients.vault import logins, transit
from control_plane.clients.vault.answers import Answer
from control_plane.core.errors import GatehouseError
from control_plane.core.strict_json import load_object
from control_plane.proto import convert
from control_plane.proto.gatehouse.node.v1.node_pb2 import WatchResponse
from control_plane.runtime.transport.status import from_trailers

_KEY_PEM: Final = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
_PUBLIC_PEM: Final = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
_FILE: Final = InMemory("input")


def fuzz_challenge(data: bytes) -> bool:
    """What a server challenges a node with, and the header of a token that it signed."""
    InMemory.content = _KEY_PEM
    accepted = bool(jwt_svids.key_id_of(data.decode("latin-1")))
    accepted = bool(jwt_svids.key_id_of(base64.urlsafe_b64encode(data).decode())) or accepted
    with contextlib.suppress(GatehouseError):
        X509ProofOfPossession(_FILE, _FILE, lambda count: b"n" * count).respond(data)
        accepted = True
    return accepted


def fuzz_node_change(data: bytes) -> bool:
    """A push to an agent: entries, bundles, keys, who is quarantined."""

    async def pushed() -> AsyncIterator[WatchResponse]:
        yield WatchResponse.FromString(data)

    with contextlib.suppress(GatehouseError, DecodeError):
        change = ended(anext(server_api._changes(cast(Any, pushed()), Heard())))
        if change.news.keys:
            read_keys(change.news.keys)
        return True
    return False


def fuzz_trailers(data: bytes) -> bool:
    """Headers at the end of a call, a line each: accepted if they are those of an error with a status."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    headers = {name: value for name, _, value in (line.partition(": ") for line in lines)}
    error = from_trailers(headers)
    return error is not None and "grpc-status" in headers and str(error) != ""


def fuzz_rest_answer(data: bytes) -> bool:
    """What the management API answers to a command: a problem, an event."""
    assert str(remote.problem_in(400, data, "asking"))
    with contextlib.suppress(GatehouseError):
        watching._data(data.decode("utf-8", "replace"))
        return True
    return False


def fuzz_vault_keys(data: bytes) -> bool:
    """Public keys and signatures of Vault's transit engine, and the file of an unwrapped secret."""
    accepted = bool(logins._parse_kept(data))
    with contextlib.suppress(GatehouseError):
        answer = Answer(200, load_object(data, "the answer", 1 << 20))
        readers: tuple[Callable[[], bytes], ...] = (
            lambda: transit._public_key(answer, "k"),
            lambda: transit._signature(str(answer.section("data", "asking").get("signature")), "asking"),
        )
        for read in readers:
            with contextlib.suppress(GatehouseError):
                read()
                accepted = True
    return accepted


def _changes() -> list[bytes]:
    message = WatchResponse(
        full=True, change_sequence=7, removed_entry_ids=["b"], removed_federated=["a.test"]
    )
    entry = message.upserted.add(id="one", hint="h", dns_names=["web.test"], expires_at=NOW)
    for identity, path in ((entry.spiffe_id, "/web"), (entry.parent_id, "/spire/agent/join_token/a")):
        identity.trust_domain, identity.path = "example.org", path
    entry.selectors.add(type="unix", value="uid:1000")
    message.bundle.CopyFrom(convert.bundle_to_message(BUNDLE))
    message.priorities["one"] = 5
    message.policy.key_id = "k"
    message.policy_keys.add(key_id=hashlib.sha256(SPKI).hexdigest(), public_key=SPKI)
    message.quarantine.spiffe_ids.append(str(WEB))
    message.renew_early.within_seconds = 60
    message.decisions_wanted.interval_seconds = 5
    return [message.SerializeToString(), WatchResponse(removed_entry_ids=["a"]).SerializeToString()]


def _vault_keys() -> list[bytes]:
    edwards = ed25519.Ed25519PrivateKey.generate().public_key()
    raw = base64.b64encode(edwards.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    big = rsa.generate_private_key(65537, 2048).public_key()
    numbers = big.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    found: list[object] = [
        {"data": {"type": kind, "keys": {"1": {"public_key": key}}}}
        for kind, key in (("ecdsa-p256", _PUBLIC_PEM), ("ed25519", raw), ("rsa-2048", numbers))
    ]
    found.append({"data": {"signature": "vault:v1:AAAA"}})
    found.append({"wrapping_token_sha256": "a", "secret_id": "s"})
    return [json.dumps(one).encode() for one in found]


SEEDS: Final[dict[str, Callable[[], list[bytes]]]] = {
    "challenge": lambda: [
        json.dumps({"ecdsa_signature": {"nonce": base64.b64encode(b"n" * 32).decode()}}).encode(),
        b'{"alg":"ES256","kid":"k"}',
    ],
    "node_change": _changes,
    "trailers": lambda: [
        b":status: 200\ngrpc-status: 14\ngrpc-message: busy%20now\ngrpc-retry-pushback-ms: 1500",
        b"grpc-status: 7\ngrpc-status-details-bin: CAcSAm5vGkQKQHR5cGUuZ29vZ2xlYXBpcy5jb20vYQ\n:status: 503",
    ],
    "rest_answer": lambda: [
        b'{"type":"about:blank","title":"No","detail":"no such entry","hint":"list them"}',
        b'{"version":3,"kind":"assigned"}',
    ],
    "vault_keys": _vault_keys,
}
