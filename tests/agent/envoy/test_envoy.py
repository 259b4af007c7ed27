"""A request through two real Envoys that know nothing but the agent's socket."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
from pathlib import Path
from typing import Any

import pytest

from agent.enforcement.ports import Ruling

WEB, PAY = "spiffe://agents.test/web", "spiffe://agents.test/pay"
CUT_OFF_SECONDS = 3.0  # half a second between reports, a second to drain, and a busy machine


async def stream(it: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request from web to pay that doesn't end, with its first line."""
    reader, writer = await asyncio.open_connection("127.0.0.1", it.ports["http"])
    writer.write(b"GET /stream HTTP/1.1\r\nhost: shop.test\r\n\r\n")
    assert b" 200 " in await asyncio.wait_for(reader.readline(), 5)
    while b"tick" not in await asyncio.wait_for(reader.readline(), 5):
        pass
    return reader, writer


async def ends(reader: asyncio.StreamReader, seconds: float) -> bool:
    """Whether the stream ends within this time."""
    try:
        async with asyncio.timeout(seconds):
            while await reader.read(4096):
                pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "state-of-the-world"])
def test_a_policy_holds_from_the_next_request_on(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any, delta: bool
) -> None:
    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            pay, _ = await it.pair(delta=delta)
            assert await it.status() == 403  # no policy yet
            it.enforcement.put(enforcing(admitting(PAY, WEB)))
            await it.until_status(200)
            running, writer = await stream(it)
            raw, raw_writer = await asyncio.open_connection("127.0.0.1", it.ports["tcp"])
            raw_writer.write(b"hello")
            assert await raw.readexactly(5) == b"hello"

            it.enforcement.put(enforcing(admitting(PAY), sequence=2))
            await it.until_status(403)
            # The listener of TCP is replaced, and who is connected there is cut; that of HTTP stays as it is.
            assert await ends(raw, CUT_OFF_SECONDS)
            assert not await ends(running, 0.5)
            assert await pay.stat("listener_manager.listener_in_place_updated") == 2
            writer.close()
            raw_writer.close()
            assert await pay.stat(r".*update_rejected") == 0

    run_async(work())


def test_a_drained_listener_ends_what_runs_there_and_goes_on(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any
) -> None:
    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            pay, _ = await it.pair()
            it.enforcement.put(enforcing(admitting(PAY, WEB)))
            await it.until_status(200)
            running, writer = await stream(it)
            service = next(iter(it.enforcement.current.workloads))
            assert it.parts.fleet.drain(service, "http") == 1
            statuses = set()
            while not await ends(running, 0.02):
                statuses.add(await it.status())
            assert statuses == {200}
            writer.close()
            # Another agent takes over: nothing is drained again, and what runs goes on.
            running, writer = await stream(it)
            updates = await pay.stat("listener_manager.listener_in_place_updated")
            await it.close()
            await it.serve()
            await it.run.until(lambda: len(it.parts.fleet) == 2, "both Envoys are back")
            it.enforcement.put(enforcing(admitting(PAY, WEB, f"{WEB}/2"), sequence=2))
            assert not await ends(running, 0.5)
            # The policy of TCP came as a new chain, the HTTP listener has stayed.
            assert await pay.stat("listener_manager.listener_in_place_updated") == updates + 1
            writer.close()

    run_async(work())


def test_quarantine_cuts_off_a_caller_and_a_service(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any
) -> None:
    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            pay, web = await it.pair()
            policy = admitting(PAY, WEB)
            it.enforcement.judge = lambda *_: Ruling(not it.enforcement.current.quarantined, "cut off")
            it.enforcement.put(enforcing(policy))
            await it.until_status(200)
            for cut_off in (PAY, WEB):
                running, writer = await stream(it)
                it.enforcement.put(enforcing(policy, quarantined=(cut_off,)))
                assert await ends(running, CUT_OFF_SECONDS), cut_off
                writer.close()
                if cut_off == PAY:
                    assert await it.status() == 403
                else:
                    async with asyncio.timeout(CUT_OFF_SECONDS):
                        while "http::" in await web.ask("/listeners"):  # noqa: ASYNC110
                            await asyncio.sleep(0.05)
                    with pytest.raises(OSError, match=r".*"):
                        await it.status()
                it.enforcement.put(enforcing(policy))
                await web.live("http")
                await it.until_status(200)
            assert await pay.stat(r".*update_rejected") == 0

    run_async(work())


