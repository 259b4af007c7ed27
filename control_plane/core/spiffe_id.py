"""SPIFFE IDs and trust domains, strictly as SPIFFE-ID.md has them.

Stricter than other libraries in three places, on purpose: nothing is normalised (upper case in the trust
domain is refused, not folded), a whole-string match is used (a trailing newline is refused), and every
instance is valid, however it was made: the checks run in the constructor.

It doesn't resolve, compare by prefix or match patterns; policies do that in their own way.
"""

import re
from dataclasses import dataclass, field
from typing import Final

from control_plane.core.errors import InvalidInput, shown

SCHEME: Final = "spiffe://"
MAX_ID_BYTES: Final = 2048  # SPIFFE-ID.md section 2.3
MAX_TRUST_DOMAIN_BYTES: Final = 255
RESERVED_ROOT: Final = "spire"  # the first segment that SPIRE keeps for servers and agents

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[a-zA-Z0-9._-]+)*")
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+")


@dataclass(frozen=True, slots=True, order=True)
class TrustDomain:
    """The name of one root of trust, such as `example.org`. Looks like DNS or IPv4; is neither (2.1)."""

    name: str

    def __post_init__(self) -> None:
        if not _TRUST_DOMAIN.fullmatch(self.name):
            raise InvalidInput(f"trust domain {shown(self.name)}: {_trust_domain_fault(self.name)}")

    @classmethod
    def parse(cls, text: str) -> "TrustDomain":
        """Reads `example.org` or `spiffe://example.org`. Raises InvalidInput for anything else."""
        return cls(text.removeprefix(SCHEME))

    @property
    def id(self) -> "SpiffeId":
        """The ID of the trust domain itself: no path."""
        return SpiffeId(self, "")

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """One identity. `path` is empty or begins with a slash, and is case-sensitive."""

    trust_domain: TrustDomain
    path: str
    _text: str = field(init=False, repr=False, compare=False)  # IDs are keys, and written, in every call

    def __post_init__(self) -> None:
        object.__setattr__(self, "_text", f"{SCHEME}{self.trust_domain.name}{self.path}")
        if not _PATH.fullmatch(self.path):
            raise InvalidInput(f"SPIFFE ID {shown(str(self))}: {_path_fault(self.path)}")
        if len(self._text) > MAX_ID_BYTES:
            raise InvalidInput(f"SPIFFE ID {shown(str(self))}: longer than {MAX_ID_BYTES} bytes")

    @classmethod
    def parse(cls, text: str) -> "SpiffeId":
        """Reads a whole URI, `spiffe://example.org/ns/shop/sa/cart`. Raises InvalidInput with the reason."""
        if not text.startswith(SCHEME):
            raise InvalidInput(
                f"SPIFFE ID {shown(text)}: must begin with spiffe:// in lower case",
                hint="write it as spiffe://trust-domain/path",
            )
        if len(text) > MAX_ID_BYTES:
            raise InvalidInput(f"SPIFFE ID {shown(text)}: longer than {MAX_ID_BYTES} bytes")
        name, slash, rest = text[len(SCHEME) :].partition("/")
        try:
            trust_domain = TrustDomain(name)
        except InvalidInput as error:
            raise InvalidInput(f"SPIFFE ID {shown(text)}: {error.message}") from error
        return cls(trust_domain, slash + rest)

    @classmethod
    def of(cls, trust_domain: TrustDomain, *segments: str) -> "SpiffeId":
        """Joins segments to an ID. A segment can't smuggle in a slash: it is checked on its own."""
        for segment in segments:
            if not _SEGMENT.fullmatch(segment):
                raise InvalidInput(f"path segment {shown(segment)}: {_segment_fault(segment)}")
        return cls(trust_domain, "".join(f"/{segment}" for segment in segments))

    @property
    def has_path(self) -> bool:
        """True for identities of things, false for the trust domain itself."""
        return bool(self.path)

    @property
    def segments(self) -> tuple[str, ...]:
        """The path without its slashes; empty for the trust domain itself."""
        return tuple(self.path[1:].split("/")) if self.path else ()

    @property
    def is_reserved(self) -> bool:
        """True under /spire, which belongs to servers and agents and never to a workload."""
        return self.path == f"/{RESERVED_ROOT}" or self.path.startswith(f"/{RESERVED_ROOT}/")

    def __hash__(self) -> int:
        return hash(self._text)

    def __str__(self) -> str:
        return self._text


def server_id(trust_domain: TrustDomain) -> SpiffeId:
    """The identity that servers present to agents."""
    return SpiffeId(trust_domain, f"/{RESERVED_ROOT}/server")


def agent_id(trust_domain: TrustDomain, attestor: str, *segments: str) -> SpiffeId:
    """The identity of an agent that attested by `attestor`, such as /spire/agent/join_token/…."""
    return SpiffeId.of(trust_domain, RESERVED_ROOT, "agent", attestor, *segments)


def is_agent_id(spiffe_id: SpiffeId) -> bool:
    """True for IDs below /spire/agent; the prefix alone isn't an agent."""
    return spiffe_id.path.startswith(f"/{RESERVED_ROOT}/agent/")


def _trust_domain_fault(name: str) -> str:
    if not name:
        return "is empty"
    if len(name) > MAX_TRUST_DOMAIN_BYTES:
        return f"longer than {MAX_TRUST_DOMAIN_BYTES} bytes"
    if "@" in name or ":" in name:
        return "must not hold user info or a port"
    return "only a-z 0-9 . - _ are allowed (lower case, no percent-encoding)"


def _path_fault(path: str) -> str:
    if not path.startswith("/"):
        return "the path must begin with a slash"
    if path.endswith("/"):
        return "the path must not end with a slash"
    return next(fault for segment in path[1:].split("/") if (fault := _segment_fault(segment)))


def _segment_fault(segment: str) -> str:
    if not segment:
        return "the path must not hold an empty segment"
    if segment in (".", ".."):
        return "the path must not hold the segments . or .."
    if "?" in segment or "#" in segment:
        return "a SPIFFE ID has neither query nor fragment"
    if not _SEGMENT.fullmatch(segment):
        return "path segments hold only a-z A-Z 0-9 . - _ (no percent-encoding)"
    return ""
