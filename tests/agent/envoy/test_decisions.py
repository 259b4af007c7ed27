"""What the agent decides for a real Envoy: requests that Envoy's rules can't decide, and what still runs."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import random
from typing import Any

import pytest
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2
from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf import empty_pb2, struct_pb2
from google.protobuf.message import DecodeError

from agent.enforcement.ports import Ruling
from agent.envoy import filters
from agent.envoy.names import JWT_FILTER
from agent.envoy.request_input import input_document
from agent.envoy.running import _read
from control_plane.core.errors import Code, GatehouseError, InvalidInput, PermissionDenied, Unavailable
from control_plane.core.spiffe_id import SpiffeId
from control_plane.runtime.transport import Channel

WEB, PAY = "spiffe://agents.test/web", "spiffe://agents.test/pay"
CUT_OFF_SECONDS = 3.0  # half a second between reports, a second to drain, and a busy machine
CHECK = "/envoy.service.auth.v3.Authorization/Check"


async def stream(it: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request from web to pay that doesn't end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", it.ports["http"])
    writer.write(b"GET /stream?x=1 HTTP/1.1\r\nhost: Shop.test:80\r\n\r\n")
    assert b" 200 " in await asyncio.wait_for(reader.readline(), 5)
    return reader, writer


async def answered(it: Any, path: str, headers: str) -> None:
    """Asks until the request is allowed."""
    async with asyncio.timeout(15):
        while (await it.request(path, headers))[0] != 200:  # noqa: ASYNC110 - Envoy has no event for it
            await asyncio.sleep(0.05)


async def ended(reader: asyncio.StreamReader) -> None:
    while await reader.read(4096):
        pass


def test_a_running_request_that_lost_its_right_is_cut_off_and_others_come_again(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any
) -> None:
    asked: list[Any] = []

    def judge(destination: Any, request: Any) -> Ruling:
        asked.append((str(destination), request))
        return Ruling(it_is_allowed[0], "judged")

    it_is_allowed = [True]

    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            await it.pair()
            it.enforcement.judge = judge
            it.enforcement.put(enforcing(admitting(PAY, WEB)))
            await it.until_status(200)
            reader, writer = await stream(it)
            await asyncio.sleep(1.5)  # longer than it takes to judge it, and more than the skew of clocks

            # Another policy that still allows it: judged, and left alone.
            it.enforcement.put(enforcing(admitting(PAY, WEB), sequence=2))
            await it.run.until(lambda: asked, "the running request is judged")
            assert not reader.at_eof()

            it_is_allowed[0] = False
            it.enforcement.put(enforcing(admitting(PAY, WEB), sequence=3))
            async with asyncio.timeout(CUT_OFF_SECONDS):
                await ended(reader)
            writer.close()
            # Envoy's own rules admit it, so a new one runs and isn't ended for the same change again.
            reader, writer = await stream(it)
            await asyncio.sleep(2)
            assert not reader.at_eof()
            writer.close()

    run_async(work())
    destination, request = asked[0]
    assert destination == PAY
    assert request["source"]["spiffe_id"] == WEB
    assert request["request"] == {"method": "GET", "path": "/stream", "headers": {}, "host": "shop.test"}
    assert request["destination"]["port"] > 0
    assert request["connection"]["mtls"] is True


def test_the_agent_judges_what_envoy_can_not_say(
    lab: Any,
    entry: Any,
    run_async: Any,
    admitting: Any,
    enforcing: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def judge(destination: Any, request: Any) -> Ruling:
        asked.append(request)
        return Ruling(
            request["request"]["path"] == "/v1/a" and request["request"]["headers"].get("x-role") == "clerk",
            "a rule of authz",
            ("authz.rego:12",),
            7,
        )

    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            pay, _ = await it.pair()
            it.enforcement.judge = judge
            it.enforcement.put(enforcing(dataclasses.replace(admitting(PAY), custom=True)))
            role = "X-Role: clerk\r\n"
            await answered(it, "/v1/a?b=c", role)
            assert (await it.request("/v1/x/../a", role))[0] == 200
            status, body = await it.request("/v1/b", role)
            assert (status, body) == (403, "denied by policy: 'a rule of authz'\n")
            assert (await it.request("/v1/a"))[0] == 403
            assert await pay.stat(r".*update_rejected") == 0
            # What the agent said is in Envoy's access log.
            await it.run.until(
                lambda: '["authz.rego:12"]' in (it.folder / "access.log").read_text(), "logged"
            )
            # While the agent doesn't know yet what is enforced, Envoy asks again.
            it.enforcement.judge = lambda *_: Ruling(False, "too early", certain=False)
            waiting = asyncio.create_task(it.request("/v1/a", role))
            await asyncio.sleep(1)
            assert not waiting.done()
            it.enforcement.judge = judge
            assert (await waiting)[0] == 200
            # The agent is away for longer than Envoy waits for it: nothing is allowed.
            service = {**filters.HTTP_EXTERNAL["grpc_service"], "timeout": "2s"}
            monkeypatch.setattr(filters, "HTTP_EXTERNAL", {**filters.HTTP_EXTERNAL, "grpc_service": service})
            before = await pay.stat(r"extension_config_discovery.*config_reload")
            it.enforcement.put(enforcing(dataclasses.replace(admitting(PAY, WEB), custom=True), sequence=2))
            await asyncio.sleep(0)
            async with asyncio.timeout(20):
                while await pay.stat(r"extension_config_discovery.*config_reload") == before:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            await it.close()
            assert (await it.request("/v1/a", role))[0] == 503
            await it.serve()
            await answered(it, "/v1/a", role)

    run_async(work())
    first = asked[-1]
    assert first["source"] == {"ip": "127.0.0.1", "spiffe_id": WEB}
    assert first["request"]["host"] == "shop.test"
    assert not any(name.startswith(":") for name in first["request"]["headers"])


def test_the_agent_judges_connections_of_tcp(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any
) -> None:
    asked: list[Any] = []
    allowed = [True]

    def judge(destination: Any, request: Any) -> Ruling:
        asked.append(request)
        return Ruling(allowed[0] and "request" not in request, "judged")

    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            pay, _ = await it.pair()
            it.enforcement.judge = judge

            def put(sequence: int, digest: str) -> None:
                policy = enforcing(dataclasses.replace(admitting(PAY), custom=True), sequence=sequence)
                it.enforcement.put(dataclasses.replace(policy, digest=digest))

            put(1, "sha256:one")
            reader, writer = await talking(it)
            # The agent is away: who talks goes on, who comes waits for it.
            await it.close()
            waiting = asyncio.create_task(talking(it))
            await asyncio.sleep(1)
            assert not waiting.done()
            writer.write(b"again")
            assert await reader.readexactly(5) == b"again"
            await it.serve()
            (await waiting)[1].close()
            # The same policy again ends nothing, another one ends what was judged by the one before.
            put(2, "sha256:one")
            writer.write(b"more")
            await it.run.until(lambda: len(it.parts.fleet) == 2, "both Envoys are back")
            assert await reader.readexactly(4) == b"more"
            allowed[0] = False
            put(3, "sha256:two")
            async with asyncio.timeout(CUT_OFF_SECONDS):
                await ended(reader)
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", it.ports["tcp"])
            writer.write(b"hello")
            assert await asyncio.wait_for(reader.read(), 20) == b""
            writer.close()
            assert await pay.stat(r".*update_rejected") == 0

    run_async(work())
    assert asked[0]["source"] == {"ip": "127.0.0.1", "spiffe_id": WEB}
    assert asked[0]["connection"] == {"mtls": True}
    assert asked[0]["destination"]["port"] > 0


async def talking(it: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection from web to the TCP service of pay that is answered; tried until one is."""
    async with asyncio.timeout(20):
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", it.ports["tcp"])
            writer.write(b"hello")
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                assert await reader.readexactly(5) == b"hello"
                return reader, writer
            writer.close()


