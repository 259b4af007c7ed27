"""The management API on TLS: who gets in by what, foreign clients, rotation, peers that stall."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

PEOPLE = "spiffe://example.org/people/"
CUT = {"spiffe_id": "spiffe://example.org/ns/shop/sa/web", "reason": "r"}


def curl(api: Any, path: str, *more: str) -> tuple[int, Any]:
    """What a person would type."""
    finished = subprocess.run(
        [
            "curl", "--silent", "--show-error", "--max-time", "30", "--cacert", str(api.data / "bundle.pem"),
            "--write-out", "\n%{http_code}", *more, f"https://localhost:{api.port}{path}",
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    body, _, status = finished.stdout.rpartition("\n")
    return int(status), json.loads(body) if body else None


def test_curl_by_certificate_and_by_token(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        vera, stranger = await api.mint(PEOPLE + "vera"), await api.mint(PEOPLE + "nobody")
        ask = asyncio.to_thread
        assert (await ask(curl, api, "/v1/health"))[0] == 401
        status, body = await ask(curl, api, "/v1/health", "--cert", str(vera))
        assert (status, body["trust_domain"]) == (200, "example.org")
        assert (await ask(curl, api, "/v1/health", "--cert", str(stranger)))[0] == 403
        token = "authorization: Bearer " + api.token("olga")
        status, body = await ask(curl, api, "/v1/quarantine", "-H", token, "--json", json.dumps(CUT))
        assert (status, body["changed"]) == (200, True)
        status, body = await ask(curl, api, "/v1/quarantine", "--cert", str(vera), "--json", json.dumps(CUT))
        assert status == 403 and PEOPLE + "vera has no role" in body["detail"]
        assert (await ask(curl, api, "/v1/health", "--http2", "--cert", str(vera)))[0] == 200
        for old in ("--tls-max", "1.2"), ("--tlsv1.0", "--tls-max", "1.1"):
            with pytest.raises(AssertionError, match="35 == 0"):
                await ask(curl, api, "/v1/health", *old, "--cert", str(vera))

    rest(scenario)


def test_an_anonymous_caller_gets_nothing_and_nothing_of_its_body_is_read(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        document = (await api.call("GET", "/v1/openapi.json")).body
        for path, methods in document["paths"].items():
            for method in methods:
                there = path.format(kind="x509", number=1, record_id="0-1")
                reply = await api.call(method.upper(), there, {"reason": "r"}, tls=True)
                assert reply.status == 401, (method, path)
                assert reply.headers["www-authenticate"] == "Bearer"
                assert reply.headers["content-type"] == "application/problem+json"
        for path in ("/v1/openapi.json", "/", "/v1/policy/../../etc/passwd"):
            assert (await api.call("GET", path, tls=True)).status == 401, path

        def half() -> bytes:
            with api.context().wrap_socket(
                socket.create_connection(("127.0.0.1", api.port), 30), server_hostname="localhost"
            ) as peer:
                peer.sendall(
                    b"POST /v1/policy/versions HTTP/1.1\r\nhost: x\r\ncontent-length: 20000000\r\n\r\n{"
                )
                return peer.recv(65536)

        assert b" 401 " in await asyncio.to_thread(half), "answered before the body came"

    rest(scenario)


def test_certificates_that_do_not_hold(rest: Any, tmp_path: Path) -> None:
    def forged(spiffe_id: str) -> Path:
        """Signed by an authority of its own that has our authority's name."""
        key, now = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
        import datetime

        begin = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(now)
            .issuer_name(now)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(begin)
            .not_valid_after(begin.replace(year=2099))
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)]), critical=True
            )
        )
        pem = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
        path = tmp_path / "forged.pem"
        path.write_bytes(pem + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return path

    async def scenario(api: Any) -> None:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await api.call("GET", "/v1/health", svid=forged(PEOPLE + "vera"))
        vera = await api.mint(PEOPLE + "vera")
        assert (await api.call("GET", "/v1/health", svid=vera)).status == 200
        cut = {"spiffe_id": PEOPLE + "vera", "reason": "left the company"}
        kept = api.connect(True, vera)
        with contextlib.closing(kept):

            def again() -> int:
                kept.request("GET", "/v1/health")
                answer = kept.getresponse()
                answer.read()
                return answer.status

            assert await asyncio.to_thread(again) == 200
            assert (await api.call("POST", "/v1/quarantine", cut)).status == 200
            assert await asyncio.to_thread(again) == 403, "an open connection is judged at each request"
        assert (await api.call("GET", "/v1/health", svid=vera)).status == 403
        assert (await api.call("POST", "/v1/quarantine/release", cut)).status == 200
        assert (await api.call("GET", "/v1/health", svid=vera)).status == 200
        token_wins = await api.call("GET", "/v1/ledger", svid=vera, by="audrey")
        assert token_wins.status == 200, "the token says who, the connection only carries it"
        bad_token = await api.call("GET", "/v1/health", svid=vera, token="x.y.z")
        assert bad_token.status == 401, "a bad token isn't mended by a good certificate"

    rest(scenario)


def test_scopes_of_spiffe_ids_end_at_a_segment(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        narrow = await api.mint(PEOPLE + "narrow")
        for below, status in (("ns/shop/sa/web", 200), ("ns/shopping/sa/web", 403), ("ns/lab", 403)):
            body = {"spiffe_id": f"spiffe://example.org/{below}", "reason": "r"}
            assert (await api.call("POST", "/v1/quarantine", body, svid=narrow)).status == status, below
        rolled = await api.call("POST", "/v1/policy/rollback", {"reason": "r"}, svid=narrow)
        assert rolled.status == 403
        [member] = (await api.call("GET", "/v1/quarantine")).body["quarantined"]
        assert member["by"] == PEOPLE + "narrow"
        glass = await api.call(
            "POST", "/v1/policy/keys", {"reason": "r"}, svid=narrow, gatehouse_break_glass="1"
        )
        assert glass.status == 403, "the glass is on the server's machine"

    rest(scenario)


def test_rotation_changes_the_next_connection_and_no_open_one(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        def certificate(connection: Any) -> bytes:
            connection.connect()
            return bytes(connection.sock.getpeercert(True))

        vera = await api.mint(PEOPLE + "vera")
        kept = api.connect(True, vera)
        with contextlib.closing(kept):
            first = await asyncio.to_thread(certificate, kept)
            names = x509.load_der_x509_certificate(first).extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            )
            assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [
                "spiffe://example.org/spire/server"
            ]
            for step in ("prepare", "activate"):
                assert (await api.call("POST", f"/v1/authority/x509/{step}", {"reason": "r"})).status == 200
            deadline = time.monotonic() + 40
            renewed = first
            while renewed == first:
                assert time.monotonic() < deadline, "the certificate of the new authority isn't shown"
                await asyncio.sleep(0.1)
                fresh = api.connect(True, vera)
                with contextlib.closing(fresh):
                    renewed = await asyncio.to_thread(certificate, fresh)

            def again() -> int:
                kept.request("GET", "/v1/health")
                return int(kept.getresponse().status)

            assert await asyncio.to_thread(again) == 200, "the open connection goes on"

    rest(scenario)


@pytest.mark.parametrize("tls", [False, True])
def test_peers_that_stall_or_talk_nonsense(rest: Any, monkeypatch: pytest.MonkeyPatch, tls: bool) -> None:
    from control_plane.api.rest import front
    from control_plane.wiring import rest_connection, rest_server

    monkeypatch.setattr(rest_server, "KEEP_ALIVE_SECONDS", 1)
    monkeypatch.setattr(rest_connection, "HEAD_SECONDS", 1.0)
    monkeypatch.setattr(front, "BODY_SECONDS", 1.0)

    async def scenario(api: Any) -> None:
        vera = await api.mint(PEOPLE + "vera")

        def sent(data: bytes) -> bytes:
            connection = api.connect(tls, vera if tls else None)
            with contextlib.closing(connection):
                if tls:
                    connection.connect()
                answer = b""
                with contextlib.suppress(ConnectionError):  # it may hang up before it has read everything
                    connection.sock.sendall(data)
                with contextlib.suppress(ConnectionError):
                    while piece := connection.sock.recv(65536):
                        answer += piece
                return answer

        ask = asyncio.to_thread
        assert await ask(sent, b"GET /v1/health HTTP/1.1\r\nhost: x\r\nx-slow: ") == b"", "a slow head"
        slow = await ask(
            sent,
            b"POST /v1/explain HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\nconnection: close\r\n\r\n{",
        )
        assert b" 408 " in slow and b"problem+json" in slow
        flood = b"GET /v1/health HTTP/1.1\r\n" + b"x-a: b\r\n" * 30_000 + b"\r\n"
        for nonsense in (
            flood,
            b"\x16\x03\x01" * 50 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\n",
        ):
            told = await ask(sent, nonsense)
            assert told == b"" or (told[9:10] == b"4" and b"problem+json" in told), told[:200]
        for smuggled in (
            b"content-length: 1\r\ncontent-length: 2\r\n",
            b"content-length: -1\r\n",
            b"content-length: 1\r\ntransfer-encoding: chunked\r\n",
            b"transfer-encoding: gzip, chunked\r\n",
        ):
            told = await ask(
                sent,
                b"POST /v1/explain HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
                + smuggled
                + b"\r\n1\r\nx\r\n0\r\n\r\n",
            )
            assert told[9:12] in (b"400", b"501", b""), (smuggled, told[:200])
        assert (await api.call("GET", "/v1/health")).status == 200

    rest(scenario)
