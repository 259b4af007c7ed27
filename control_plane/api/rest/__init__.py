"""REST for the machine's administrators, on a unix socket: what SPIRE's gRPC API has no words for."""

from control_plane.api.rest.app import rest_app
from control_plane.api.rest.context import RestContext

__all__ = ["RestContext", "rest_app"]
