"""Fuzz targets of what callers bring: bearer tokens, scrapes, reports of Envoys, files of entries."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final, cast

import typer
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2
from fuzz_files import InMemory
from fuzz_identity import KEY, NOW, WEB
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2

from agent.envoy import counters, counting, running
from control_plane.api.rest.subjects import OidcIssuer, Subjects
from control_plane.cli import entry_flags
from control_plane.core.errors import GatehouseError
from control_plane.runtime.metrics import Metrics
from control_plane.runtime.metrics_server import MetricsServer
from control_plane.runtime.otlp_names import scopes

_LOOP: Final = asyncio.new_event_loop()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _subject(token: str) -> bool:
    connection = SimpleNamespace(headers={"authorization": f"Bearer {token}"})
    with contextlib.suppress(GatehouseError):
        return _SUBJECTS.of(cast(Any, connection)).id.startswith("login:")
    return False


def fuzz_bearer_token(data: bytes) -> bool:
    """A token of the management API as it comes, and header and claims (a line each) that the issuer's key
    has signed: only these ever have a subject."""
    InMemory.content = _JWKS
    text = data.decode("latin-1")  # as servers give headers to applications
    assert not _subject(text), "a token was believed that nobody signed"
    parts = data.split(b"\n", 1)
    signed = ".".join(_base64url(part) for part in parts)
    assert not _subject(f"{signed}.{_base64url(b'x' * 64)}"), "any signature will do"
    numbers = decode_dss_signature(KEY.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return _subject(f"{signed}.{_base64url(b''.join(one.to_bytes(32, 'big') for one in numbers))}")


def fuzz_key_set(data: bytes) -> bool:
    """The file with an issuer's keys, and a token that none of them has signed."""
    InMemory.content = data
    subjects = Subjects([_ISSUER], cast(Any, None), lambda: NOW)
    with contextlib.suppress(GatehouseError):
        subjects.of(cast(Any, SimpleNamespace(headers={"authorization": f"Bearer {_UNSIGNED}"})))
        raise AssertionError("a token was believed that nobody signed")
    return bool(subjects._keys)  # it was read, and not believed for another reason


def fuzz_metrics_request(data: bytes) -> bool:
    """What comes on the port for Prometheus; accepted if it was answered with metrics."""
    return _LOOP.run_until_complete(_scraped(data))


async def _scraped(data: bytes) -> bool:
    reader = asyncio.StreamReader(limit=1 << 14)
    reader.feed_data(data)
    reader.feed_eof()
    writer = _Writer()
    await _METRICS._serve(reader, cast(Any, writer))
    assert writer.closed
    assert not writer.sent or writer.sent.startswith(b"HTTP/1.1 ")
    return writer.sent.startswith(b"HTTP/1.1 200 ")


class _Writer:
    """Where an answer is written to."""

    def __init__(self) -> None:
        self.sent, self.closed = b"", False
        self.transport = self

    def write(self, data: bytes) -> None:
        self.sent += data

    async def drain(self) -> None:
        """Nobody is slow here."""

    def abort(self) -> None:
        self.closed = True

    close = abort


def fuzz_access_log(data: bytes) -> bool:
    """What an Envoy reports of requests that keep running."""
    with contextlib.suppress(GatehouseError):
        return bool(list(running._read(data)))
    return False


def fuzz_counters(data: bytes) -> bool:
    """What an Envoy has counted, as OTLP: never fewer requests than denials."""
    with contextlib.suppress(GatehouseError):
        found = counting.read(data)
        assert all(0 <= one.denied <= one.requests for one in found.values())
        return bool(found)
    return False


def fuzz_entry_file(data: bytes) -> bool:
    """Entries in a file, as `entry create --data` takes them: a usage error is an answer too."""
    InMemory.content = data
    with contextlib.suppress(typer.BadParameter):
        return all(given.message.SerializeToString() for given in entry_flags.from_file(_FILE))
    return False


