"""What the server pushes about enforcement, and what an agent keeps of it, as values."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from google.protobuf.message import DecodeError

from control_plane.core.errors import Corrupt, GatehouseError
from control_plane.core.spiffe_id import SpiffeId
from control_plane.proto.gatehouse.node.v1.node_pb2 import SignedPolicy


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Who is cut off, whole each time; the revision grows with every change."""

    revision: int = 0
    spiffe_ids: frozenset[SpiffeId] = frozenset()


@dataclass(frozen=True, slots=True)
class News:
    """One push; None is what didn't change. Keys are SPKI DER by ID. `trace` is the trace context of whoever
    assigned the policy, `quarantine_trace` of whoever changed the quarantine last."""

    keys: Mapping[str, bytes] | None = None
    policy: SignedPolicy | None = None
    quarantine: Quarantine | None = None
    trace: str = ""
    quarantine_trace: str = ""

    def __bool__(self) -> bool:
        """Whether it says anything."""
        return self.keys is not None or self.policy is not None or self.quarantine is not None


@dataclass(frozen=True, slots=True)
class Held:
    """All that was pushed so far, to be kept over a restart.

    `signer` is the key of `policy`, which verifies it also when the server signs with others by now.
    """

    keys: Mapping[str, bytes] = field(default_factory=dict)
    signer: Mapping[str, bytes] = field(default_factory=dict)
    policy: SignedPolicy | None = None
    quarantine: Quarantine = Quarantine()

    def after(self, news: News) -> "Held":
        """What is held once the news were taken."""
        return replace(
            self,
            keys=self.keys if news.keys is None else news.keys,
            policy=self.policy if news.policy is None else news.policy,
            quarantine=self.quarantine if news.quarantine is None else news.quarantine,
        )

    def dump(self) -> bytes:
        """As JSON."""
        document = {
            "keys": {key_id: _text(key) for key_id, key in sorted(self.keys.items())},
            "signer": {key_id: _text(key) for key_id, key in sorted(self.signer.items())},
            "policy": None if self.policy is None else _text(self.policy.SerializeToString()),
            "quarantine": {
                "revision": self.quarantine.revision,
                "spiffe_ids": sorted(map(str, self.quarantine.spiffe_ids)),
            },
        }
        return json.dumps(document).encode()

    @staticmethod
    def parse(content: bytes) -> "Held":
        """What `dump` wrote. Raises Corrupt."""
        try:
            document = json.loads(content)
            policy = document["policy"]
            quarantine = document["quarantine"]
            return Held(
                {str(key_id): _bytes(key) for key_id, key in document["keys"].items()},
                {str(key_id): _bytes(key) for key_id, key in document.get("signer", {}).items()},
                None if policy is None else SignedPolicy.FromString(_bytes(policy)),
                Quarantine(
                    int(quarantine["revision"]),
                    frozenset(SpiffeId.parse(one) for one in quarantine["spiffe_ids"]),
                ),
            )
        except _MALFORMED as error:
            raise Corrupt(f"reading the stored policy: {type(error).__name__}: {error}") from error


_MALFORMED: Final = (
    GatehouseError,
    ArithmeticError,
    AttributeError,
    DecodeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
