"""Falco's alerts: decided by Rego, once, bounded, and by nobody who has no right to."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from typing import Any

import pytest

from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.runtime.transport import Channel

SECRET = "s" * 40
BATCH = "/spire.api.server.entry.v1.Entry/BatchCreateEntry"
_numbers = itertools.count()


def alert(priority: str = "Critical", path: str = "/usr/bin/web", **more: Any) -> dict[str, Any]:
    """An alert as Falco 0.41 writes it."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - more.pop("age", 0)))
    number = next(_numbers)
    return {
        "hostname": "node-1",
        "output": f"{moment}: {priority} A shell was spawned (proc_exepath={path} n={number})",
        "output_fields": {
            "container.id": "host", "container.name": "host", "evt.time": 1796000000000000000 + number,
            "k8s.ns.name": None, "k8s.pod.name": "<NA>", "proc.cmdline": "sh -c id",
            "proc.exepath": path, "user.name": "root", "user.uid": 0,
        },
        "priority": priority,
        "rule": "Terminal shell in container",
        "source": "syscall",
        "tags": ["T1059", "maturity_stable", "shell"],
        "time": f"{moment}.{number:09d}Z",
        **more,
    }  # fmt: skip


async def register(api: Any, *names: str) -> None:
    """Entries by the path of their program."""
    request = entry_pb2.BatchCreateEntryRequest()
    for name in names:
        entry = request.entries.add()
        entry.spiffe_id.trust_domain = entry.parent_id.trust_domain = "example.org"
        entry.spiffe_id.path, entry.parent_id.path = f"/{name}", "/node"
        entry.selectors.add(type="unix", value=f"path:/usr/bin/{name}")
    async with Channel.unix(api.data / "server.sock") as channel:
        await channel.unary(BATCH, request, entry_pb2.BatchCreateEntryResponse, timeout=30)


async def send(api: Any, body: Any, *, token: str | None = SECRET, **how: Any) -> Any:
    return await api.call("POST", "/v1/alerts/falco", body, token=token, **how)


async def cut_off(api: Any) -> dict[str, Any]:
    listed = (await api.call("GET", "/v1/quarantine", by="vera")).body["quarantined"]
    return {one["spiffe_id"]: one for one in listed}


