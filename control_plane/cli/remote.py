"""How a command reaches the running server: gRPC over `server.sock`, REST where `api_access` says.

Every error becomes one line on standard error that says what was being done, to whom, what came back and what
to do next, and an exit code. With `--output json` the line is a JSON object. A traceback is shown only for
what nobody foresaw.
"""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import urlencode

import typer

from control_plane.cli.api_access import START_HINT, Api, api_of, only_local, require_socket
from control_plane.cli.options import DEFAULT_TIMEOUT_SECONDS, Output, data_dir_of
from control_plane.core.errors import (
    Code,
    DeadlineExceeded,
    GatehouseError,
    InvalidInput,
    NotFound,
    PeerMisbehaved,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor
    from google.protobuf.message import Message

    from control_plane.runtime.transport import Channel

Answer = TypeVar("Answer")

TRACE = "TRACEPARENT"
"""In the environment: the trace that a command belongs to, as OpenTelemetry's tools pass it to programs."""
MAX_REST_BYTES = 64 * 1024 * 1024
"""An answer of our own server that is longer is refused rather than read to the end of memory."""


class Exit(enum.IntEnum):
    """Exit codes, also told by `gatehouse --help`."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4


class Remote:
    """The admin socket of a running server, for the length of one command."""

    def __init__(self, channel: Channel, timeout_seconds: float) -> None:
        self._channel = channel
        self._timeout_seconds = timeout_seconds

    async def call(self, service: ServiceDescriptor, method: str, request: Message) -> Any:
        """One unary call; the reply is of the method's own type. Raises `GatehouseError`."""
        from google.protobuf.message_factory import GetMessageClass

        reply_type = GetMessageClass(service.methods_by_name[method].output_type)
        return await self._channel.unary(
            f"/{service.full_name}/{method}", request, reply_type, timeout=self._timeout_seconds
        )


def with_server(
    work: Callable[[Remote], Awaitable[Answer]],
    *,
    data_dir: Path | None,
    output: Output,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
) -> Answer:
    """Runs `work` against the admin socket; ends the program with one line if it fails."""
    # Read here: commands that need no server would spend half their start on it.
    import asyncio

    from control_plane.runtime import tracing
    from control_plane.runtime.transport import Channel

    if tracing.outgoing() is None:
        tracing.enter(os.environ.get(TRACE))
    path = data_dir_of(data_dir) / "server.sock"

    async def run() -> Answer:
        only_local("calling the server")
        require_socket(path)
        async with Channel.unix(path) as channel:
            return await work(Remote(channel, timeout_seconds))

    with reported(output):
        return asyncio.run(run())


def rest(
    method: str,
    path: str,
    *,
    data_dir: Path | None,
    output: Output,
    query: dict[str, Any] | None = None,
    body: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
) -> Any:
    """One REST call; the decoded JSON answer. Ends the program with one line if it fails.

    Who calls is this process's user or, elsewhere, the holder of the certificate; before both, whoever the
    token in `GATEHOUSE_TOKEN` names.
    """
    api = api_of(data_dir)
    given = {name: value for name, value in (query or {}).items() if value is not None}
    target = f"{path}?{urlencode(given)}" if given else path
    with reported(output):
        api.require()
        return _request(api, method, target, body, {**caller(), **(headers or {})}, timeout_seconds)


def caller() -> dict[str, str]:
    """Headers that say who calls, and in which trace, as the environment has them."""
    token = os.environ.get("GATEHOUSE_TOKEN", "").strip()
    trace = os.environ.get(TRACE, "")
    return {
        **({"authorization": f"Bearer {token}"} if token else {}),
        **({"traceparent": trace} if trace.isascii() and trace.isprintable() and trace else {}),
    }


def _request(
    api: Api,
    method: str,
    target: str,
    body: dict[str, Any] | None,
    headers: dict[str, str],
    timeout_seconds: float,
) -> Any:
    """Sends one request and reads its bounded answer. Raises `GatehouseError`."""
    from http.client import HTTPException

    connection = api.connection(timeout_seconds)
    doing = f"{method} {target} at {api}"
    try:
        encoded = None if body is None else json.dumps(body).encode()
        with _traced(method, target) as trace:
            told = {"content-type": "application/json", **headers, **trace}
            connection.request(method, target, body=encoded, headers=told)
            response = connection.getresponse()
            received = response.read(MAX_REST_BYTES + 1)
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"{doing}: no answer within {timeout_seconds:g} s", hint="try a longer --timeout"
        ) from error
    except (OSError, HTTPException) as error:
        raise Unavailable(f"{doing}: {str(error) or type(error).__name__}", hint=api.hint) from error
    finally:
        connection.close()
    if len(received) > MAX_REST_BYTES:
        raise PeerMisbehaved(f"{doing}: the answer is longer than {MAX_REST_BYTES} bytes")
    try:
        answer = json.loads(received) if received else None
    except (ValueError, RecursionError) as error:
        raise PeerMisbehaved(f"{doing}: status {response.status}, and the answer is not JSON") from error
    if response.status >= 400:
        raise _problem(response.status, answer, doing)
    return answer


