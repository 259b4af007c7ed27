"""What the REST routes need from the management process."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from control_plane.api.context import ServerContext
from control_plane.authority.lifecycle import AuthorityLifecycle
from control_plane.authority.ports import AuthorityStore


@dataclass(frozen=True, slots=True, kw_only=True)
class RestContext:
    """Parts of the process. `unconfirmed` counts live agents that lack a sequence of our bundle."""

    server: ServerContext
    lifecycle: AuthorityLifecycle
    authorities: AuthorityStore
    unconfirmed: Callable[[int], Awaitable[int]]
    ledger_dir: Path
    healthy: Callable[[], bool]