@pytest.fixture
def falco(rest: Any, short_dir: Any) -> Any:
    """Runs a scenario with the webhook open."""
    (short_dir / "secret").write_text(SECRET + "\n")

    def run(scenario: Any, **more: Any) -> None:
        settings = {"secret_file": str(short_dir / "secret"), **more}
        rest(scenario, more="[falco]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in settings.items()))

    return run


def test_a_severe_alert_cuts_off_whom_it_fits_and_only_once(falco: Any) -> None:
    async def scenario(api: Any) -> None:
        await register(api, "web", "pay")
        assert (await send(api, alert("Notice"))).body["action"] == "ignore"
        assert (
            (await send(api, alert(path="/usr/bin/other"))).body["reason"].startswith("it fits no identity")
        )
        severe = alert()
        first = await send(api, severe)
        assert (first.status, first.body["action"], first.body["changed"]) == (200, "quarantine", True)
        cut = (await cut_off(api))["spiffe://example.org/web"]
        assert cut["reason"] == "Falco: Terminal shell in container (Critical)"
        assert cut["by"] == "falco (webhook:falco)"
        assert (await send(api, alert())).body["changed"] is False, "it is cut off already"

        # Let back in by people: the same alert again doesn't undo that.
        body = {"spiffe_id": "spiffe://example.org/web", "reason": "cleaned"}
        assert (await api.call("POST", "/v1/quarantine/release", body, by="olga")).status == 200
        again = await send(api, severe)
        assert (again.body["seen_before"], again.body["action"]) == (True, "quarantine")
        assert await cut_off(api) == {}
        records = (await api.call("GET", "/v1/ledger?kind=change", by="audrey")).body["records"]
        reported = [one for one in records if one["action"] == "alert.report"]
        assert [one["resource"] for one in reported] == ["spiffe://example.org/web"]

    falco(scenario)


def test_who_may_report(falco: Any) -> None:
    async def scenario(api: Any) -> None:
        await register(api, "web")
        assert (await send(api, alert(), token="x" * 40)).status == 401
        assert (await send(api, alert(), token=None, by="vera")).status == 403
        assert (await send(api, alert(), tls=True)).body["action"] == "quarantine", "over TLS too"
        for path in ("/v1/quarantine", "/v1/health", "/v1/ledger"):
            assert (await api.call("GET", path, token=SECRET)).status == 403, "a sensor reads nothing"

    falco(scenario)


def test_what_is_no_fresh_alert_is_refused(falco: Any) -> None:
    async def scenario(api: Any) -> None:
        await register(api, "web")
        odd: list[Any] = [
            {}, [], alert(rule=None), alert(tags="shell"), alert(time="yesterday"),
            alert(time="2026-01-30T10:20:05"), alert(age=7200), alert(age=-7200),
            alert(output="x" * 9000), alert(output_fields={str(n): n for n in range(300)}),
            alert(output_fields={"proc.exepath": "x" * 70_000}),
        ]  # fmt: skip
        for body in odd:
            reply = await send(api, body)
            assert reply.status in (400, 413, 422), (reply.status, str(body)[:100])
            assert reply.headers["content-type"] == "application/problem+json"
        assert await cut_off(api) == {}

    falco(scenario)


def test_no_more_than_so_many_a_minute(falco: Any) -> None:
    async def scenario(api: Any) -> None:
        names = [f"w{number}" for number in range(5)]
        await register(api, *names)
        replies = await asyncio.gather(*(send(api, alert(path=f"/usr/bin/{name}")) for name in names))
        assert sorted(one.status for one in replies) == [200, 200, 429, 429, 429]
        assert len(await cut_off(api)) == 2

    falco(scenario, per_minute=2)


def test_the_operators_own_rules_decide_but_not_beyond_what_is_ours(falco: Any, short_dir: Any) -> None:
    own = short_dir / "own.rego"
    own.write_text(
        "package gatehouse.response\n"
        'decision := {"action": "quarantine", "reason": "mine", "spiffe_id": whom}\n'
        "whom := input.alert.output_fields.whom\n"
    )

    async def scenario(api: Any) -> None:
        await register(api, "web")
        for whom in ("spiffe://example.org/nobody", "spiffe://other.org/web", "web", "spiffe://example.org"):
            assert (await send(api, alert(output_fields={"whom": whom}))).status == 400
        assert (await send(api, alert())).status == 409, "no decision"
        assert await cut_off(api) == {}
        assert (await send(api, alert(output_fields={"whom": "spiffe://example.org/web"}))).body["changed"]

    falco(scenario, rego=str(own))


def test_numbers_that_arent_whole_are_weighed_and_what_is_no_json_is_refused(
    falco: Any, short_dir: Any
) -> None:
    """Falco has fields like `thread.cpu`, a percentage."""
    own = short_dir / "own.rego"
    own.write_text(
        "package gatehouse.response\n"
        'decision := {"action": "quarantine", "reason": said, "spiffe_id": "spiffe://example.org/web"} if {\n'
        '\tinput.alert.output_fields["thread.cpu"] > 97.2\n'
        '\tsaid := input.alert.output_fields["proc.name"]\n'
        "}\n"
        'decision := {"action": "ignore", "reason": "not busy"} if {\n'
        '\tinput.alert.output_fields["thread.cpu"] <= 97.2\n'
        "}\n"
    )

    async def scenario(api: Any) -> None:
        await register(api, "web")
        calm = await send(api, alert(output_fields={"thread.cpu": 12.25}))
        assert (calm.status, calm.body["reason"]) == (200, "not busy")
        nested: Any = 1.5
        for _ in range(300):
            nested = [nested]
        for value in (float("nan"), float("inf"), nested):
            reply = await send(api, alert(output_fields={"thread.cpu": 99, "odd": value}))
            assert (reply.status, reply.body["title"]) == (400, "invalid-input"), str(value)[:20]
            assert "alert of Falco's rule" in reply.body["detail"]
        assert await cut_off(api) == {}
        busy = await send(api, alert(output_fields={"thread.cpu": 97.5, "proc.name": "\ud800 sh"}))
        assert (busy.status, busy.body["changed"]) == (200, True), "half a character is no reason to fail"
        assert (await cut_off(api))["spiffe://example.org/web"]["reason"] == "\ufffd sh"

    falco(scenario, rego=str(own))