def test_requests_go_on_while_the_agent_is_away_and_before_it_knows_the_policy(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any
) -> None:
    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            await it.pair()
            policy = enforcing(admitting(PAY, WEB))
            it.enforcement.put(policy)
            await it.until_status(200)
            statuses: list[int] = []

            async def send() -> None:
                while True:
                    statuses.append(await it.status())

            sending = asyncio.create_task(send())
            await it.close()
            await asyncio.sleep(0.5)
            it.enforcement.put(dataclasses.replace(enforcing(), settled=False))
            await it.serve()
            # Both are back and have been told nothing: what they have holds on.
            await asyncio.sleep(2.5)
            it.enforcement.put(policy)
            await it.run.until(lambda: len(it.parts.fleet) == 2, "both Envoys are back")
            sending.cancel()
            assert len(statuses) > 20 and set(statuses) == {200}

    run_async(work())


def test_paths_hosts_and_headers_are_as_the_models_assume(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any
) -> None:
    table = {
        "/a": "/a",
        "/a/../b": "/b",
        "/a/./b": "/a/b",
        "//a///b": "/a/b",
        "/%61": "/a",
        "/%2e%2e/a": "/a",
        "/a;x=1/b": "/a;x=1/b",
        "/A": "/A",
        "/a?b=//c": "/a?b=//c",
        "/a%20b": "/a%20b",
        "/a%2fb": None,
        "/a%5cb": None,
        "/a%00b": None,
        "/a#b": None,
    }

    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            await it.pair()
            it.enforcement.put(enforcing(admitting(PAY, WEB)))
            await it.until_status(200)
            for sent, arrived in table.items():
                status, request = await it.request(sent)
                found = request.split()[1] if status == 200 else None
                assert (found, status) == (arrived, 200 if arrived else 400), sent
            assert await it.status(headers="x_team: a\r\n") == 400
            forged = "x-forwarded-client-cert: URI=spiffe://agents.test/root\r\nx-envoy-max-retries: 9\r\n"
            _, request = await it.request(headers=forged)
            assert "max-retries" not in request
            assert f"By={PAY};" in request and f";URI={WEB}\r\n" in request and "/root" not in request
            # The line of the access log names both ends and the policy that let the request through.
            await it.run.until(lambda: (it.folder / "access.log").exists() and WEB in log(it), "a line", 15)
            line = next(one.split("\t") for one in log(it).splitlines() if "\t200\t" in one)
            assert (line[4], line[6], line[14]) == (WEB, PAY, "some")

    def log(it: Any) -> str:
        return str((it.folder / "access.log").read_text())

    run_async(work())


def test_a_server_that_is_somebody_else_gets_no_request(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any
) -> None:
    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            _, web = await it.pair(server=f"{WEB}/other")
            it.enforcement.put(enforcing(admitting(PAY, WEB)))
            assert await it.status() == 503
            assert await web.stat(r"cluster\.http\.ssl\.fail_verify_san") > 0

    run_async(work())


def test_a_caller_without_an_svid_or_with_old_tls_is_refused(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any
) -> None:
    async def answered(port: int, version: ssl.TLSVersion) -> bool:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # An SVID has no host name, and whom Envoy lets in is what is asked here, not who Envoy is.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(1), 5)
        except OSError:
            return False
        writer.close()
        return bool(answer)

    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            await it.pair()
            it.enforcement.put(enforcing(admitting(PAY, WEB)))
            await it.until_status(200)
            for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
                assert not await answered(it.ports["http-in"], version)

    run_async(work())


def test_a_rotated_authority_reaches_envoy_without_a_break(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any
) -> None:
    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            pay, _ = await it.pair()
            it.enforcement.put(enforcing(admitting(PAY, WEB)))
            await it.until_status(200)
            before = await serial(pay)
            it.run.server.rotate(taint=True)
            async with asyncio.timeout(10):
                while await serial(pay) == before:
                    assert await it.status() == 200
            assert await it.status() == 200

    async def serial(envoy: Any) -> str:
        return str([line for line in (await envoy.ask("/certs")).splitlines() if "serial_number" in line])

    run_async(work())


def test_an_envoy_gets_nothing_for_a_service_that_is_not_its_own(
    lab: Any, entry: Any, run_async: Any, short_dir: Path
) -> None:
    description = {
        "name": "admin",
        "spiffe_id": "spiffe://agents.test/admin",
        "inbound": [{"listen": "127.0.0.1:1", "upstream": "127.0.0.1:2", "protocol": "http"}],
    }

    async def work() -> None:
        async with lab(entry("e1", "/web")) as it:
            envoy = it.envoy(description)
            await it.run.until(
                lambda: "isn't entitled to spiffe://agents.test/admin" in envoy.told(), "told", 10
            )
            assert len(it.parts.fleet) == 0

    run_async(work())
