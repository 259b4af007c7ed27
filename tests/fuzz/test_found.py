"""Inputs that once ended in a crash, by target; each must end in a value or an error of ours ever after."""

from __future__ import annotations

import json
from typing import Final

import pytest
import targets
from envoy.service.accesslog.v3 import als_pb2

_NESTED: Final = b"[" * 3000
_DIGITS: Final = b"9" * 5000
_ENTRY: Final = {"spiffe_id": "spiffe://a/b", "parent_id": "spiffe://a/c", "selectors": ["a:b"]}

FOUND: Final[dict[str, list[bytes]]] = {
    "settings": [b"issuers = " + _NESTED, b"issuers = " + _DIGITS, b"[rate_limits]\na = " + b"{a=" * 1500],
    "texts": [b"127.0.0.1:" + _DIGITS],
    "description": [b"name = " + _NESTED, b"name: " + _NESTED, b"- " * 1500],
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
