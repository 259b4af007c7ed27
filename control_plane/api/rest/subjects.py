"""Who calls the management API: the bearer of an OIDC token, the holder of a client SVID, or the local peer.

A token wins over the connection, which then only carries it. Tokens are verified here, against the keys in a
file that the operator keeps current; nothing is fetched. Who can't be authenticated is refused, never
anonymous.
"""

import base64
import hmac
import json
import pwd
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from starlette.requests import HTTPConnection

from control_plane.api.rest.evidence import LocalPeer, SvidSubjects, TlsPeer
from control_plane.core.access import Subject, SubjectKind
from control_plane.core.errors import InvalidInput, Unauthenticated, shown

MAX_TOKEN_CHARACTERS: Final = 16_384
MIN_SECRET_BYTES: Final = 32
MAX_JWKS_BYTES: Final = 1 << 20
LEEWAY_SECONDS: Final = 30
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_SUBJECT: Final = re.compile(r"[^\s\x00-\x20\x7f\ud800-\udfff]{1,256}")


@dataclass(frozen=True, slots=True)
class OidcIssuer:
    """Whose tokens are accepted, for which audience; subjects are `name:` and the claim `subject_claim`."""

    name: str
    issuer: str
    jwks_file: Path
    audience: str
    subject_claim: str


class Webhook:
    """A program that knows a secret and nothing else: Falco. The secret is read from its file at each
    call."""

    SUBJECT: Final = "webhook:falco"

    def __init__(self, secret_file: Path) -> None:
        self._path = secret_file

    def knows(self, token: str) -> bool:
        """Whether this is the secret. Raises Unauthenticated where the file holds none that is any good."""
        try:
            with self._path.open("rb") as file:
                secret = file.read(MAX_TOKEN_CHARACTERS).strip()
        except OSError as error:
            raise Unauthenticated(
                f"bearer token: {self._path} can't be read ({error.strerror})",
                hint="it is to hold the webhook's secret",
            ) from error
        if len(secret) < MIN_SECRET_BYTES:
            raise Unauthenticated(
                f"bearer token: the secret in {self._path} is shorter than {MIN_SECRET_BYTES} characters"
            )
        return hmac.compare_digest(secret, token.encode())


class Subjects:
    """Authenticates callers."""

    def __init__(
        self,
        issuers: Sequence[OidcIssuer],
        svids: SvidSubjects,
        unix: Callable[[], int],
        webhook: Webhook | None = None,
    ) -> None:
        self._webhook = webhook
        self._issuers = {one.issuer: one for one in issuers}
        self._svids = svids
        self._unix = unix
        self._keys: dict[Path, tuple[tuple[int, int], KeySet]] = {}

    def of(self, connection: HTTPConnection) -> Subject:
        """Who calls. Raises Unauthenticated; PermissionDenied for an SVID that is cut off."""
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        if scheme:
            if scheme.lower() != "bearer" or not token:
                raise Unauthenticated("authorization: expected `Bearer` and a token")
            token = token.strip()
            # A token of an issuer has two dots, a secret none.
            if self._webhook is not None and "." not in token and self._webhook.knows(token):
                return Subject(Webhook.SUBJECT, SubjectKind.WEBHOOK)
            return self._of_token(token)
        peer = getattr(connection.state, "peer", None)
        if isinstance(peer, LocalPeer):
            return Subject(f"local:{user_name(peer.uid)}", SubjectKind.LOCAL, peer.uid)
        if isinstance(peer, TlsPeer) and peer.chain:
            return self._svids.of(peer)
        raise Unauthenticated(
            "the caller is unknown", hint="send a bearer token, or connect with an X.509-SVID"
        )

    def _of_token(self, token: str) -> Subject:
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise Unauthenticated(f"bearer token: {len(token)} characters, at most {MAX_TOKEN_CHARACTERS}")
        if not self._issuers:
            raise Unauthenticated(
                "bearer token: no issuer of tokens is configured", hint="add [[oidc]] to the settings"
            )
        issuer = self._issuers.get(_claimed_issuer(token))
        if issuer is None:
            raise Unauthenticated("bearer token: its issuer isn't one that is configured")
        claims = self._claims(token, issuer)
        subject = claims.get(issuer.subject_claim)
        if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
            raise Unauthenticated(
                f"bearer token of {issuer.name}: claim {issuer.subject_claim} is {shown(subject)}, "
                "expected 1 to 256 characters without spaces"
            )
        return Subject(f"{issuer.name}:{subject}", SubjectKind.OIDC)

    def _claims(self, token: str, issuer: OidcIssuer) -> Mapping[str, object]:
        registry = jwt.JWTClaimsRegistry(
            now=self._unix,
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": issuer.issuer},
            aud={"essential": True, "value": issuer.audience},
            exp={"essential": True},
            sub={"essential": True},
        )
        try:
            decoded = jwt.decode(token, self._key_set(issuer), algorithms=list(ALGORITHMS))
            registry.validate(decoded.claims)
        except (JoseError, ValueError) as error:
            raise Unauthenticated(
                f"bearer token of {issuer.name}: {type(error).__name__}",
                hint="get a fresh one; expected are "
                f"issuer {issuer.issuer}, audience {issuer.audience}, and a signature by its keys",
            ) from error
        return decoded.claims

    def _key_set(self, issuer: OidcIssuer) -> KeySet:
        """The issuer's keys, read anew when the file changes."""
        path = issuer.jwks_file
        try:
            about = path.stat()
            stamp = (about.st_mtime_ns, about.st_size)
            known = self._keys.get(path)
            if known is not None and known[0] == stamp:
                return known[1]
            if about.st_size > MAX_JWKS_BYTES:
                raise InvalidInput(f"keys of {issuer.name}: {path} is larger than {MAX_JWKS_BYTES} bytes")
            keys = KeySet.import_key_set(json.loads(path.read_bytes()))
        except (OSError, JoseError, ValueError, KeyError, TypeError, RecursionError, InvalidInput) as error:
            raise Unauthenticated(
                f"bearer token of {issuer.name}: the issuer's keys can't be read ({type(error).__name__})",
                hint=f"have the operator put its JWKS document into {path}",
            ) from error
        self._keys[path] = (stamp, keys)
        return keys


def user_name(uid: int) -> str:
    """The name of a local user, or `#` and the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def _claimed_issuer(token: str) -> str:
    """What the token says of its issuer, to find whose keys to verify it with; believed only after that.

    No extension of RFC 7515 section 4.1.11 is understood, and joserfc trips over a `crit` that is no list.
    """
    parts = token.split(".")
    try:
        header, claims = map(json.loads, map(_base64url, parts[:2])) if len(parts) == 3 else ({}, {})
    except (ValueError, RecursionError) as error:
        raise Unauthenticated(f"bearer token {shown(token[:12])}…: isn't a JWT") from error
    if not isinstance(header, dict) or "crit" in header:
        raise Unauthenticated("bearer token: expected a header that is an object, without `crit`")
    return str(claims.get("iss", "")) if isinstance(claims, dict) else ""


def _base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
