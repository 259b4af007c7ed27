"""The management plane of Open Policy Agents beside us: what is in force, as signed bundles over HTTP."""

from control_plane.api.opa.bundles import OpaBundles
from control_plane.api.opa.routes import opa_app, router

__all__ = ["OpaBundles", "opa_app", "router"]
