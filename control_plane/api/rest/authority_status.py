"""`/v1/authority`: who signs now, and how long issuing could go on if nobody came to help."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter
from typing_extensions import TypedDict  # pydantic reads the one of `typing` from Python 3.12 on


class VaultAnswer(TypedDict):
    """The Vault of the settings; `last_error_at` is 0 while there was no error. `policy_keys_missing` says
    why the keys there that sign policies haven't been found since the start; empty where they have."""

    address: str
    mode: str
    health: str
    last_error: str
    last_error_at: int
    policy_keys_missing: str


class Signing(TypedDict):
    """`signer` is nobody, embedded, intermediate, vault or standby. `issuing_ends_at` is when the issuing CA
    whose key is on this machine ends: without Vault, and without any other help, that is the end of issuing.
    """

    signer: str
    since_at: int
    authority_id: str
    issuing_ends_at: int
    seconds_left: int
    vault: VaultAnswer | None


def router(signing: Callable[[], Awaitable[Signing]]) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["authority"])

    @routes.get("/v1/authority")
    async def status() -> Signing:
        """Who signs in the management process; each issuer decides for itself, by what it sees."""
        return await signing()

    return routes
