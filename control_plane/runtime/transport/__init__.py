"""gRPC for Gatehouse: a server and a client over grpclib, behind one narrow door.

Peers are shown as the kernel and TLS saw them, errors are `core.errors` on both sides, and every bound is in
`Limits`. No domain knowledge: who may call what is decided by interceptors that the caller brings.
"""

from control_plane.runtime.transport.call import Call
from control_plane.runtime.transport.channel import CLIENT_LIMITS, Channel
from control_plane.runtime.transport.client_connection import ClientCall
from control_plane.runtime.transport.health import health
from control_plane.runtime.transport.limits import FrameLimits, Limits
from control_plane.runtime.transport.peer import Peer, UnixPeer
from control_plane.runtime.transport.reflection import reflection
from control_plane.runtime.transport.server import Server
from control_plane.runtime.transport.service import (
    Interceptor,
    Method,
    Reply,
    Requests,
    Response,
    Service,
    method_path,
    service,
    snake_case,
)
from control_plane.runtime.transport.session import Admit

__all__ = [
    "CLIENT_LIMITS",
    "Admit",
    "Call",
    "Channel",
    "ClientCall",
    "FrameLimits",
    "Interceptor",
    "Limits",
    "Method",
    "Peer",
    "Reply",
    "Requests",
    "Response",
    "Server",
    "Service",
    "UnixPeer",
    "health",
    "method_path",
    "reflection",
    "service",
    "snake_case",
]
