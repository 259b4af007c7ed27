"""Picks implementations and builds the processes of the server. The only place that does.

`run_server` is the supervisor; `run_issuer` and `run_management` are what it starts, each in a process of
its own (`python -m control_plane.wiring`). Each imports its own part only when it is called: an issuer has no
use for the REST framework, and starts sooner and smaller without it; the supervisor needs hardly anything.
"""

from collections.abc import Callable

from control_plane.settings import ServerSettings

__all__ = ["run_issuer", "run_management", "run_server"]


def run_server(settings: ServerSettings, started: Callable[[], None] | None = None) -> None:
    """Runs the whole server until a signal; see `wiring.supervisor.run_server`."""
    from control_plane.wiring import supervisor

    if settings.written.vault.address:  # without one, the supervisor needn't carry Vault's client
        from control_plane.wiring.vault import with_secrets

        settings = with_secrets(settings)
    supervisor.run_server(settings, started)


def run_issuer(settings: ServerSettings, index: int, started: Callable[[], None] | None = None) -> None:
    """Runs one issuer until a signal; see `wiring.issuer.run_issuer`."""
    from control_plane.wiring import issuer

    issuer.run_issuer(settings, index, started)


def run_management(settings: ServerSettings, started: Callable[[], None] | None = None) -> None:
    """Runs the management process until a signal; see `wiring.management.run_management`."""
    from control_plane.wiring import management

    management.run_management(settings, started)
