"""Following the server's events (`GET /v1/events`) from the command line, until Ctrl-C.

When the server goes away this waits for it, and goes on behind the last event that was seen; what was missed
meanwhile is said.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from control_plane.cli import printing
from control_plane.cli.api_access import Api, api_of
from control_plane.cli.options import Output
from control_plane.cli.remote import caller, problem_in, reported
from control_plane.core.errors import PeerMisbehaved

SILENCE_SECONDS = 60.0
"""The server says something every fifteen seconds; who is silent for this long is gone."""
RETRY_SECONDS = 1.0
MAX_LINE_BYTES = 1 << 20
_FOR_MACHINES = {"at", "digest", "signed_by", "created_at", "assigned_at", "revision", "sequence", "read"}


@dataclass(frozen=True, slots=True)
class Seen:
    """One event: its kind, and what it says."""

    kind: str
    data: dict[str, Any]


def follow(
    topics: tuple[str, ...], *, data_dir: Path | None, output: Output, headers: dict[str, str]
) -> Iterator[Seen]:
    """The events of `topics`, without end. Ends the program with one line if the server refuses."""
    api = api_of(data_dir)
    last, away = "", False
    with reported(output):
        api.require()
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                for number, seen in _stream(api, topics, {**caller(), **headers}, last):
                    if away:
                        printing.note("the server is back")
                    away, last = False, number or last
                    if seen.kind not in ("hello", "bye"):
                        yield seen
            if not away:
                printing.note("the server is away; waiting for it")
            away = True
            time.sleep(RETRY_SECONDS)


def print_event(seen: Seen, output: Output) -> None:
    """One event as one line."""
    if output is Output.JSON:
        print(json.dumps({"event": seen.kind, **seen.data}, ensure_ascii=False), flush=True)  # noqa: T201
        return
    if seen.kind == "missed":
        many = printing.counted(int(seen.data.get("at_least", 1)), "event")
        printing.line(f"missed: {many} or more; what is true now follows")
        return
    told = {
        name: value
        for name, value in seen.data.items()
        if name not in _FOR_MACHINES and value not in ("", None)
    }
    at = time.strftime("%H:%M:%SZ ", time.gmtime(seen.data["at"])) if "at" in seen.data else ""
    printing.line(at + seen.kind + " " + " ".join(f"{name}={value}" for name, value in told.items()))


def _stream(
    api: Api, topics: tuple[str, ...], headers: dict[str, str], last: str
) -> Iterator[tuple[str, Seen]]:
    """Events with their places, as long as the server talks. Raises `GatehouseError` if it refuses."""
    connection = api.connection(SILENCE_SECONDS)
    target = "/v1/events?" + urlencode([("topic", topic) for topic in topics])
    with contextlib.closing(connection):
        connection.request("GET", target, headers={**headers, **({"last-event-id": last} if last else {})})
        response = connection.getresponse()
        if last and (response.status >= 500 or response.status == 429):
            raise http.client.HTTPException("it isn't ready for us again")
        if response.status != 200:
            raise problem_in(response.status, response.read(MAX_LINE_BYTES), f"GET {target} at {api}")
        fields: dict[str, str] = {}
        while line := response.readline(MAX_LINE_BYTES):
            text = line.decode().rstrip("\r\n")
            name, _, value = text.partition(":")
            if text:
                fields[name] = value.removeprefix(" ")
            elif fields:
                if "event" in fields:
                    yield fields.get("id", ""), Seen(fields["event"], _data(fields.get("data", "{}")))
                fields = {}


def _data(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PeerMisbehaved("following events: the server sent what isn't JSON") from error
    return found if isinstance(found, dict) else {}