def check(destination: str = PAY, **http: str) -> bytes:
    """A request as Envoy sends it."""
    request = external_auth_pb2.CheckRequest()
    request.attributes.destination.principal = destination
    request.attributes.source.principal = WEB
    if http.get("method", "GET"):
        request.attributes.request.http.method = http.get("method", "GET")
        request.attributes.request.http.path = "/"
    payload: bytes = request.SerializeToString()
    return payload


def test_only_the_workloads_own_envoy_may_ask(lab: Any, entry: Any, run_async: Any, enforcing: Any) -> None:
    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            it.enforcement.put(enforcing())
            channel = Channel.unix(it.socket)

            async def ask(payload: bytes) -> Any:
                message = empty_pb2.Empty.FromString(payload)
                return await channel.unary(CHECK, message, external_auth_pb2.CheckResponse, timeout=10)

            try:
                assert (await ask(check())).status.code == 0
                with pytest.raises(PermissionDenied, match="isn't entitled to"):
                    await ask(check("spiffe://agents.test/database"))
                assert (await ask(check(method=""))).status.code == 0
                with pytest.raises(InvalidInput, match="without the certificate"):
                    await ask(b"")
                with pytest.raises(InvalidInput):
                    await ask(check("no SPIFFE ID"))
                with pytest.raises(InvalidInput, match="can't be read as a CheckRequest"):
                    await ask(b"\x0a\x02\xff\xff")
            finally:
                await channel.close()

    run_async(work())


