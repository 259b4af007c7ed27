"""The keys that sign policies: made at the first start, published before they are used, retired after.

The private halves stay with the key manager, under the purpose `policy`; their public halves are published in
the registry, from where issuers push them. A version may have been signed by a key that is retired since:
the manager still has it.

A manager that is far away (Vault) may be out of reach at the start. Nothing is signed or believed then, and
all else of the process goes on; the keys are looked for until they are found.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from control_plane.authority.ports import KeyManager, KeyPurpose, KeyType, Signer
from control_plane.core.errors import Bug, Corrupt, GatehouseError, NotFound, Unavailable
from control_plane.core.signature import is_signed_by
from control_plane.core.spiffe_id import TrustDomain
from control_plane.rollout.bundle import PolicyKey
from control_plane.rollout.ports import RolloutStore
from control_plane.rollout.push import Pushed
from control_plane.rollout.version import PolicyVersion, SignedVersion
from control_plane.runtime.clock import Clock
from control_plane.runtime.log import get_logger

RETRY_SECONDS: Final = 2.0

_log = get_logger("policy")


class PolicyKeys:
    """Signs by the newest key; new ones are of `key_type`. `open` before use."""

    def __init__(
        self,
        manager: KeyManager,
        store: RolloutStore,
        trust_domain: TrustDomain,
        clock: Clock,
        *,
        key_type: KeyType = KeyType.EC_P256,
    ) -> None:
        self.trust_domain = trust_domain
        self._manager = manager
        self._store = store
        self._clock = clock
        self._key_type = key_type
        self._current: PolicyKey | None = None
        self._public: dict[str, bytes] = {}
        self._signers: dict[str, Signer] = {}
        self.missing = ""
        """Why the keys weren't found yet; empty once they were."""

    async def open(self) -> None:
        """Finds the newest published key that we can use, or makes one; a manager that can't be reached is
        left to `run`. Raises what keys and store raise else."""
        try:
            await self._find()
        except Unavailable as error:
            self.missing = str(error)
            _log.error("policy_keys_out_of_reach", reason=self.missing)

    async def run(self, stop: asyncio.Event) -> None:
        """Looks for the keys until they are there, if `open` didn't find them."""
        while self.missing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await stop.wait()
            if stop.is_set():
                return
            try:
                await self._find()
            except GatehouseError as error:
                self.missing = str(error)
            else:
                self.missing = ""
                _log.info("policy_keys_found", key_id=self.current[0].key_id)

    async def _find(self) -> None:
        names = await asyncio.to_thread(self._manager.key_ids, KeyPurpose.POLICY)
        for name in names:
            signer = await asyncio.to_thread(self._manager.get, name)
            key = PolicyKey(name, signer.public_key, 0)
            self._public[key.key_id] = key.public_key
            self._signers[key.key_id] = signer
        for key in reversed(await self._store.keys()):
            if key.key_id in self._public:
                self._current = key
                return
        await self.rotate()

    async def rotate(self) -> str:
        """Makes and publishes a key, and signs with it from now on. Gives its ID."""
        signer = await asyncio.to_thread(self._manager.create, KeyPurpose.POLICY, self._key_type)
        # A crash here leaves a key that was never published, and that nobody will miss.
        key = PolicyKey(signer.key_id, signer.public_key, self._clock.unix())
        await self._store.add_key(key)
        self._public[key.key_id] = key.public_key
        self._signers[key.key_id] = signer
        self._current = key
        _log.info("policy_key_published", key_id=key.key_id)
        return key.key_id

    async def retire_unused(self, pushed: Pushed) -> None:
        """Stops publishing keys that signed nothing of what is in force, save the newest."""
        needed = {bundle.key_id for bundle in pushed.bundles.values()} | {self.current[0].key_id}
        for key in pushed.keys:
            if key.key_id not in needed:
                await self._store.retire_key(key.key_id)
                _log.info("policy_key_retired", key_id=key.key_id)

    @property
    def current(self) -> tuple[PolicyKey, Callable[[bytes], bytes]]:
        """The newest key, and what signs with it: that belongs into a thread, it may ask Vault."""
        self._check_found()
        if self._current is None:
            raise Bug("policy keys: used before they were opened")
        return self._current, self._signers[self._current.key_id].sign

    def sign_version(self, version: PolicyVersion) -> SignedVersion:
        """The version with our signature. Blocks as `ports.Signer.sign` does."""
        key, sign = self.current
        return SignedVersion(version, sign(version.signed_text()), key.key_id)

    def check_version(self, signed: SignedVersion) -> None:
        """Raises Corrupt unless one of our keys signed the record as it stands, and Unavailable while nobody
        can say which keys are ours."""
        self._check_found()
        version = signed.version
        public_key = self._public.get(signed.key_id)
        if public_key is None:
            raise NotFound(
                f"policy version {version.number}: its key {signed.key_id[:16]}… isn't among our keys",
                hint="restore the key directory that belongs to this database, or push the policy again",
            )
        if not is_signed_by(public_key, signed.signature, version.signed_text()):
            raise Corrupt(
                f"policy version {version.number}: its record isn't what was signed",
                hint="somebody changed the database: look at the ledger, and restore a backup",
            )

    def _check_found(self) -> None:
        if self.missing:
            raise Unavailable(
                f"policy keys: they can't be reached since the start ({self.missing})",
                hint="bring Vault back: they are found by themselves then",
                retry_after_seconds=RETRY_SECONDS,
            )
