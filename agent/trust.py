"""Whom the agent takes for the server: the bundle as the server last told it, and a way back when that fails.

An agent that was away while the server's authorities were replaced can't verify the server any more. The
operator's trust bundle may help it back, but an old copy of that file must not bring back an authority that
was withdrawn, whose key may be in wrong hands: of the file only authorities count that this agent has never
seen. What was withdrawn is therefore remembered, by key identifier, as long as the cache lives.

Values and the reading of one file; connecting is `node`'s.
"""

from collections.abc import Callable
from typing import Final

from control_plane.core.bundle import Bundle
from control_plane.core.errors import FailedPrecondition, InvalidInput, Unauthenticated

MAX_WITHDRAWN: Final = 1000
_BRING: Final = (
    "on the server: gatehouse bundle show > bundle.pem; bring it here as the file of --trust-bundle"
)


class ServerTrust:
    """The bundle in force. `read` gives the operator's file; None where there is none, as after a bootstrap
    that trusted whatever answered."""

    def __init__(self, bundle: Bundle, withdrawn: tuple[str, ...], read: Callable[[], Bundle] | None) -> None:
        self.bundle = bundle
        self.withdrawn = withdrawn
        self._read = read

    def take(self, bundle: Bundle) -> None:
        """The server's bundle from now on. What is in it no more was withdrawn."""
        now = _key_ids(bundle)
        gone = [key_id for key_id in (*self.withdrawn, *_key_ids(self.bundle)) if key_id not in now]
        self.bundle = bundle
        self.withdrawn = tuple(dict.fromkeys(gone))[-MAX_WITHDRAWN:]

    def newly_brought(self) -> Bundle:
        """The authorities of the operator's file that this agent has never seen. Blocking. Raises
        Unauthenticated, saying what to do, if there are none."""
        if self._read is None:
            raise Unauthenticated("the server isn't trusted, and there is no file to look in", hint=_BRING)
        try:
            brought = self._read()
        except (FailedPrecondition, InvalidInput) as error:
            raise Unauthenticated(f"the server isn't trusted: {error.message}", hint=error.hint) from error
        held, withdrawn = _key_ids(self.bundle), frozenset(self.withdrawn)
        unseen = tuple(
            authority
            for authority in brought.x509_authorities
            if authority.subject_key_id not in held and authority.subject_key_id not in withdrawn
        )
        if unseen:
            return Bundle(brought.trust_domain, unseen)
        refused = any(authority.subject_key_id in withdrawn for authority in brought.x509_authorities)
        raise Unauthenticated(
            "the server isn't trusted, and the trust bundle holds no authority but those that "
            + (
                "this agent knows already, one of which was withdrawn"
                if refused
                else "this agent knows already"
            ),
            hint=_BRING,
        )


def _key_ids(bundle: Bundle) -> dict[str, None]:
    return dict.fromkeys(authority.subject_key_id for authority in bundle.x509_authorities)