def hostile() -> dict[str, bytes]:
    """What no Envoy sends."""
    good = external_auth_pb2.CheckRequest.FromString(check())

    def claim(name: str, **value: Any) -> bytes:
        found = external_auth_pb2.CheckRequest.FromString(check())
        fields = found.attributes.metadata_context.filter_metadata[JWT_FILTER].fields["payload"]
        fields.struct_value.fields[name].MergeFrom(struct_pb2.Value(**value))
        return bytes(found.SerializeToString())

    deep = struct_pb2.Value(string_value="x")
    for _ in range(40):  # each level is two of messages, of which a hundred can be read
        deep = struct_pb2.Value(list_value=struct_pb2.ListValue(values=[deep]))
    large = external_auth_pb2.CheckRequest.FromString(check())
    large.attributes.request.http.headers["x"] = "a" * (8 << 20)
    noise = random.Random(1)
    mutated = {}
    for number in range(200):
        content = bytearray(check(method="POST"))
        for _ in range(noise.randrange(1, 6)):
            content[noise.randrange(len(content))] = noise.randrange(256)
        mutated[f"mutated {number}"] = bytes(content)
    return {
        "a claim that is no number": claim("n", number_value=float("nan")),
        "an endless claim": claim("n", number_value=float("inf")),
        "a claim without a kind": claim("n"),
        "a claim of forty levels": claim("n", list_value=struct_pb2.ListValue(values=[deep])),
        "8 MiB of headers": large.SerializeToString(),
        "a name that is no text": good.SerializeToString().replace(b"GET", b"\xff\xfe\xfd"),
        "an identity of a MiB": check("spiffe://agents.test/" + "a" * (1 << 20)),
        "cut": check()[:-3],
        **mutated,
    }


