"""Fuzz targets of the server's borders: cursors and headers, alerts, pushed policies, messages of the wire,
Vault's answers, what nodes attest with, and the authorities' state in the database.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from fuzz_identity import AUTHORITY, BUNDLE, LEAF, NOW, SPKI, TD
from google.protobuf.message import DecodeError
from pydantic import ValidationError

from control_plane.api.opa.routes import wait_seconds_of
from control_plane.api.paging import read_token
from control_plane.api.rest import ledger
from control_plane.api.rest.conditions import read_cursor, read_place, tags_of
from control_plane.api.rest.falco import FalcoAlert
from control_plane.authority import state_json
from control_plane.authority.state import AuthorityState, CutOff, IssuingCa, JwtSlot, Upstream, X509Slot
from control_plane.clients.vault.answers import Answer, refusal, texts_of
from control_plane.clients.vault.chains import ordered_chain, read_pem
from control_plane.clients.vault.secrets import SecretReference
from control_plane.clients.vault.tokens import Lease
from control_plane.core.access import Grant
from control_plane.core.errors import GatehouseError
from control_plane.core.strict_json import load_object
from control_plane.identity.alert import Alert
from control_plane.identity.attestors.x509pop import X509PopAttestor
from control_plane.identity.ledger import parse_entry_id
from control_plane.proto import convert
from control_plane.proto.spire.api.types import bundle_pb2, entry_pb2
from control_plane.rollout.push_body import parse_push, read_push, write_push
from control_plane.runtime.addresses import HttpAddress, parse_bind, parse_loopback
from control_plane.runtime.tracing import TraceContext
from control_plane.runtime.transport.messages import decode_binary, decode_message, parse_timeout

T = TypeVar("T")


def _is_read(read: Callable[[], object]) -> bool:
    with contextlib.suppress(GatehouseError):
        read()
        return True
    return False


def fuzz_texts(data: bytes) -> bool:
    """Short texts of requests, headers and settings: cursors, tags, timeouts, addresses, grants."""
    text = data.decode("utf-8", "surrogateescape")
    for never_fails in (tags_of, wait_seconds_of, TraceContext.parse, decode_message):
        never_fails(text)
    readers: tuple[Callable[[str], object], ...] = (
        read_token,
        read_cursor,
        read_place,
        ledger._read_cursor,
        parse_timeout,
        decode_binary,
        parse_entry_id,
        parse_bind,
        SecretReference.parse,
        lambda text: parse_loopback("metrics", text),
        lambda text: HttpAddress.parse(text, setting="a", default_port=80, risk="it is read"),
        lambda text: Grant.parse(text, TD),
    )
    return sum(_is_read(lambda reader=reader: reader(text)) for reader in readers) > 0  # every one is tried


def fuzz_falco(data: bytes) -> bool:
    """An alert, as its route reads it."""
    with contextlib.suppress(ValidationError, GatehouseError):
        _ = Alert.of(FalcoAlert.model_validate_json(data).model_dump()).selectors
        return True
    return False


def fuzz_push(data: bytes) -> bool:
    """A pushed policy; what is read comes through the pipe to the reading process the same."""
    with contextlib.suppress(GatehouseError):
        read = parse_push(data)
        assert read_push(write_push(read)) == read
        return True
    return False


def fuzz_entry(data: bytes) -> bool:
    """A registration entry of the wire: what is read is written to something that reads the same."""
    with contextlib.suppress(GatehouseError, DecodeError):
        read = convert.entry_from_message(entry_pb2.Entry.FromString(data))
        assert convert.entry_from_message(convert.entry_to_message(read)) == read
        return True
    return False


def fuzz_bundle_message(data: bytes) -> bool:
    """A bundle of the wire, likewise."""
    with contextlib.suppress(GatehouseError, DecodeError):
        read = convert.bundle_from_message(bundle_pb2.Bundle.FromString(data))
        assert convert.bundle_from_message(convert.bundle_to_message(read)) == read
        return True
    return False


def fuzz_vault(data: bytes) -> bool:
    """An answer of Vault: a login, a refusal, a chain."""
    with contextlib.suppress(GatehouseError):
        answer = Answer(200, load_object(data, "the answer", 1 << 20))
        str(refusal(answer, "asking"))
        accepted = _is_read(lambda: Lease.from_answer(answer, "logging in", 0.0))
        return _is_read(lambda: _chain(answer)) or accepted
    return False


def _chain(answer: Answer) -> tuple[bytes, ...]:
    texts = texts_of(answer.section("data", "asking"), "ca_chain", "asking")
    first, *others = read_pem(texts, "asking") or (b"",)
    return ordered_chain(first, others, "asking")


def fuzz_attestation(data: bytes) -> bool:
    """What a node presents as x509pop; never attested, since nobody signed the answer to the challenge."""
    conversation = X509PopAttestor(TD, [AUTHORITY], bytes).begin(data, NOW)
    with contextlib.suppress(GatehouseError):
        ended(conversation.proceed(None))
        with contextlib.suppress(GatehouseError):
            ended(conversation.proceed(data))
            raise AssertionError("a node was attested that signed nothing")
        return True
    return False


def ended(coroutine: Awaitable[T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        next(iter(coroutine.__await__()))
    except StopIteration as ended:
        result: T = ended.value
        return result
    raise AssertionError("it waits")


def fuzz_authority_state(data: bytes) -> bool:
    """The authorities' state: what is read is written as it was."""
    with contextlib.suppress(GatehouseError):
        read = state_json.parse(data)
        assert state_json.parse(state_json.dump(read)) == read
        return True
    return False