@contextmanager
def _traced(method: str, target: str) -> Iterator[dict[str, str]]:
    """The headers of a request, which is a span where spans are collected; else nothing is loaded for it."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        yield {}
        return
    from control_plane.runtime import tracing

    with tracing.Outgoing(f"{method} {tracing.family(target)}") as call:
        yield {} if call.header is None else {tracing.HEADER: call.header}


def problem_in(status: int, received: bytes, doing: str) -> GatehouseError:
    """The error that an answer tells of; for callers that read good answers by themselves."""
    try:
        answer = json.loads(received)
    except (ValueError, RecursionError):
        return PeerMisbehaved(f"{doing}: status {status}, and the answer is not JSON")
    return _problem(status, answer, doing)


class Refused(GatehouseError):
    """The server answered with a problem (RFC 9457); its own words are passed on."""

    code = Code.FAILED_PRECONDITION


ANSWERED: dict[int, type[GatehouseError]] = {
    400: InvalidInput,
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
    422: InvalidInput,
}
"""By status; what isn't here is `Refused`."""


def _problem(status: int, answer: object, doing: str) -> GatehouseError:
    """A problem+json answer as an error with the server's own words."""
    problem = answer if isinstance(answer, dict) else {}
    message = str(problem.get("detail") or problem.get("title") or f"{doing}: status {status}")
    hint = str(problem.get("hint") or "")
    return ANSWERED.get(status, Refused)(message, hint=hint)


@contextmanager
def reported(output: Output, *, starting: bool = False) -> Iterator[None]:
    """Turns expected errors into one line on standard error and an exit code; where a server is `starting`,
    what isn't there is no server out of reach."""
    try:
        yield
    except GatehouseError as error:
        fail(error, output, starting=starting)
    except BrokenPipeError:
        raise  # who read our output is gone, as after `| head`: the program ends without a word
    except (ConnectionError, FileNotFoundError, PermissionError) as error:
        fail(Unavailable(str(error), hint=START_HINT), output)


def fail(error: GatehouseError, output: Output, *, starting: bool = False) -> NoReturn:
    """Prints an error and ends the program with its exit code."""
    if output is Output.JSON:
        told = {"error": error.kind, "code": error.code.name, "message": error.message, "hint": error.hint}
        typer.echo(json.dumps(told, ensure_ascii=False), err=True)
    else:
        typer.echo(f"gatehouse: {error}", err=True)
    if isinstance(error, NotFound):
        raise typer.Exit(Exit.NOT_FOUND)
    away = isinstance(error, Unavailable | DeadlineExceeded) and not starting
    raise typer.Exit(Exit.UNREACHABLE if away else Exit.FAILED)
