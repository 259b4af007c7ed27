"""What fails on the way of a policy to the wire, while clients send: nobody is let in, and nobody is lost.

One shop as `make up` starts it, real processes all. Clients send what the policy allows and what it doesn't,
over HTTP and TCP, throughout; processes are killed and started again, and the agent's disk is bent.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import pytest

from agent.cache import POLICY_FILE, CacheFile
from agent.cache_key import locate_key
from agent.enforcement.news import Held
from agent.envoy import stopping
from agent.envoy.address import Address
from bench._shop import Shop, shop, until

pytestmark = [pytest.mark.xdist_group("enforcement"), pytest.mark.timeout(400)]


class Traffic:
    """What clients saw, by what they asked for. `""` is a failure without an answer."""

    def __init__(self, running: Shop) -> None:
        self._at = running.at
        self._stop = threading.Event()
        self.seen: Counter[tuple[str, str]] = Counter()
        self._threads = [
            threading.Thread(target=self._http, args=("allowed", "GET", "/v1/charges"), daemon=True),
            threading.Thread(target=self._http, args=("denied", "DELETE", "/v1/charges"), daemon=True),
            threading.Thread(target=self._http, args=("refund", "POST", "/v1/charges/refund"), daemon=True),
            threading.Thread(target=self._tcp, args=("tcp allowed", "payments"), daemon=True),
            threading.Thread(target=self._tcp, args=("tcp denied", "frontend"), daemon=True),
        ]
        for each in self._threads:
            each.start()

    def count(self, what: str, answer: str) -> int:
        """How often this was answered so."""
        return self.seen[what, answer]

    def more(self, what: str, answer: str, times: int = 5) -> None:
        """Waits until this was answered so some more times."""
        wanted = self.count(what, answer) + times
        until(lambda: self.count(what, answer) >= wanted, f"{what}: {answer or 'failure'}; {self.seen}")

    def stop(self) -> None:
        """Ends the clients."""
        self._stop.set()
        for each in self._threads:
            each.join(20)

    def assert_nobody_got_in(self) -> None:
        """What is denied never passed, and was tried."""
        answers = {what: {a for w, a in self.seen if w == what} for what in ("denied", "refund")}
        assert all(found <= {"403", "503", ""} for found in answers.values()), self.seen
        assert not self.count("tcp denied", "answered"), self.seen
        assert self.count("denied", "403"), self.seen
        assert self.count("refund", "403"), self.seen

    def assert_nobody_was_lost(self, *, tcp: bool = True) -> None:
        """Every request that is allowed was answered."""
        assert {answer for what, answer in self.seen if what == "allowed"} == {"200"}, self.seen
        if tcp:
            assert {answer for what, answer in self.seen if what == "tcp allowed"} == {"answered"}, self.seen

    def _http(self, what: str, method: str, path: str) -> None:
        connection = http.client.HTTPConnection(self._at.host("frontend"), 9001, timeout=60)
        while not self._stop.is_set():
            try:
                connection.request(method, path)
                response = connection.getresponse()
                response.read()
                self.seen[what, str(response.status)] += 1
            except (OSError, http.client.HTTPException):
                self.seen[what, ""] += 1
                connection.close()
            time.sleep(0.01)
        connection.close()

    def _tcp(self, what: str, service: str) -> None:
        while not self._stop.is_set():
            told = self._at.cards_of(service).look_up()
            self.seen[what, "answered" if told else ""] += 1
            time.sleep(0.02)


@contextmanager
def traffic(running: Shop) -> Iterator[Traffic]:
    """Clients that send while the block runs."""
    clients = Traffic(running)
    try:
        clients.more("allowed", "200")
        clients.more("tcp allowed", "answered")
        yield clients
    finally:
        clients.stop()
    clients.assert_nobody_got_in()


@pytest.fixture(scope="module")
def running() -> Iterator[Shop]:
    with shop() as found:
        yield found


def in_force(running: Shop) -> bool:
    """Whether the agent enforces a policy and has no error to tell."""
    try:
        told = running.enforced()
    except CalledProcessError:  # the agent is just starting
        return False
    return bool(told["version"]) and not told["error"]


def events(running: Shop, name: str) -> list[dict[str, Any]]:
    """What the agent's log has of one event."""
    found = (json.loads(line) for line in running.log("agent").read_text().splitlines() if line[:1] == "{")
    return [one for one in found if one.get("event") == name]


def restart_agent(running: Shop, by: signal.Signals) -> None:
    before = len(events(running, "envoy_connected"))
    running.end("agent", by)
    running.start("agent")
    until(lambda: in_force(running), "the policy of the life before", pause=0.3)
    until(lambda: len(events(running, "envoy_connected")) >= before + 3, "all Envoys at the agent again")


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "upgraded"])
def test_the_agent_ends_and_comes_back(running: Shop, by: signal.Signals) -> None:
    with traffic(running) as clients:
        restart_agent(running, by)
        clients.more("allowed", "200", 20)
        clients.more("tcp allowed", "answered", 20)
    clients.assert_nobody_was_lost()


