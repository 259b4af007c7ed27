"""Who signs, as the management API tells it."""

from control_plane.api.rest.authority_status import Signing, VaultAnswer
from control_plane.authority.ports import Authority
from control_plane.runtime.clock import Clock
from control_plane.wiring.vault import Vault


async def signing_of(
    authority: Authority, vault: Vault | None, clock: Clock, policy_keys_missing: str = ""
) -> Signing:
    """Who signs in this process, and how Vault is at this moment; `policy_keys_missing` says why the keys
    that sign policies couldn't be had there, if so."""
    status = authority.status
    told: VaultAnswer | None = None
    if vault is not None:
        told = {
            "address": vault.settings.address,
            "mode": str(vault.settings.mode),
            "health": str(await vault.health()),
            "last_error": status.last_error,
            "last_error_at": status.last_error_at,
            "policy_keys_missing": policy_keys_missing,
        }
    return {
        "signer": str(status.signer),
        "since_at": status.since,
        "authority_id": status.authority_id,
        "issuing_ends_at": status.issuing_ends,
        "seconds_left": max(0, status.issuing_ends - clock.unix()) if status.issuing_ends else 0,
        "vault": told,
    }
