"""Inputs that once ended in a crash, by target; each must end in a value or an error of ours ever after."""

from __future__ import annotations

import base64
import json
from typing import Final

import pytest
import targets
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from envoy.service.accesslog.v3 import als_pb2
from fuzz_identity import KEY, LEAF

_NESTED: Final = b"[" * 3000
_DIGITS: Final = b"9" * 5000
_ENTRY: Final = {"spiffe_id": "spiffe://a/b", "parent_id": "spiffe://a/c", "selectors": ["a:b"]}
_KEY: Final = KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
_P256, _OTHER_CURVE = (bytes.fromhex(f"06082a8648ce3d0301{last}") for last in ("07", "09"))
_VERSION_6: Final = LEAF.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x06")
_ED25519_TOO_SHORT: Final = bytes.fromhex("302d020100300506032b65700421041f") + bytes(31)


def _pem(label: str, der: bytes) -> bytes:
    return (
        f"-----BEGIN {label}-----\n".encode() + base64.encodebytes(der) + f"-----END {label}-----\n".encode()
    )


FOUND: Final[dict[str, list[bytes]]] = {
    "settings": [b"issuers = " + _NESTED, b"issuers = " + _DIGITS, b"[rate_limits]\na = " + b"{a=" * 1500],
    "texts": [b"127.0.0.1:" + _DIGITS],
    "description": [
        *(b"name = " + _NESTED, b"name: " + _NESTED, b"- " * 1500),
        b"name: 0x" + b"f" * 5000,
    ],
    "agent_settings": [
        b'trust_domain = "a"\nserver = "a:' + _DIGITS + b'"',
        b"svid_cache_size = " + _NESTED,
    ],
    "environment": [
        *(b"OTEL_EXPORTER_OTLP_ENDPOINT=http://[::1", b"OTEL_EXPORTER_OTLP_ENDPOINT=http://a:99999"),
        b"a=unix:/\x80",
    ],
    "process": [b"Uid:\t1\nGid:\t1\nGroups:\t\n", b"7 (a) S 1"],
    "private_key": [
        *(_pem("PRIVATE KEY", _KEY.replace(_P256, _OTHER_CURVE)), _pem("CERTIFICATE", _VERSION_6)),
        _pem("PRIVATE KEY", _ED25519_TOO_SHORT),
    ],
    "certificate": [_VERSION_6],
    "vault_keys": [_NESTED, '{"data": {"signature": "vault:v1:A\u01beA"}}'.encode()],
    "challenge": [_NESTED, b'{"ecdsa_signature":' + _NESTED],
    "rest_answer": [_NESTED],
    "stored_policy": [_NESTED, b"\x0a\xff"],
    "database_row": [b"{}", b'{"selectors":"[5]"}'],
    "kept": [json.dumps(["[" * 3000]).encode(), b'[[[0], [[[], "a"], [["path"], 80]], [1], ""]]'],
    "annotations": [_NESTED, b"title: " + _DIGITS, b"title: a\ncustom: " + b"[" * 200 + b"]" * 200],
    "bearer_token": [
        b"{}\n" + _NESTED,
        _NESTED + b'\n{"iss":"https://i"}',
        b'{"alg":"ES256"}\n{"iss":"https://i","exp":1e999}',
    ],
    "key_set": [b'{"keys":' + _NESTED],
    "access_log": [b"\x12\x03\n\x01\x2a"],
    "entry_file": [
        _NESTED,
        *(
            json.dumps(
                [
                    {
                        "spiffe_id": "spiffe://a/b",
                        "parent_id": "spiffe://a/c",
                        "selectors": ["a:b"],
                        name: value,
                    }
                ]
            ).encode()
            for name, value in (
                *(("x509_svid_ttl_seconds", 1 << 40), ("x509_svid_ttl_seconds", 1e999), ("hint", "\ud800")),
                *(("admin", "no"), ("hint", None), ("selectors", "a:b"), ("expires_at", 1 << 70)),
            )
        ),
    ],
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_refused(name: str) -> None:
    target, _ = targets.load(name)
    for data in FOUND[name]:
        assert not target(data), data[:200]


def test_a_method_that_a_newer_envoy_knows_is_read_as_none() -> None:
    target, (report,) = targets.load("access_log")
    message = als_pb2.StreamAccessLogsMessage.FromString(report)
    message.http_logs.log_entry[0].request.request_method = 99
    assert target(message.SerializeToString())
