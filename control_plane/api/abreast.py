"""Keeps an issuer from answering an agent by an older state than another issuer has told it of.

The issuers of one server share a port, and each follows the change log at its own pace: an agent whose
connection breaks may land where the log has been read less far. It says with each call which change it heard
of last (`core.log_position`), and the call waits until that is here. SPIRE's agents say nothing and lose
nothing: they ask one issuer again and again.
"""

from collections.abc import Awaitable, Callable

from control_plane.api.caller import caller_of
from control_plane.core.errors import InvalidInput
from control_plane.core.log_position import HEARD, LogPosition
from control_plane.runtime.transport import Call


class Abreast:
    """The interceptor. `reach` returns once the process holds a position, or raises Unavailable."""

    def __init__(self, reach: Callable[[LogPosition], Awaitable[None]]) -> None:
        self._reach = reach

    async def __call__(self, call: Call) -> None:
        """Returns if the call may go on. Raises Unavailable for a process that can't catch up, InvalidInput
        for a position that is none."""
        heard = call.first(HEARD)
        if heard is None or caller_of(call).spiffe_id is None:
            return
        try:
            position = LogPosition.parse(heard)
        except InvalidInput as error:
            raise InvalidInput(f"metadata {HEARD}: {error.message}") from None
        await self._reach(position)
