"""Tries on the running Envoys what the policy lets through, and finds the Rego line that decided."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from dataclasses import dataclass

from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import StringValue
from grpclib.client import Channel, UnaryStreamMethod
from grpclib.exceptions import GRPCError, StreamTerminatedError

from deploy.demo import database, mesh, place
from deploy.demo.cards import QUESTION, Cards
from deploy.demo.mesh import Shop
from deploy.demo.shop import WATCH, fetch

LOG_SECONDS = 3.0  # Envoy writes its access log now and then
_DECIDED = re.compile(r"rbac_access_denied_matched_policy\[([^]]*)\]")


@dataclass(frozen=True, slots=True)
class Trial:
    """One request, what came of it, and why."""

    what: str
    outcome: str
    allowed: bool
    expected: bool
    why: str


def serves(shop: Shop) -> bool:
    """Whether an allowed request gets through."""
    return fetch(f"{shop.payments}/v1/charges", "POST")[0] == 201


def all_of(shop: Shop) -> list[Trial]:
    """Every trial, in the order in which it is told."""
    found = [
        _http(shop, "GET", "/v1/charges", expected=True),
        _http(shop, "DELETE", "/v1/charges", expected=False),
        _http(shop, "POST", "/v1/charges/refund", expected=False),
    ]
    watched = asyncio.run(_watched(*shop.watch))
    told = f"streams: {watched}" if watched else "refused"
    found.append(Trial("frontend → payments   gRPC Watch", told, bool(watched), expected=True, why=""))
    for service, expected in (("payments", True), ("frontend", False)):
        cards = shop.cards_of(service)
        told = _queried(cards) if cards.sql else cards.look_up()
        how = "TCP, a query with psql" if cards.sql else "TCP, a question"
        outcome = "answered" if told else "connection closed"
        why = told and f"card {told}"
        found.append(Trial(f"{service} → card-db".ljust(22) + how, outcome, bool(told), expected, why))
    return found


def _queried(cards: Cards) -> str:
    """What psql gets as an answer; empty where its connection is closed."""
    command = [*database.psql(cards.host, cards.port, QUESTION), "--no-psqlrc", "--tuples-only", "--no-align"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return finished.stdout.strip() if finished.returncode == 0 else ""


def _http(shop: Shop, method: str, path: str, *, expected: bool) -> Trial:
    status, _ = fetch(shop.payments + path, method)
    allowed = status in (200, 201)
    why = "" if allowed else _why("payments", f"{method}\t", path)
    return Trial(f"frontend → payments   {method} {path}", str(status), allowed, expected, why)


def _why(service: str, *parts: str) -> str:
    """The Rego line behind a denial: from the newest line of the access log that has these parts."""
    deadline = time.monotonic() + LOG_SECONDS
    while time.monotonic() < deadline:
        lines = [line for line in _log_of(service) if all(part in line for part in parts)]
        if lines and (decided := _DECIDED.search(lines[-1])):
            if decided[1] == "none":
                return "no rule allows it"
            return f"denied by {', '.join(_rules().get(decided[1], [decided[1]]))}"
        time.sleep(0.1)
    return "(see the access log)"


def _log_of(service: str) -> list[str]:
    try:
        return mesh.access_log(service).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _rules() -> dict[str, list[str]]:
    """The Rego lines of each rule that this node enforces."""
    command = place.gatehouse_agent("policy", "--data-dir", str(place.data_dir()), "--output", "json")
    answer = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)
    return {rule: lines for each in answer["workloads"] for rule, lines in each["rules"].items()}


async def _watched(host: str, port: int) -> str:
    """The first message of the stream; empty where it is refused."""
    channel = Channel(host, port)
    try:
        method = UnaryStreamMethod(channel, WATCH, Empty, StringValue)
        async with asyncio.timeout(10), method.open() as stream:
            await stream.send_message(Empty(), end=True)
            message = await stream.recv_message()
            await stream.cancel()
            return message.value if message is not None else ""
    except (GRPCError, StreamTerminatedError, OSError, TimeoutError):
        return ""
    finally:
        channel.close()
