"""Keys in two places, by their purpose: some far away (in Vault), the rest here.

What has to sign while the far place is away stays here; that choice is the wiring's. Keys that were made here
before the far place was set up are found and used still.
"""

from control_plane.authority.keys import purpose_of
from control_plane.authority.ports import KeyManager, KeyPurpose, KeyType, Signer
from control_plane.core.errors import NotFound


class SplitKeyManager:
    """Implements `ports.KeyManager`: keys for the purposes in `far` are made there, all others here."""

    def __init__(self, here: KeyManager, there: KeyManager, far: frozenset[KeyPurpose]) -> None:
        self._here = here
        self._there = there
        self._far = far

    def create(self, purpose: KeyPurpose, key_type: KeyType = KeyType.EC_P256) -> Signer:
        """See `ports.KeyManager`."""
        return (self._there if purpose in self._far else self._here).create(purpose, key_type)

    def get(self, key_id: str) -> Signer:
        """See `ports.KeyManager`."""
        if purpose_of(key_id) in self._far:
            try:
                return self._there.get(key_id)
            except NotFound:
                pass
        return self._here.get(key_id)

    def key_ids(self, purpose: KeyPurpose | None = None) -> list[str]:
        """See `ports.KeyManager`."""
        found = set(self._here.key_ids(purpose))
        for far in self._far if purpose is None else self._far & {purpose}:
            found.update(self._there.key_ids(far))
        return sorted(found)

    def delete(self, key_id: str) -> None:
        """See `ports.KeyManager`."""
        if purpose_of(key_id) in self._far:
            self._there.delete(key_id)
        self._here.delete(key_id)

    def sweep(self, now: int) -> None:
        """See `ports.KeyManager`."""
        self._here.sweep(now)
        self._there.sweep(now)