def _jwk() -> dict[str, str]:
    numbers = KEY.public_key().public_numbers()
    x, y = (_base64url(one.to_bytes(32, "big")) for one in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": "P-256", "kid": "k", "alg": "ES256", "use": "sig", "x": x, "y": y}


_JWKS: Final = json.dumps({"keys": [_jwk()]}).encode()
_HEADER: Final = b'{"alg":"ES256","kid":"k","typ":"JWT"}'
_CLAIMS: Final = {
    "iss": "https://i",
    "aud": "gatehouse",
    "sub": "ada",
    "iat": NOW,
    "nbf": NOW,
    "exp": NOW + 99,
}
_UNSIGNED: Final = ".".join(map(_base64url, (_HEADER, json.dumps(_CLAIMS).encode(), b"x" * 64)))
_FILE: Final = InMemory("input")
_ISSUER: Final = OidcIssuer("login", "https://i", _FILE, "gatehouse", "sub")
_METRICS: Final = MetricsServer(Metrics(), "127.0.0.1", 0)


def _subjects() -> Subjects:
    """They know the issuer's key; its file isn't read again while its size stays."""
    InMemory.content = _JWKS
    subjects = Subjects([_ISSUER], cast(Any, None), lambda: NOW)
    subjects._key_set(_ISSUER)
    return subjects


_SUBJECTS: Final = _subjects()


def _tokens() -> list[bytes]:
    admin = {**_CLAIMS, "aud": ["a", "gatehouse"], "groups": [1.5, None], "exp": NOW + 0.5}
    return [_HEADER + b"\n" + json.dumps(claims).encode() for claims in (_CLAIMS, admin)]


def _reports() -> list[bytes]:
    message = als_pb2.StreamAccessLogsMessage()
    entry = message.http_logs.log_entry.add()
    common = entry.common_properties
    common.access_log_type = accesslog_pb2.AccessLogType.DownstreamPeriodic
    common.start_time.seconds = NOW
    for certificate in ("peer_certificate_properties", "local_certificate_properties"):
        getattr(common.tls_properties, certificate).subject_alt_name.add(uri=str(WEB))
    common.tls_properties.tls_sni_hostname = "web.test"
    common.downstream_local_address.socket_address.port_value = 8443
    common.metadata.filter_metadata["envoy.filters.http.jwt_authn"].update({"payload": {"iss": "https://i"}})
    entry.request.path, entry.request.authority, entry.request.request_method = "/a?b", "web.test", 1
    return [message.SerializeToString()]


def _counted() -> list[bytes]:
    request = metrics_service_pb2.ExportMetricsServiceRequest()
    scope = scopes(request.resource_metrics.add()).add()
    for name, number in ((counters.REQUESTS, 7), (counters.DENIED, 2), (counters.CUT_OFF, 1)):
        point = scope.metrics.add(name=name).sum.data_points.add(as_int=number)
        point.attributes.add(key=counters.WORKLOAD).value.string_value = str(WEB)
    return [request.SerializeToString()]


_ENTRY: Final = {
    "spiffe_id": str(WEB),
    "parent_id": "spiffe://example.org/agent",
    "selectors": ["unix:uid:1000"],
    "x509_svid_ttl_seconds": 3600,
    "dns_names": ["web.test"],
    "federates_with": ["other.test"],
    "hint": "h",
    "admin": True,
    "expires_at": NOW,
    "priority": -1,
}

SEEDS: Final[dict[str, Callable[[], list[bytes]]]] = {
    "bearer_token": _tokens,
    "key_set": lambda: [
        _JWKS,
        json.dumps({"keys": [{"kty": "RSA", "n": "3Z" + "a" * 339 + "Q", "e": "AQAB", "kid": "k"}]}).encode(),
        b'{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}',
    ],
    "metrics_request": lambda: [
        b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HEAD /metrics?a HTTP/1.0\r\n\r\n",
    ],
    "access_log": _reports,
    "counters": _counted,
    "entry_file": lambda: [
        json.dumps({"entries": [_ENTRY]}).encode(),
        json.dumps([{name: _ENTRY[name] for name in ("spiffe_id", "parent_id", "selectors")}]).encode(),
    ],
}
