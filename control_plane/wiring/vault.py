"""What a process has of Vault: its own login and door, the PKI mount, and the authority that signs by it."""

import dataclasses
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from control_plane.authority.embedded import EmbeddedAuthority
from control_plane.authority.make import Maker
from control_plane.authority.ports import Authority, KeyManager, KeyPurpose, SlotMaker, X509Signer
from control_plane.authority.schedule import Lifetimes, Origin
from control_plane.authority.split_keys import SplitKeyManager
from control_plane.authority.vault import Switch, VaultAuthority
from control_plane.authority.vault_make import VaultMaker
from control_plane.authority.vault_ports import VaultHealth, VaultPki
from control_plane.clients.vault.door import VaultDoor
from control_plane.clients.vault.opening import open_pki, open_vault
from control_plane.clients.vault.secrets import is_reference, resolve
from control_plane.clients.vault.transit import TransitKeyManager
from control_plane.runtime.clock import Clock, SystemClock
from control_plane.runtime.lifecycle import Service
from control_plane.runtime.vault_settings import VaultMode, VaultSettings
from control_plane.settings import ServerSettings
from control_plane.wiring.vault_login import OwnLogin

ORIGINS = {
    None: Origin.EMBEDDED,
    VaultMode.INTERMEDIATE: Origin.VAULT_INTERMEDIATE,
    VaultMode.LEAF: Origin.VAULT_LEAF,
}


@dataclass(frozen=True, slots=True)
class Vault:
    """One process's way to Vault. `share` is how many calls it may have under way."""

    door: VaultDoor
    pki: VaultPki
    share: int
    settings: VaultSettings
    login: OwnLogin

    async def health(self) -> VaultHealth:
        """How the server is now."""
        return await self.door.health()


def vault_of(settings: ServerSettings) -> Vault | None:
    """A door of this process's own, with its share of the calls; None where no Vault is set. Asks nothing."""
    written = settings.written.vault
    if not written.address:
        return None
    share = max(1, written.max_requests // settings.issuers)
    login = OwnLogin(settings, SystemClock())
    door = open_vault(
        written,
        own=login,
        random=_draw,
        max_requests=share,
        keep=settings.data_dir / "vault-secret-id",
    )
    return Vault(door, open_pki(door, written), share, written, login)


def authority_of(
    settings: ServerSettings,
    vault: Vault | None,
    keys: KeyManager,
    clock: Clock,
    *,
    rehearse: Callable[[X509Signer], Awaitable[None]],
    record: Callable[[Switch], Awaitable[None]],
) -> Authority:
    """What signs in this process."""
    if vault is None or settings.by_vault is not VaultMode.LEAF:
        return EmbeddedAuthority(keys)
    return VaultAuthority(keys, vault.pki, clock, permits=vault.share, rehearse=rehearse, record=record)


def vault_services(vault: Vault | None, authority: Authority) -> dict[str, Service]:
    """What has to run for them: renewal of the token, looking whether Vault is back."""
    services: dict[str, Service] = {}
    if vault is not None:
        services["vault-login"] = vault.door
    if isinstance(authority, VaultAuthority):
        services["vault-authority"] = authority
    return services


def lifetimes_of(settings: ServerSettings) -> Lifetimes:
    """How long authorities live, by the settings."""
    written, authority = settings.written, settings.written.authority
    return Lifetimes(
        root_ttl_seconds=authority.root_ttl_seconds,
        issuing_ttl_seconds=settings.intermediate_ttl_seconds,
        leaf_ttl_seconds=settings.leaf_ttl_seconds,
        jwt_key_ttl_seconds=authority.jwt_key_ttl_seconds,
        jwt_ttl_seconds=written.default_jwt_svid_ttl_seconds,
        confirmation_limit_seconds=authority.confirmation_limit_seconds,
        origin=ORIGINS[settings.by_vault],
    )


def maker_of(
    settings: ServerSettings,
    vault: Vault | None,
    keys: KeyManager,
    clock: Clock,
    lifetimes: Lifetimes,
    *,
    random_bytes: Callable[[int], bytes],
) -> SlotMaker:
    """What makes authorities, by the settings."""
    constrain_uris = settings.written.authority.constrain_uris
    trust_domain = settings.trust_domain
    embedded = lifetimes.origin is Origin.EMBEDDED
    local = Maker(
        keys,
        trust_domain,
        lifetimes,
        random_bytes=random_bytes,
        constrain_uris=constrain_uris,
        roots=keys_in_vault(vault, keys, KeyPurpose.X509) if embedded else None,
    )
    if vault is None or embedded:
        return local
    return VaultMaker(
        vault.pki,
        keys,
        local,
        trust_domain,
        lifetimes,
        clock,
        random_bytes=random_bytes,
        constrain_uris=constrain_uris,
    )


def keys_in_vault(vault: Vault | None, keys: KeyManager, purpose: KeyPurpose) -> KeyManager | None:
    """`keys`, but those for one purpose in Vault; None where no transit mount is set.

    For keys that may be away: of roots and policies. What signs leaves and tokens has to go on without Vault.
    """
    if vault is None or not vault.settings.transit_mount:
        return None
    transit = TransitKeyManager(vault.door, vault.settings.transit_mount, random_bytes=os.urandom)
    return SplitKeyManager(keys, transit, frozenset({purpose}))


def with_secrets(settings: ServerSettings) -> ServerSettings:
    """The settings with each secret that stands for one in Vault replaced by that one. Blocks; once a start.

    Raises what `clients.vault.secrets.resolve` raises.
    """
    written = settings.written
    passphrase, push_token = written.authority.key_passphrase, written.opa.push_token
    if not (is_reference(passphrase) or is_reference(push_token)):
        return settings
    vault = vault_of(settings)
    if vault is None:
        return settings
    try:
        authority = dataclasses.replace(written.authority, key_passphrase=resolve(passphrase, vault.door))
        opa = dataclasses.replace(written.opa, push_token=resolve(push_token, vault.door))
    finally:
        vault.door.close()
    return ServerSettings.parse(dataclasses.replace(written, authority=authority, opa=opa))


def _draw() -> float:
    """A number in [0, 1)."""
    return int.from_bytes(os.urandom(6), "big") / (1 << 48)
