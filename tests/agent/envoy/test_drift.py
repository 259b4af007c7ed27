"""An Envoy, or a file for one, that isn't as the agent wants it: seen, told, and mended."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from agent.envoy import ads
from agent.envoy.files import Written, foreign
from agent.envoy.names import CLUSTER
from agent.envoy.subscription import Ask, Delta, Kind, Resource, StateOfTheWorld

WEB, PAY = "spiffe://agents.test/web", "spiffe://agents.test/pay"
KIND = Kind(CLUSTER, wildcard=True, complete=True, tells_absence=True)


@pytest.mark.parametrize("dialect", [Delta, StateOfTheWorld])
def test_what_was_rejected_is_sent_again_when_that_is_wanted(dialect: Any) -> None:
    subscription, resources = dialect(KIND), {"a": Resource("a", "1", b"x")}
    subscription.take(Ask(CLUSTER))
    first = subscription.due(resources)
    subscription.take(Ask(CLUSTER, nonce=first.nonce, rejected="no"))
    assert subscription.due(resources) is None, "not the same again by itself"
    subscription.again()
    again = subscription.due(resources)
    assert (again.resources, again.removed) == (first.resources, ())
    assert again.nonce != first.nonce
    assert subscription.due(resources) is None
    subscription.again()
    gone = subscription.due({})
    assert gone is not None
    assert gone.resources == ()


def test_an_envoy_that_could_not_take_its_listener_gets_it_again(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else has the port, for a while."""
    monkeypatch.setattr(ads, "RETRY_SECONDS", 0.5)

    async def work() -> None:
        async with lab(entry("e1", "/pay")) as it:
            taken = socket.create_server(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            inbound = {"name": "http", "listen": f"127.0.0.1:{port}", "upstream": "127.0.0.1:1"}
            it.enforcement.put(enforcing(admitting(PAY, WEB)))
            envoy = it.envoy(
                {"name": "pay", "spiffe_id": PAY, "inbound": [inbound | {"protocol": "http"}]}, level="error"
            )
            await it.run.until(lambda: it.parts.fleet.astray, "seen", seconds=20)
            assert it.parts.fleet.rejections >= 1
            taken.close()
            await it.run.until(lambda: not it.parts.fleet.astray, "healed", seconds=20)
            await envoy.live("http")

    run_async(work())


@pytest.mark.parametrize(
    ("found", "places"),
    [
        (None, ["the file is gone"]),
        ("{", ["the file is no JSON"]),
        ('{"a": {"b~/c": [1, 2]}, "d": 1}', ["only its form"]),
        ('{"a": {"b~/c": [1, 3]}}', ["/a/b~0~1c/1 was changed", "/d is gone"]),
        ('{"a": {"b~/c": [1]}, "d": 1, "e": 0}', ["/a/b~0~1c was changed", "/e was added"]),
        (json.dumps({"a": 0, "d": 1, **{f"x{n}": n for n in range(100)}}), None),
    ],
)
def test_what_was_foreign_is_told_by_place(found: str | None, places: list[str] | None) -> None:
    told = foreign(json.dumps({"a": {"b~/c": [1, 2]}, "d": 1}), found)
    assert told == places if places is not None else len(told) == 20


def test_a_file_that_was_changed_by_hand_is_written_again(tmp_path: Path) -> None:
    files = Written(tmp_path)
    files.write("listeners.json", {"resources": [{"name": "http"}]})
    files.write("clusters.json", {"resources": []})
    (tmp_path / "mine.json").write_text("theirs")
    assert files.heal() == []
    before = (tmp_path / "listeners.json").read_text()
    (tmp_path / "listeners.json").write_text(before.replace("http", "open"))
    (tmp_path / "clusters.json").unlink()
    assert files.heal() == ["listeners.json", "clusters.json"]
    assert (tmp_path / "listeners.json").read_text() == before
    assert (tmp_path / "clusters.json").exists()
    assert (tmp_path / "mine.json").read_text() == "theirs", "what isn't ours is left alone"
    assert files.heal() == []


def test_the_writer_heals_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.envoy.files.LOOK_SECONDS", 0.01)

    async def work() -> None:
        files = Written(tmp_path)
        files.write("listeners.json", {"resources": []})
        watching = asyncio.create_task(files.watch())
        path = tmp_path / "listeners.json"
        written = path.read_text()
        path.write_text("[]")
        async with asyncio.timeout(20):
            while path.read_text() == "[]":  # noqa: ASYNC110 - a file tells nothing
                await asyncio.sleep(0.01)
        watching.cancel()
        assert path.read_text() == written

    asyncio.run(work())
