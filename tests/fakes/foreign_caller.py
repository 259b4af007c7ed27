"""grpcio as a caller of somebody's unix socket, in a process of its own: requests go in and answers come out.

The process knows no messages: what travels are their bytes, so that the same bytes reach every server.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

_PROGRAM = """
import grpc, json, sys
unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
channel = grpc.insecure_channel("unix:" + sys.argv[1], options=unlimited)
for line in sys.stdin:
    method, request = json.loads(line)
    try:
        answer = [0, channel.unary_unary(method)(bytes.fromhex(request), timeout=60).hex()]
    except grpc.RpcError as error:
        answer = [error.code().value[0], error.details()]
    print(json.dumps(answer), flush=True)
"""


@dataclass(frozen=True)
class Request:
    """One unary call: the method's path, what is sent, and what an answer is read as."""

    method: str
    message: Message
    reply: type[Message]


@dataclass(frozen=True)
class Answer:
    """gRPC's status code, and the reply, or the sentence that came instead."""

    code: int
    reply: Any = None
    sentence: str = ""


class ForeignCaller:
    """Calls the server behind a unix socket. Close it at the end."""

    def __init__(self, socket: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(socket)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, request: Request) -> Answer:
        """Sends one request and waits for its answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        line = json.dumps([request.method, request.message.SerializeToString().hex()])
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        code, text = json.loads(self._process.stdout.readline())
        if code:
            return Answer(code, sentence=text)
        return Answer(0, request.reply.FromString(bytes.fromhex(text)))

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()
