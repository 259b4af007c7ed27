"""Stops an Envoy without breaking what runs: it takes nothing new, finishes, and ends.

Told by SIGTERM, Envoy ends at once and cuts every request. Through its admin interface it can be asked to
drain first: callers are told to go elsewhere (HTTP/1: `connection: close`, HTTP/2: GOAWAY), and when nothing
is open any more, or the time is over, it is asked to quit.
"""

import asyncio
import re
from collections import Counter
from typing import Final

from agent.envoy.address import Address
from control_plane.core.errors import PeerMisbehaved, Unavailable, shown

LOOK_SECONDS: Final = 0.1
ANSWER_SECONDS: Final = 5.0
MAX_ANSWER_BYTES: Final = 1 << 20

_GAUGE: Final = re.compile(r"^(listener|http)\.(\S+)\.downstream_(cx|rq)_active: ([0-9]+)\r?$", re.MULTILINE)
_NOT_CALLERS: Final = re.compile(r"\Aadmin\b|\.worker_[0-9]+\Z")  # the interface itself; parts of a sum


async def stop(admin: Address, seconds: float) -> int:
    """Drains within so many seconds, then has Envoy quit; gives how many requests and connections were cut.

    Raises Unavailable if nobody answers at the admin interface, PeerMisbehaved if that isn't Envoy.
    """
    await ask(admin, "POST", "/healthcheck/fail")
    await ask(admin, "POST", "/drain_listeners?graceful")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while (left := await _open(admin)) and loop.time() < deadline:  # noqa: ASYNC110 - Envoy tells only when asked
        await asyncio.sleep(LOOK_SECONDS)
    await ask(admin, "POST", "/quitquitquit")
    return left


async def ask(admin: Address, method: str, target: str) -> str:
    """One request to the admin interface; gives the body."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            if admin.path:
                reader, writer = await asyncio.open_unix_connection(admin.path)
            else:
                reader, writer = await asyncio.open_connection(admin.host, admin.port)
            try:
                headers = "host: admin\r\ncontent-length: 0\r\nconnection: close\r\n"
                writer.write(f"{method} {target} HTTP/1.1\r\n{headers}\r\n".encode("ascii"))
                answer = (await reader.read(MAX_ANSWER_BYTES)).decode("utf-8", "replace")
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        raise Unavailable(
            f"asking Envoy at {admin}: {str(error) or f'no answer in {ANSWER_SECONDS:.0f} s'}",
            hint="is it running? --admin names its admin interface",
        ) from error
    status, _, body = answer.partition("\r\n\r\n")
    if not status.startswith("HTTP/1.1 200 "):
        raise PeerMisbehaved(f"asking Envoy at {admin} for {target}: it answered {shown(status[:60])}")
    return body


async def _open(admin: Address) -> int:
    """HTTP requests that run, and connections of TCP. A connection without a request waits for nothing."""
    found: Counter[str] = Counter()
    for line in _GAUGE.finditer(await ask(admin, "GET", "/stats?filter=downstream_(cx|rq)_active")):
        kind, name, what, number = line.groups()
        if not _NOT_CALLERS.search(name):
            found[f"{kind} {what}"] += int(number)
    return found["http rq"] + max(found["listener cx"] - found["http cx"], 0)
