"""What Vault answered, and which of our errors that is.

Status 429 means "standby" for `sys/health` and "too many requests" everywhere else; health is read by itself,
in `door`. Vault tells callers' mistakes and its own refusals in English, in the list `errors`; those texts
are shown and never decided upon, except for the one that tells a sealed Vault from another 503; some bring a
hint along.
"""

from dataclasses import dataclass, field

from control_plane.core.errors import (
    FailedPrecondition,
    GatehouseError,
    NotFound,
    PeerMisbehaved,
    PermissionDenied,
    Unavailable,
    shown,
)


class Unsent(Unavailable):
    """Nothing that was asked can have happened: the request didn't reach the server."""


class Sealed(Unavailable):
    """The server is there, and sealed: only an operator can change that, so asking again soon is no use."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: its status and its JSON object, empty if there was none."""

    status: int
    body: dict[str, object] = field(repr=False)
    retry_after_seconds: float | None = None

    @property
    def is_good(self) -> bool:
        """Whether Vault did what was asked."""
        return 200 <= self.status < 300

    @property
    def errors(self) -> tuple[str, ...]:
        """What Vault says went wrong."""
        errors = self.body.get("errors")
        return tuple(str(each) for each in errors[:8]) if isinstance(errors, list) else ()

    def section(self, name: str, what: str) -> dict[str, object]:
        """The object `data` or `auth` of the answer. Raises PeerMisbehaved if it isn't there."""
        found = self.body.get(name)
        if not isinstance(found, dict):
            raise PeerMisbehaved(f"{what}: Vault's answer has no object {name}, status {self.status}")
        return found


def refusal(answer: Answer, what: str) -> GatehouseError:
    """The error for an answer that isn't good; `what` was being asked."""
    told = "; ".join(shown(text, 300) for text in answer.errors) or "no reason given"
    message = f"{what}: Vault answered {answer.status}: {told}"
    status = answer.status
    if status == 403:
        return PermissionDenied(
            message, hint="`gatehouse check vault` tells which right is missing, or whether the login is"
        )
    if status == 404:
        return NotFound(message)
    if status in (400, 405):
        return FailedPrecondition(message)
    if 300 <= status < 400:
        return Unavailable(
            f"{what}: Vault answered {status}, a redirect, which isn't followed with a token",
            hint="set vault.address to the active server, or let standby servers forward requests",
        )
    if status == 503 and any("sealed" in text.lower() for text in answer.errors):
        return Sealed(f"{what}: Vault is sealed", hint="unseal it: vault operator unseal")
    if status in (412, 429, 472, 473) or status >= 500:
        return Unavailable(message, hint=_hint(told), retry_after_seconds=answer.retry_after_seconds)
    return PeerMisbehaved(f"{what}: Vault answered with status {status}, which its API doesn't have")


def _hint(told: str) -> str:
    """What a text of Vault's usually means; nothing follows from it."""
    if "no space left" in told:
        return "Vault's storage is full: make room on its disk"
    if "active cluster node not found" in told or "no leader" in told:
        return "no server of that Vault leads: its log says why, such as a full disk or too few servers"
    return ""


def text_of(section: dict[str, object], name: str, what: str) -> str:
    """A text of an answer. Raises PeerMisbehaved where there is none."""
    found = section.get(name)
    if not isinstance(found, str) or not found:
        raise PeerMisbehaved(f"{what}: Vault's answer has no text {name}, it has {shown(found)}")
    return found


def texts_of(section: dict[str, object], name: str, what: str) -> tuple[str, ...]:
    """A list of texts of an answer; () where it is missing or null. Raises PeerMisbehaved."""
    found = section.get(name)
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise PeerMisbehaved(f"{what}: {name} in Vault's answer is no list of texts")
    return tuple(found)


def seconds_of(section: dict[str, object], name: str, what: str) -> int:
    """A length of time of an answer, in seconds, not negative. Raises PeerMisbehaved."""
    found = section.get(name)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 1 << 40:
        raise PeerMisbehaved(f"{what}: {name} in Vault's answer is {shown(found)}, expected seconds")
    return found