def test_hostile_questions_are_refused_or_judged_and_nothing_breaks(
    lab: Any, entry: Any, run_async: Any, enforcing: Any
) -> None:
    """The answer is a decision on a document for this workload alone, or a refusal that blames who asks."""

    def judge(destination: SpiffeId, document: Any) -> Ruling:
        assert str(destination) == PAY
        json.dumps(document, allow_nan=False)  # a document that policies can be asked about
        return Ruling(False, "judged")

    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            it.enforcement.put(enforcing())
            it.enforcement.judge = judge
            answers = {}
            async with Channel.unix(it.socket) as channel:
                for what, payload in hostile().items():
                    try:
                        message = empty_pb2.Empty.FromString(payload)
                    except DecodeError:
                        continue
                    try:
                        answer = await channel.unary(
                            CHECK, message, external_auth_pb2.CheckResponse, timeout=20
                        )
                        answers[what] = Code(answer.status.code)
                    except GatehouseError as error:
                        answers[what] = error.code
                allowed = {
                    Code.INVALID_ARGUMENT,
                    Code.PERMISSION_DENIED,
                    Code.RESOURCE_EXHAUSTED,
                }
                assert not {what: code for what, code in answers.items() if code not in allowed}
                assert len(answers) > 100

    run_async(work())


def test_a_stranger_may_not_ask(lab: Any, entry: Any, run_async: Any, enforcing: Any) -> None:
    async def work() -> None:
        async with lab(entry("e1", "/web", "unix:uid:54321")) as it:
            it.enforcement.put(enforcing())
            channel = Channel.unix(it.socket)
            try:
                with pytest.raises((PermissionDenied, Unavailable)):
                    await channel.unary(
                        CHECK,
                        empty_pb2.Empty.FromString(check()),
                        external_auth_pb2.CheckResponse,
                        timeout=10,
                    )
            finally:
                await channel.close()

    run_async(work())


def test_reports_of_other_kinds_and_of_plain_connections_are_passed_over() -> None:
    message = als_pb2.StreamAccessLogsMessage()
    for kind, uri in (("DownstreamEnd", PAY), ("DownstreamPeriodic", "")):
        one = message.http_logs.log_entry.add()
        one.common_properties.access_log_type = kind
        names = one.common_properties.tls_properties.local_certificate_properties.subject_alt_name
        if uri:
            names.add(uri=uri)
    assert list(_read(message.SerializeToString())) == []
    with pytest.raises(InvalidInput):
        list(_read(b"\x12\x02\xff\xff"))


def test_a_running_request_with_claims_that_are_no_json_is_nobodys() -> None:
    message = als_pb2.StreamAccessLogsMessage()
    for claim in (1.0, float("nan")):
        common = message.http_logs.log_entry.add().common_properties
        common.access_log_type = accesslog_pb2.AccessLogType.DownstreamPeriodic
        tls = common.tls_properties
        tls.local_certificate_properties.subject_alt_name.add(uri=PAY)
        tls.peer_certificate_properties.subject_alt_name.add(uri=WEB)
        fields = common.metadata.filter_metadata[JWT_FILTER].fields["payload"].struct_value.fields
        fields["n"].number_value = claim
    good, bad = _read(message.SerializeToString())
    assert good.document["source"] == {"spiffe_id": WEB} and good.document["jwt"] == {"claims": {"n": 1.0}}
    assert bad.document["source"] == {} and bad.document["connection"] == {"mtls": False}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("Shop.Test", "shop.test"),
        ("shop.test:8443", "shop.test"),
        ("[::1]:80", "[::1]"),
        ("[::1]", "[::1]"),
        ("::1", "::1"),
        ("shop.test:", "shop.test:"),
        ("shop.test:http", "shop.test:http"),
    ],
)
def test_hosts_have_no_port(host: str, expected: str) -> None:
    document = input_document(principal=WEB, address="", port=1, method="GET", path="/a?b", host=host)
    assert document["request"]["host"] == expected
    assert document["request"]["path"] == "/a"
    assert document["source"] == {"spiffe_id": WEB}


def test_plain_tcp_has_no_request() -> None:
    document = input_document(principal="", address="::1", port=5432, sni="DB.test")
    assert json.loads(json.dumps(document)) == {
        "source": {"ip": "::1"},
        "destination": {"port": 5432},
        "connection": {"mtls": False, "sni": "db.test"},
    }
