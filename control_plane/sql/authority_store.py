"""The authorities' state over SQLite: one row, replaced only by who has read its latest version."""

from sqlalchemy import Connection, delete, insert, select

from control_plane.authority import state_json
from control_plane.authority.state import AuthorityState
from control_plane.core.errors import FailedPrecondition
from control_plane.core.spiffe_id import TrustDomain
from control_plane.sql import change_queries
from control_plane.sql.remembered import RememberedReads
from control_plane.sql.tables import authority_state
from control_plane.sql.thread import SqlThread


class SqlAuthorityStore:
    """Implements `authority.ports.AuthorityStore`; every change is in the change log too."""

    def __init__(self, thread: SqlThread, trust_domain: TrustDomain) -> None:
        self._thread = thread
        self._remembered = RememberedReads(thread, "SELECT version FROM authority_state")
        self._trust_domain = trust_domain

    async def load(self) -> tuple[int, AuthorityState]:
        """See the port."""
        return await self._remembered.read("authorities", "reading the authorities", self._load)

    async def save(self, expected_version: int, state: AuthorityState) -> int:
        """See the port."""
        return await self._thread.write(
            "storing the authorities", lambda connection: self._save(connection, expected_version, state)
        )

    def _load(self, connection: Connection) -> tuple[int, AuthorityState]:
        row = connection.execute(select(authority_state.c.version, authority_state.c.document)).one_or_none()
        if row is None:
            return 0, AuthorityState(self._trust_domain)
        state = state_json.parse(row.document)
        if state.trust_domain != self._trust_domain:
            raise FailedPrecondition(
                f"reading the authorities: they are of trust domain {state.trust_domain}, "
                f"the server was started for {self._trust_domain}",
                hint="a data directory belongs to one trust domain: choose another directory",
            )
        return row.version, state

    def _save(self, connection: Connection, expected_version: int, state: AuthorityState) -> int:
        version, stored = self._load(connection)
        if version != expected_version:
            raise FailedPrecondition(
                f"authority state: is at version {version}, the change was made to {expected_version}",
                hint="somebody else changed it meanwhile; look again and repeat",
            )
        if state.bundle_sequence < stored.bundle_sequence:
            raise FailedPrecondition("authority state: the bundle's sequence would go back")
        connection.execute(delete(authority_state))
        document = {"id": 1, "version": version + 1, "document": state_json.dump(state)}
        connection.execute(insert(authority_state), document)
        change_queries.record(connection, "authority", [""])
        return version + 1
