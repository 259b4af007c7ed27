"""Attestation by join token: a secret that works once.

The token is gone with the first attempt, even an expired one, so a guess can't be repeated and a stolen token
is noticed by its owner. Only its SHA-256 is stored and looked up, so neither the database nor the time that a
look-up takes tells a token. The agent's ID ends in the token itself (as in SPIRE): harmless once used, and
the reason why an alias entry made with a token must be as protected as the token until then.
"""

import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Final
from uuid import UUID

from control_plane.core.errors import InvalidInput
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import TrustDomain, agent_id
from control_plane.identity.attestors import Attestation, AttestedNode
from control_plane.identity.ports import JoinTokens

TYPE: Final = "join_token"
MAX_TOKEN_CHARACTERS: Final = 255
_TOKEN: Final = re.compile(r"(?!\.{1,2}\Z)[a-zA-Z0-9._-]{1,255}")


def new_token(random_bytes: Callable[[int], bytes]) -> Secret[str]:
    """A token of 122 random bits in the form of a version 4 UUID (RFC 9562 section 5.4), as SPIRE's are."""
    return Secret(str(UUID(bytes=random_bytes(16), version=4)))


def check_token(text: str) -> Secret[str]:
    """A token that can be the last segment of an ID. Raises InvalidInput without showing it."""
    if not _TOKEN.fullmatch(text):
        raise InvalidInput(
            f"join token of {len(text)} characters: expected 1 to {MAX_TOKEN_CHARACTERS} of a-z A-Z 0-9 . - _"
        )
    return Secret(text)


def token_digest(token: Secret[str]) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(token.reveal().encode("ascii")).digest()


class JoinTokenAttestor:
    """Implements `NodeAttestor`."""

    def __init__(self, trust_domain: TrustDomain, tokens: JoinTokens) -> None:
        self._trust_domain = trust_domain
        self._tokens = tokens

    @property
    def type(self) -> str:
        """`join_token`."""
        return TYPE

    def begin(self, payload: bytes, now: int) -> Attestation:
        """The payload is the token's bytes."""
        return _Conversation(self._trust_domain, self._tokens, Secret(payload), now)


class _Conversation:
    def __init__(
        self, trust_domain: TrustDomain, tokens: JoinTokens, payload: Secret[bytes], now: int
    ) -> None:
        self._trust_domain = trust_domain
        self._tokens = tokens
        self._payload = payload
        self._now = now

    async def proceed(self, response: bytes | None) -> AttestedNode:
        if response is not None:
            raise InvalidInput("join_token: there is no challenge to respond to")
        token = check_token(self._payload.reveal().decode("ascii", "replace"))
        digest = token_digest(token)
        taken = await self._tokens.take_token(digest)
        if taken is None or not hmac.compare_digest(taken.digest, digest):
            raise InvalidInput(
                "join token does not exist or has already been used",
                hint="ask for a new one: gatehouse token generate",
            )
        if taken.expires_at <= self._now:
            raise InvalidInput(
                f"join token expired {self._now - taken.expires_at} s ago and is used up now",
                hint="ask for a new one: gatehouse token generate --ttl …",
            )
        return AttestedNode(agent_id(self._trust_domain, TYPE, token.reveal()), frozenset(), False)