_FALCO: Final = {
    "rule": "Terminal shell in container",
    "priority": "Critical",
    "time": "2026-01-30T10:20:05.408091526Z",
    "output": "a shell",
    "tags": ["container"],
    "output_fields": {"proc.exepath": "/bin/sh", "user.uid": 1000, "k8s.ns.name": "<NA>"},
}
_PUSH: Final = {
    "files": {"policy.rego": "package p\n", "lib/a.rego": "package a\n"},
    "inventory": "version: 1\n",
    "reason": "a change",
    "wait_seconds": 5,
}
_LIFE: Final[dict[str, Any]] = {"not_before": NOW, "not_after": NOW + 9, "cut_off": CutOff(NOW, "me", "why")}
_STATE: Final = AuthorityState(
    TD,
    (
        X509Slot(
            authority_id="a" * 40,
            root=AUTHORITY,
            root_key_id="root-1",
            issuing=IssuingCa(AUTHORITY, "issuing-1", NOW, NOW + 9, Upstream("i", (AUTHORITY,))),
            **_LIFE,
        ),
    ),
    (JwtSlot(authority_id="b", public_key=SPKI, key_id="jwt-1", **_LIFE),),
    4,
)


def _entries() -> list[bytes]:
    message = entry_pb2.Entry(id="one", x509_svid_ttl=3600, dns_names=["a.test"], hint="h", expires_at=NOW)
    message.spiffe_id.trust_domain = message.parent_id.trust_domain = "example.org"
    message.spiffe_id.path, message.parent_id.path = "/web", "/spire/agent/x509pop/a"
    message.selectors.add(type="unix", value="uid:1000")
    message.federates_with.append("other.test")
    return [message.SerializeToString()]


def _vault() -> list[bytes]:
    auth = {"client_token": "hvs.a", "lease_duration": 3600, "renewable": True, "policies": ["a"]}
    chain = [base64.encodebytes(der).decode() for der in (LEAF, AUTHORITY)]
    texts = [f"-----BEGIN CERTIFICATE-----\n{one}-----END CERTIFICATE-----\n" for one in chain]
    answers: list[object] = [
        {"auth": auth, "data": {}},
        {"data": {"ca_chain": texts, "certificate": texts[0]}},
        {"errors": ["permission denied"]},
    ]
    return [json.dumps(one).encode() for one in answers]


SEEDS: Final[dict[str, Callable[[], list[bytes]]]] = {
    "texts": lambda: [
        *(b"MTIz", b"ZW50cnktMQ==", b'W/"1", "2"', b"5S", b"AAEC", b"1-17", b"[::1]:8443", b"127.0.0.1:0"),
        *(b"respond-async, wait=30", b"https://vault.test:8200", b"login:ada author spiffe://example.org/a"),
        *(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"a%20b%ff", b"vault:kv/data/a#b"),
        base64.urlsafe_b64encode(b"[[0,5],[1,7]]"),
    ],
    "falco": lambda: [json.dumps(_FALCO).encode()],
    "push": lambda: [json.dumps(_PUSH).encode()],
    "entry": _entries,
    "bundle_message": lambda: [convert.bundle_to_message(BUNDLE).SerializeToString()],
    "vault": _vault,
    "attestation": lambda: [
        json.dumps(
            {
                "certificates": [base64.b64encode(LEAF).decode()],
                "ecdsa_signature": {"nonce": base64.b64encode(b"n" * 32).decode(), "r": "AQ==", "s": "AQ=="},
            }
        ).encode()
    ],
    "authority_state": lambda: [state_json.dump(_STATE).encode()],
}
