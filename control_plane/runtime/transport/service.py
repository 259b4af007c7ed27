"""From a service descriptor and an object with coroutines to methods that a server can call.

The four shapes of a gRPC method, and nothing about HTTP/2: reading and writing go through the two Protocols
`Requests` and `Reply`, which the session implements.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol, cast

from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from control_plane.core.errors import Unimplemented
from control_plane.runtime.transport.call import Call

Response = Message | bytes
Interceptor = Callable[[Call], Awaitable[None]]


class Requests(Protocol):
    """The requests of one call. Iteration ends with the caller's side of the stream."""

    async def one(self) -> Message:
        """The only request of a unary call. Raises InvalidInput when none came."""

    def __aiter__(self) -> AsyncIterator[Message]: ...


class Reply(Protocol):
    """The replies of one call. A reply given as bytes is a serialised message and goes out as it is."""

    async def send(self, response: Response) -> None: ...

    async def send_last(self, response: Response) -> None:
        """Sends a reply together with the trailers of success."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method: its path, its request class, and how it is served."""

    path: str
    request_class: type[Message]
    serve: Callable[[Call, Requests, Reply], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Service:
    """A service that a server can offer: its full name, its methods by path, the file that describes it."""

    name: str
    methods: Mapping[str, Method]
    file: FileDescriptor


def service(descriptor: ServiceDescriptor, implementation: object) -> Service:
    """Binds each RPC to the coroutine of `implementation` whose name is the RPC's in snake case.

    unary:            async def get_entry(self, call, request) -> Message
    server stream:    async def fetch_x509_svid(self, call, request) -> AsyncIterator[Message]
    client stream:    async def upload(self, call, requests: AsyncIterator) -> Message
    bidirectional:    async def attest_agent(self, call, requests: AsyncIterator) -> AsyncIterator[Message]

    Streams are async generators and are closed when the call ends, however it ends. A method that
    `implementation` lacks answers UNIMPLEMENTED.
    """
    methods = [_bind(descriptor, method, implementation) for method in descriptor.methods]
    return Service(descriptor.full_name, {method.path: method for method in methods}, descriptor.file)


def snake_case(name: str) -> str:
    """FetchX509SVID -> fetch_x509_svid, NewJWTSVID -> new_jwt_svid, ListAgents -> list_agents."""
    name = name.replace("SVID", "Svid")  # a word of its own, also after JWT and WIT
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def method_path(descriptor: MethodDescriptor) -> str:
    """ "/package.Service/Method"."""
    return f"/{descriptor.containing_service.full_name}/{descriptor.name}"


def _bind(
    service_descriptor: ServiceDescriptor, descriptor: MethodDescriptor, implementation: object
) -> Method:
    path = f"/{service_descriptor.full_name}/{descriptor.name}"
    handler = getattr(implementation, snake_case(descriptor.name), None)
    if handler is None:
        serve = _unimplemented(path)
    elif descriptor.server_streaming:
        serve = _serve_stream(handler, many_requests=descriptor.client_streaming)
    else:
        serve = _serve_single(handler, many_requests=descriptor.client_streaming)
    return Method(path, GetMessageClass(descriptor.input_type), serve)


def _serve_single(handler: Any, *, many_requests: bool) -> Callable[[Call, Requests, Reply], Awaitable[None]]:
    async def serve(call: Call, requests: Requests, reply: Reply) -> None:
        argument = requests if many_requests else await requests.one()
        await reply.send_last(cast(Response, await handler(call, argument)))

    return serve


def _serve_stream(handler: Any, *, many_requests: bool) -> Callable[[Call, Requests, Reply], Awaitable[None]]:
    async def serve(call: Call, requests: Requests, reply: Reply) -> None:
        argument = requests if many_requests else await requests.one()
        async with aclosing(handler(call, argument)) as responses:
            del argument  # a stream may be silent for hours: what it was asked is the handler's to keep,
            async for response in responses:
                await reply.send(response)
                del response  # and what it has said is nobody's

    return serve


def _unimplemented(path: str) -> Callable[[Call, Requests, Reply], Awaitable[None]]:
    async def serve(call: Call, requests: Requests, reply: Reply) -> None:
        raise Unimplemented(f"{path} is part of this API but this version doesn't serve it")

    return serve
