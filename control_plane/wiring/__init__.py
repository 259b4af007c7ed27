"""Picks implementations and builds the processes of the server. The only place that does.

`run_server` is the supervisor; `run_issuer` and `run_management` are what it starts, each in a process of
its own (`python -m control_plane.wiring`).
"""

from control_plane.wiring.issuer import run_issuer
from control_plane.wiring.management import run_management
from control_plane.wiring.supervisor import run_server

__all__ = ["run_issuer", "run_management", "run_server"]
