"""What the REST routes need from the management process."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from fastapi.routing import APIRoute

from control_plane.api.context import ServerContext
from control_plane.api.rest.authority_status import Signing
from control_plane.api.rest.events import Events
from control_plane.api.rest.front import Rates
from control_plane.api.rest.gate import Gate
from control_plane.api.rest.response import Rules
from control_plane.authority.lifecycle import AuthorityLifecycle
from control_plane.authority.ports import AuthorityStore
from control_plane.rollout.canary import CanaryWatch
from control_plane.rollout.lifecycle import Rollouts
from control_plane.rollout.ports import RolloutStore
from control_plane.runtime.answers import Answers


@dataclass(frozen=True, slots=True, kw_only=True)
class RestContext:
    """Parts of the process. `unconfirmed` counts live agents that lack a sequence of our bundle. Every route
    that changes something is of `route_class`."""

    server: ServerContext
    lifecycle: AuthorityLifecycle
    authorities: AuthorityStore
    unconfirmed: Callable[[int], Awaitable[int]]
    ledger_dir: Path
    healthy: Callable[[], bool]
    signing: Callable[[], Awaitable[Signing]]
    gate: Gate
    route_class: type[APIRoute]
    answers: Answers
    rules: Rules
    falco_per_minute: int
    rollouts: Rollouts
    rollout_store: RolloutStore
    canary_watch: CanaryWatch
    events: Events
    rates: Rates
    max_listeners: int
