"""The authorities' state in memory: for tests, with the same promises as the database's."""

from control_plane.authority.state import AuthorityState
from control_plane.core.errors import FailedPrecondition
from control_plane.core.spiffe_id import TrustDomain


class MemoryAuthorityStore:
    """See `ports.AuthorityStore`. Durable for as long as the process lives."""

    def __init__(self, trust_domain: TrustDomain) -> None:
        self._version = 0
        self._state = AuthorityState(trust_domain)

    async def load(self) -> tuple[int, AuthorityState]:
        """See `ports.AuthorityStore`."""
        return self._version, self._state

    async def save(self, expected_version: int, state: AuthorityState) -> int:
        """See `ports.AuthorityStore`."""
        if expected_version != self._version:
            raise FailedPrecondition(
                f"authority state: is at version {self._version}, the change was made to {expected_version}",
                hint="somebody else changed it meanwhile; look again and repeat",
            )
        if state.bundle_sequence < self._state.bundle_sequence:
            raise FailedPrecondition("authority state: the bundle's sequence would go back")
        self._version += 1
        self._state = state
        return self._version
