"""The shop behind the Envoys: a front end, a payment service and a card database, and a customer.

    shop.py frontend  --listen A:P --payments URL                    HTTP
    shop.py payments  --listen A:P --grpc A:P --database A:P [--sql] HTTP, and a gRPC stream
    shop.py card-db   --listen A:P                                   a line in, a line out: no PostgreSQL
    shop.py customer  --payments URL                                 pays again and again, and tells

They know nothing of certificates and policies: each speaks plainly to its Envoy on the loopback interface.
Like any service that wants to be seen in traces, the front end passes a `traceparent` on.
Events go to standard output, one JSON object a line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import StringValue
from grpclib.const import Cardinality, Handler
from grpclib.server import Server

from deploy.demo.cards import Cards, Connection

WATCH = "/shop.payments.v1.Payments/Watch"
TIMEOUT_SECONDS = 5.0
PAUSE_SECONDS = 1.0

Answer = Callable[[str, str, str], tuple[int, Any]]
"""Method, path and `traceparent` to status and JSON."""


def tell(event: str, **fields: object) -> None:
    """One event, at once."""
    print(json.dumps({"event": event, "at": int(time.time()), **fields}), flush=True)


def serve_http(at: tuple[str, int], answer: Answer) -> None:
    """Serves JSON until the process ends."""

    class Request(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            self.rfile.read(min(length, 65536))
            status, body = answer(self.command, self.path, self.headers.get("traceparent", ""))
            content = json.dumps(body).encode() + b"\n"
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = do_PUT = _answer  # noqa: N815 - names that http.server asks for

        def log_message(self, format: str, *arguments: object) -> None:
            tell(
                "request",
                line=format % arguments,
                client_certificate=self.headers.get("x-forwarded-client-cert"),
            )

    tell("listening", address=f"{at[0]}:{at[1]}")
    ThreadingHTTPServer(at, Request).serve_forever()


def frontend(at: tuple[str, int], payments: str) -> None:
    """Shows a page with what the payment service says."""

    def answer(method: str, path: str, trace: str) -> tuple[int, Any]:
        status, body = fetch(f"{payments}/v1/charges", trace=trace)
        return 200, {"shop": "open", "payments": {"status": status, "says": body}}

    serve_http(at, answer)


def payments(at: tuple[str, int], grpc: tuple[str, int], database: Cards) -> None:
    """Charges cards, which it looks up in the database; tells of charges on a stream."""
    kept = Kept(database)

    def answer(method: str, path: str, trace: str) -> tuple[int, Any]:
        return (201 if method == "POST" else 200), {"charged": "4.20", "card": kept.look_up()}

    threading.Thread(target=lambda: asyncio.run(_stream(*grpc)), daemon=True).start()
    serve_http(at, answer)


class Kept:
    """One connection to the database for all threads; another one when it was closed."""

    def __init__(self, database: Cards) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    def look_up(self) -> str:
        """The number of a card; empty where nobody answers."""
        with self._lock:
            for _ in range(2):
                try:
                    self._connection = self._connection or self._database.open()
                    return self._connection.ask()
                except OSError:
                    if self._connection is not None:
                        self._connection.close()
                    self._connection = None
        return ""


async def _stream(host: str, port: int) -> None:
    class Payments:
        async def watch(self, stream: Any) -> None:
            await stream.recv_message()
            number = 0
            while True:
                number += 1
                await stream.send_message(StringValue(value=f"charge {number}"))
                await asyncio.sleep(PAUSE_SECONDS)

        def __mapping__(self) -> dict[str, Handler]:
            return {WATCH: Handler(self.watch, Cardinality.UNARY_STREAM, Empty, StringValue)}

    server = Server([Payments()])
    await server.start(host, port)
    await server.wait_closed()


def card_db(at: tuple[str, int]) -> None:
    """Answers each line."""

    def talk(connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as lines:
            while lines.readline(1024):
                lines.write(b"4242 4242 4242 4242\n")
                lines.flush()

    with socket.create_server(at) as listener:
        tell("listening", address=f"{at[0]}:{at[1]}")
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=talk, args=(connection,), daemon=True).start()


def customer(payments: str) -> None:
    """Pays again and again through the front end's Envoy, and tells of each answer."""
    while True:
        status, _ = fetch(f"{payments}/v1/charges", "POST")
        tell("paid" if status == 201 else "not-paid", status=status)
        time.sleep(PAUSE_SECONDS)


def fetch(url: str, method: str = "GET", trace: str = "") -> tuple[int, str]:
    """Status and body; status 0 where nobody answered."""
    data, headers = b"" if method == "POST" else None, {"traceparent": trace} if trace else {}
    request = urllib.request.Request(url, method=method, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            return answer.status, answer.read(65536).decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read(65536).decode()
    except OSError as error:
        return 0, str(error)


def address(text: str) -> tuple[str, int]:
    """`127.0.0.1:80` as Python wants it."""
    host, _, port = text.rpartition(":")
    return host, int(port)


def main() -> int:
    """Plays one of the roles."""
    parser = argparse.ArgumentParser()
    roles = parser.add_subparsers(dest="role", required=True)
    for role, flags in {
        "frontend": ("--listen", "--payments"),
        "payments": ("--listen", "--grpc", "--database"),
        "card-db": ("--listen",),
        "customer": ("--payments",),
    }.items():
        each = roles.add_parser(role)
        for flag in flags:
            each.add_argument(flag, required=True)
        if role == "payments":
            each.add_argument("--sql", action="store_true")
    arguments = parser.parse_args()
    match arguments.role:
        case "frontend":
            frontend(address(arguments.listen), arguments.payments)
        case "payments":
            database = Cards(*address(arguments.database), arguments.sql)
            payments(address(arguments.listen), address(arguments.grpc), database)
        case "card-db":
            card_db(address(arguments.listen))
        case "customer":
            customer(arguments.payments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