JUDGED = """
# METADATA
# title: What Envoy's rules can't say
allow if {
	some service in {"payments", "card-db"}
	to(service)
	count(input.source.spiffe_id) > 1000
}
"""


def test_the_agent_judges_everything_and_ends_and_comes_back(running: Shop) -> None:
    """Where Envoy has to ask the agent, requests and connections wait for it."""
    before = running.enforced()["version"]
    running.apply(running.approved({"authz/authz.rego": lambda text: text + JUDGED}))
    try:
        until(lambda: running.enforced()["version"] != before, "the policy that the agent judges by")
        for by in (signal.SIGKILL, signal.SIGTERM):
            with traffic(running) as clients:
                restart_agent(running, by)
                clients.more("allowed", "200", 20)
                clients.more("tcp allowed", "answered", 20)
            clients.assert_nobody_was_lost()
        custom = [one for one in running.enforced()["workloads"] if one["judged_by_agent"]]
        assert len(custom) == 2
    finally:
        running.roll_back(before)
        until(lambda: running.enforced()["version"] == before, "the policy of before")


@pytest.mark.parametrize("by", ["stop", "kill"])
def test_an_envoy_ends_and_comes_back(running: Shop, by: str) -> None:
    """Callers wait for it. A connection of TCP that starts at it has nobody to wait."""
    admin = running.folder / "demo" / "envoys" / "payments" / "payments.admin.sock"
    with traffic(running) as clients:
        if by == "stop":
            asyncio.run(stopping.stop(Address(path=str(admin)), 3))
            until(lambda: not running.process("envoy-payments").is_alive, "the end of the Envoy")
        else:
            running.end("envoy-payments")
        running.start("envoy-payments")
        clients.more("allowed", "200", 20)
        clients.more("denied", "403")
        clients.more("tcp allowed", "answered", 20)
        if by == "kill":
            # An answer that was half told can't be told again: at most one of each client's.
            assert clients.seen.pop(("allowed", ""), 0) <= 1, clients.seen
    clients.assert_nobody_was_lost(tcp=False)


def test_enforcement_goes_on_without_the_server(running: Shop) -> None:
    version = running.enforced()["version"]
    running.end("server", signal.SIGTERM)
    try:
        with traffic(running) as clients:
            restart_agent(running, signal.SIGKILL)
            running.end("envoy-payments")
            running.start("envoy-payments")
            clients.more("allowed", "200", 20)
            clients.more("denied", "403", 20)
            told = running.enforced()
            assert told["version"] == version
            assert told["issued_at"] < time.time()
    finally:
        running.start("server")
        until((running.folder / "api.sock").exists, "the server")


def with_a_bit_turned(path: Path, cache: CacheFile) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncated(path: Path, cache: CacheFile) -> None:
    path.write_bytes(path.read_bytes()[:100])


def foreign(path: Path, cache: CacheFile) -> None:
    path.write_bytes(b"this is the policy of somebody else\n" * 100)


def signed_by_another_key(path: Path, cache: CacheFile) -> None:
    """The agent's own file, readable, with a policy whose signature doesn't hold."""
    held = Held.parse(cache.load() or b"")
    assert held.policy is not None
    held.policy.signature = held.policy.signature[:-1] + bytes([held.policy.signature[-1] ^ 1])
    cache.save(held.dump())


def test_a_bent_policy_on_the_disk_is_never_enforced(running: Shop) -> None:
    """The server is away, so nothing mends it: Envoys go on with what they have, and the error is shown.
    Once the server is back, so is the policy."""
    path = running.folder / POLICY_FILE
    good = path.read_bytes()
    running.end("server", signal.SIGTERM)
    try:
        with traffic(running) as clients:
            for bend in (with_a_bit_turned, truncated, foreign, signed_by_another_key):
                running.end("agent")
                path.write_bytes(good)
                bend(path, CacheFile(path, locate_key(running.folder, None, os.environ)))
                running.start("agent")
                until(lambda: error_of(running), f"the agent to tell of {bend.__name__}", pause=0.3)
                told = running.enforced()
                assert (told["version"], told["settled"]) == (0, False), bend.__name__
                assert told["error"] in [one["error"] for one in events(running, "policy_not_taken")]
                clients.more("allowed", "200", 20)
                clients.more("denied", "403", 20)
            running.start("server")
            until(lambda: in_force(running), "the policy, from the server", pause=0.3)
            clients.more("allowed", "200", 20)
        clients.assert_nobody_was_lost()
    finally:
        if not running.process("server").is_alive:
            running.start("server")


def error_of(running: Shop) -> str:
    """What the agent says is wrong with its policy; empty while it doesn't answer."""
    try:
        return str(running.enforced()["error"])
    except CalledProcessError:
        return ""
