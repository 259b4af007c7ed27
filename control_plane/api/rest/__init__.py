"""The management API, as REST: what SPIRE's gRPC API has no words for. How it is reached is wiring's part."""

from control_plane.api.rest.app import rest_app
from control_plane.api.rest.context import RestContext

__all__ = ["RestContext", "rest_app"]
