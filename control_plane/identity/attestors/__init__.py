"""Node attestors: how a machine shows which one it is.

A port and its values. An attestation is a conversation: the agent's payload, then perhaps challenges and
responses, then a result. Whoever drives it bounds the number of rounds and the time; an attestor keeps no
state between conversations and never sees the network.
"""

from dataclasses import dataclass
from typing import Protocol

from control_plane.core.selectors import Selectors
from control_plane.core.spiffe_id import SpiffeId


@dataclass(frozen=True, slots=True)
class AttestedNode:
    """What attestation found. `can_reattest`: the same evidence may be shown again later."""

    agent_id: SpiffeId
    selectors: Selectors
    can_reattest: bool


@dataclass(frozen=True, slots=True)
class Challenge:
    """What the agent has to answer before the conversation goes on."""

    data: bytes


class Attestation(Protocol):
    """One conversation."""

    async def proceed(self, response: bytes | None) -> Challenge | AttestedNode:
        """The next step: None at first, then the response to the last challenge. Raises InvalidInput for
        what can't be read, PermissionDenied for evidence that doesn't hold."""


class NodeAttestor(Protocol):
    """One method of attestation, by the type that agents name."""

    @property
    def type(self) -> str:
        """The name on the wire, such as `join_token`."""

    def begin(self, payload: bytes, now: int) -> Attestation:
        """Starts a conversation at Unix time `now`; the payload is judged in its first step."""
