"""Live views: the ring that every listener reads at its own pace, and the stream over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, KeySet

from control_plane.api.rest.events import Events, Place

WEB = "spiffe://example.org/ns/shop/sa/web"
LAB = "spiffe://example.org/ns/lab/sa/x"


@given(st.lists(st.one_of(st.just("publish"), st.integers(0, 2)), max_size=60))
def test_a_listener_sees_every_event_once_in_order_or_is_told(script: list[str | int]) -> None:
    async def play() -> None:
        events = Events(kept=5)
        places = [events.place("") for _ in range(3)]
        seen: list[list[int]] = [[], [], []]
        published = 0
        for step in [*script, 0, 1, 2]:
            if isinstance(step, str):
                published += 1
                events.publish("agent.attested", 0, {})
            else:
                seen[step] += [one.number for one in events.take(places[step])]
        for numbers, place in zip(seen, places, strict=True):
            assert numbers == sorted(set(numbers))
            assert len(numbers) + place.missed == published
            assert not numbers or numbers[-1] == published

    asyncio.run(play())


def test_places_are_resumed_only_where_they_mean_something() -> None:
    events = Events(kept=5)
    for _ in range(3):
        events.publish("agent.gone", 0, {})
    assert events.place(events.id_of(1)) == Place(2)
    assert events.place(events.id_of(3)) == Place(4)
    assert events.place("") == Place(4)
    for stale in (Events().id_of(1), events.id_of(4), "x", "-", "-1", events.id_of(1) + "0" * 30, "²"):
        assert events.place(stale) == Place(4, missed=1), stale


class Stream:
    """A listener with an HTTP client of its own."""

    def __init__(self, connection: http.client.HTTPConnection, path: str, headers: dict[str, str]) -> None:
        self._connection = connection
        connection.request("GET", path, headers=headers)
        self.answer = connection.getresponse()
        self.comments = 0

    def __iter__(self) -> Iterator[tuple[str, str, Any]]:
        fields: dict[str, str] = {}
        while line := self.answer.readline().decode():
            name, _, value = line.rstrip("\n").partition(":")
            self.comments += line.startswith(":")
            if line == "\n" and "event" in fields:
                yield fields["id"], fields["event"], json.loads(fields["data"])
                fields = {}
            elif name:
                fields[name] = value.strip()


@contextlib.asynccontextmanager
async def listening(api: Any, path: str = "", *, svid: Any = None, by: str = "vera", last: str = "") -> Any:
    headers = {} if svid else {"authorization": f"Bearer {api.token(by)}"}
    connection = api.connect(svid is not None, svid)
    with contextlib.closing(connection):
        told = headers | ({"last-event-id": last} if last else {})
        yield await asyncio.to_thread(Stream, connection, "/v1/events" + path, told)


async def until(stream: Stream, wanted: Callable[[str, Any], bool]) -> list[tuple[str, str, Any]]:
    """What came, up to the event that was waited for."""

    def read() -> list[tuple[str, str, Any]]:
        found = []
        for event in stream:
            found.append(event)
            if wanted(event[1], event[2]):
                return found
        raise AssertionError(f"the stream ended after {found}")

    return await asyncio.wait_for(asyncio.to_thread(read), 40)


async def cut(api: Any, who: str, path: str = "") -> None:
    reply = await api.call("POST", "/v1/quarantine" + path, {"spiffe_id": who, "reason": "odd"}, by="olga")
    assert reply.status == 200, reply


def test_what_happens_is_told_and_goes_on_where_one_left_off(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        async with listening(api) as stream:
            assert stream.answer.getheader("content-type").startswith("text/event-stream")
            await cut(api, WEB)
            [hello, event] = await until(stream, lambda kind, _: kind == "quarantine.set")
            assert hello[1] == "hello"
            assert event[2]["spiffe_id"] == WEB and event[2]["by"] == "login:olga"
        push = {"files": {"a.rego": "package a"}, "inventory": "", "reason": "r"}
        await api.call("POST", "/v1/policy/versions", push, by="ada")
        await cut(api, WEB, "/release")
        async with listening(api, last=event[0]) as stream:
            found = await until(stream, lambda kind, _: kind == "quarantine.released")
            kinds = [kind for _, kind, _ in found]
            assert kinds == ["hello", "policy.version", "policy.step", "quarantine.released"]
            assert found[2][2]["step"] == "refused"
        async with listening(api, "?topic=policy&topic=agent", last=event[0]) as stream:
            found = await until(stream, lambda kind, _: kind == "policy.step")
            assert [kind for _, kind, _ in found] == ["hello", "policy.version", "policy.step"]
        async with listening(api, "?for_seconds=0.1", last="00000000-7") as stream:
            found = await asyncio.to_thread(list, stream)
            assert [kind for _, kind, _ in found] == ["hello", "missed", "bye"]
            assert "/v1/policy/status" in found[1][2]["read"]

    rest(scenario)


def test_everybody_sees_what_they_may(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        assert (await api.call("GET", "/v1/events?for_seconds=0", by="nobody")).status == 403
        assert (await api.call("GET", "/v1/events?for_seconds=0&topic=policy", by="narrow")).status == 403
        assert (await api.call("GET", "/v1/events?for_seconds=0&topic=secrets", by="vera")).status == 400
        assert (await api.call("GET", "/v1/events?for_seconds=0", tls=True)).status == 401
        narrow = await api.mint("spiffe://example.org/people/narrow")
        async with listening(api, svid=narrow) as stream:
            await cut(api, LAB)
            await cut(api, WEB)
            found = await until(stream, lambda kind, _: kind == "quarantine.set")
            assert [data.get("spiffe_id") for _, _, data in found] == [None, WEB], "not what is outside"

    rest(scenario)


def test_a_stream_ends_with_the_right_to_it(rest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from control_plane.api.rest import event_stream

    monkeypatch.setattr(event_stream, "JUDGED_SECONDS", 0.4)
    monkeypatch.setattr(event_stream, "HEARTBEAT_SECONDS", 0.05)

    async def scenario(api: Any) -> None:
        async with listening(api) as stream:
            await cut(api, WEB)
            await until(stream, lambda kind, _: kind == "quarantine.set")
            other = ECKey.generate_key("P-256", {"kid": "two"}, private=True)
            (api.data.parent / "jwks.json").write_text(json.dumps(KeySet([other]).as_dict(private=False)))
            found = await until(stream, lambda kind, _: kind == "bye")
            assert "credentials" in found[-1][2]["reason"]
            assert stream.comments, "it was heard from meanwhile"
            api.key = other
        vera = await api.mint("spiffe://example.org/people/vera")
        async with listening(api, svid=vera) as stream:
            await cut(api, "spiffe://example.org/people/vera")
            found = await until(stream, lambda kind, _: kind == "bye")
            assert "credentials" in found[-1][2]["reason"]

    rest(scenario)


def test_listeners_are_counted_and_the_end_of_the_server_is_said(rest: Any) -> None:
    kept: list[Any] = []

    async def scenario(api: Any) -> None:
        async with listening(api):
            second = await api.call("GET", "/v1/events", by="vera")
            assert second.status == 429 and int(second.headers["retry-after"]) >= 1
        deadline = time.monotonic() + 40
        while (await api.call("GET", "/v1/events?for_seconds=0", by="vera")).status != 200:
            assert time.monotonic() < deadline, "the place of a listener that went isn't free again"
        connection = api.connect()
        told = {"authorization": f"Bearer {api.token('olga')}"}
        kept.extend((connection, await asyncio.to_thread(Stream, connection, "/v1/events", told)))

    rest(scenario, more="[api]\nlisteners = 1\n")
    connection, stream = kept
    with contextlib.closing(connection):
        assert [kind for _, kind, _ in stream] == ["hello", "bye"]
