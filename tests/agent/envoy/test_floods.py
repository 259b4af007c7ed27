"""Floods at the running Envoy: too many, too large and never-ending headers are refused, others are served.

The caller has an SVID and is allowed: floods of strangers end in the handshake. What is sent goes out byte by
byte as it is written here, over HTTP/1.1 and as frames of HTTP/2 (RFC 9113).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from pathlib import Path
from typing import Any

import h2.connection
from http2_caller import Http2Caller, svid_of

WEB, PAY = "spiffe://agents.test/web", "spiffe://agents.test/pay"
START = [(":method", "GET"), (":scheme", "https"), (":authority", "shop.test"), (":path", "/ok")]
HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 1, 3, 4, 6, 7, 9
BOUND_SECONDS = 40.0
MORE_KIB = 64 << 10
"""Of memory that Envoy may hold after all of them; together they send 100 MiB."""


def frame(kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload


def kinds_in(received: bytes) -> set[int]:
    """The kinds of the frames in there."""
    found, place = set(), 0
    while place + 9 <= len(received):
        found.add(received[place + 3])
        place += 9 + int.from_bytes(received[place : place + 3], "big")
    return found


def literal(name: bytes, value: bytes) -> bytes:
    """A header that isn't kept in the table of the connection (RFC 7541, section 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def one(**more: str) -> bytes:
    """A good request of HTTP/1.1 with these headers more."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in more.items())
    return f"GET /ok HTTP/1.1\r\nhost: shop.test\r\n{lines}\r\n".encode()


MANY = {f"x-{number}": "a" for number in range(5000)}
TOO_LARGE, BAD = b"HTTP/1.1 431 ", b"HTTP/1.1 400 "
HTTP1: dict[str, tuple[bytes, bytes]] = {
    "many headers": (one(**MANY), TOO_LARGE),
    "a header of 200 KiB": (one(x="a" * 200_000), TOO_LARGE),
    "a header name of 200 KiB": (one(**{"x" * 200_000: "a"}), TOO_LARGE),
    "a path of 200 KiB": (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: shop.test\r\n\r\n", TOO_LARGE),
    "a method of 200 KiB": (b"G" * 200_000 + b" /ok HTTP/1.1\r\nhost: shop.test\r\n\r\n", TOO_LARGE),
    "headers without an end": (b"GET /ok HTTP/1.1\r\n" + b"x-a: b\r\n" * 200_000, TOO_LARGE),
    "a length and chunks": (
        one(**{"content-length": "4", "transfer-encoding": "chunked"}) + b"0\r\n\r\n",
        BAD,
    ),
    "two lengths": (
        b"POST /ok HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde",
        BAD,
    ),
    "a space before the colon": (b"GET /ok HTTP/1.1\r\nhost : shop.test\r\n\r\n", BAD),
    "a NUL in a header": (one(x="a\0b"), BAD),
    "HTTP/0.9": (b"GET /ok\r\n\r\n", b"HTTP/1.1 426 "),
}
"""What goes out, and how the answer begins."""


def http2_floods() -> dict[str, bytes]:
    opened = h2.connection.H2Connection()
    opened.initiate_connection()
    hello = opened.data_to_send()
    block = opened.encoder.encode(START)
    return {
        "headers that go on for ever": hello
        + frame(HEADERS, 1, block)
        + frame(CONTINUATION, 1, literal(b"x-a", b"b" * 100) * 100) * 200,
        "empty continuations": hello + frame(HEADERS, 1, block) + frame(CONTINUATION, 1) * 20_000,
        "requests that are taken back": hello
        + b"".join(
            frame(HEADERS, 2 * number + 1, block, flags=0x5)
            + frame(RST_STREAM, 2 * number + 1, b"\0\0\0\x08")
            for number in range(20_000)
        ),
        "pings": hello + frame(PING, 0, b"x" * 8) * 50_000,
        "settings": hello + frame(SETTINGS, 0) * 50_000,
        "streams beyond the limit": hello
        + b"".join(frame(HEADERS, 2 * number + 1, block, flags=0x4) for number in range(5_000)),
    }


async def sent(port: int, context: ssl.SSLContext, content: bytes, protocol: str) -> bytes | None:
    """What Envoy answers until it ends the connection, or the stream of HTTP/2; None if it does neither."""
    context.set_alpn_protocols([protocol])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    received = b""

    async def write() -> None:
        with contextlib.suppress(OSError):
            for start in range(0, len(content), 65536):
                writer.write(content[start : start + 65536])
                await writer.drain()

    writing = asyncio.create_task(write())
    try:
        async with asyncio.timeout(BOUND_SECONDS):
            while data := await reader.read(65536):
                received += data
                if protocol == "h2" and {RST_STREAM, GOAWAY} & kinds_in(received):
                    break
    except TimeoutError:
        return None
    except OSError:  # a reset, since there was more to read for it
        pass
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        writer.close()
    return received


def test_floods_end_and_others_are_served(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any, short_dir: Path
) -> None:
    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            envoy, port, _ = await it.service(PAY)
            it.enforcement.put(enforcing(admitting(PAY, WEB)))
            contexts = await svid_of(it.run, WEB, short_dir)
            caller = Http2Caller(port, contexts())
            async with asyncio.timeout(20):
                while (await caller.ask(START)).status != 200:  # noqa: ASYNC110 - no event tells it
                    await asyncio.sleep(0.05)
            before = memory_of(envoy.process.pid)
            floods = [sent(port, contexts(), text, "http/1.1") for text, _ in HTTP1.values()]
            floods += [sent(port, contexts(), text, "h2") for text in http2_floods().values()]
            sending = [asyncio.create_task(one) for one in floods]
            while not all(one.done() for one in sending):
                assert (await caller.ask(START)).status == 200
                await asyncio.sleep(0.05)
            answers = dict(zip((*HTTP1, *http2_floods()), (one.result() for one in sending), strict=True))
            assert not [what for what, answer in answers.items() if answer is None], "left open"
            for what, (_, expected) in HTTP1.items():
                assert (answers[what] or b"").startswith(expected), (what, answers[what])
            assert envoy.process.poll() is None, envoy.told()
            assert memory_of(envoy.process.pid) < before + MORE_KIB
            caller.close()

    run_async(work())


def memory_of(pid: int) -> int:
    """What a process holds, in KiB."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])
