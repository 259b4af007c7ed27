"""How a token is come by: given, AppRole, Kubernetes, JWT, TLS certificate.

Credentials are read anew for each login, so a file that was replaced counts at once. None of them is logged,
and none is in a message.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from control_plane.clients.vault.answers import Answer, Unsent, refusal, seconds_of, text_of
from control_plane.clients.vault.exchange import Exchange
from control_plane.clients.vault.own import FirstLogin, OwnSvids
from control_plane.clients.vault.tokens import Lease, Login
from control_plane.core.errors import (
    FailedPrecondition,
    GatehouseError,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from control_plane.core.secret import Secret
from control_plane.runtime.settings import path_of
from control_plane.runtime.vault_settings import LoginMethod, VaultSettings

MAX_CREDENTIAL_BYTES: Final = 64 << 10

Source = Callable[[], Secret[str]]


class TokenLogin:
    """A token that an operator gave: for tests, and for agents of Vault that keep a file fresh."""

    may_renew = True

    def __init__(self, source: Source) -> None:
        self._source = source

    @property
    def name(self) -> str:
        """See `Login`."""
        return "token"

    def log_in(self, exchange: Exchange, deadline: float, now: float) -> Lease:
        """See `Login`; asks Vault how long the token lives."""
        token, what = self._source(), "looking the given token up"
        answer = exchange.send("get", "auth/token/lookup-self", token=token, deadline=deadline)
        if answer.status == 403:
            raise PermissionDenied(
                f"{what}: Vault doesn't know it, or not any more",
                hint="give another one: vault token create -policy=gatehouse -period=24h",
            )
        if not answer.is_good:
            raise refusal(answer, what)
        data = answer.section("data", what)
        return Lease(token, seconds_of(data, "ttl", what), data.get("renewable") is True, now)


class BodyLogin:
    """A login by what is in the request: JWT and Kubernetes take a role and a token."""

    may_renew = True

    def __init__(self, method: LoginMethod, mount: str, role: str, source: Source) -> None:
        self._method = method
        self._mount = mount
        self._role = role
        self._source = source

    @property
    def name(self) -> str:
        """See `Login`."""
        return f"{self._method} at auth/{self._mount}"

    def log_in(self, exchange: Exchange, deadline: float, now: float) -> Lease:
        """See `Login`."""
        body = {"role": self._role, "jwt": self._source().reveal()}
        return _log_in(exchange, self._method, self._mount, body, deadline, now)


class CertLogin:
    """A login by the certificate that the TLS connection shows.

    Never renewed: Vault wants the very certificate of the login for that, and ours is replaced every few
    hours.
    """

    may_renew = False

    def __init__(self, mount: str, role: str) -> None:
        self._mount = mount
        self._role = role

    @property
    def name(self) -> str:
        """See `Login`."""
        return f"cert at auth/{self._mount}"

    def log_in(self, exchange: Exchange, deadline: float, now: float) -> Lease:
        """See `Login`."""
        body = {"name": self._role} if self._role else {}
        return _log_in(exchange, LoginMethod.CERT, self._mount, body, deadline, now)


class AppRoleLogin:
    """A login by a role's ID and a secret ID, which may come response-wrapped.

    A wrapping token can be used once, so what was in it is kept in the file `keep` (0600) for the other
    processes of this server and for its next start.
    """

    may_renew = True

    def __init__(
        self, mount: str, role_id: str, source: Source, *, wrapped: bool = False, keep: Path | None = None
    ) -> None:
        self._mount = mount
        self._role_id = role_id
        self._source = source
        self._wrapped = wrapped
        self._keep = keep
        self._unwrapped: tuple[str, Secret[str]] | None = None

    @property
    def name(self) -> str:
        """See `Login`."""
        return f"approle at auth/{self._mount}"

    def log_in(self, exchange: Exchange, deadline: float, now: float) -> Lease:
        """See `Login`."""
        secret = self._source()
        if self._wrapped:
            secret = self._unwrap(exchange, secret, deadline)
        body = {"role_id": self._role_id, "secret_id": secret.reveal()}
        return _log_in(exchange, LoginMethod.APPROLE, self._mount, body, deadline, now)

    def _unwrap(self, exchange: Exchange, wrapping: Secret[str], deadline: float) -> Secret[str]:
        digest = hashlib.sha256(wrapping.reveal().encode()).hexdigest()
        if self._unwrapped is not None and self._unwrapped[0] == digest:
            return self._unwrapped[1]
        if self._keep is None:
            secret = _unwrap(exchange, wrapping, self._mount, deadline)
        else:
            secret = _unwrap_once(
                self._keep, digest, lambda: _unwrap(exchange, wrapping, self._mount, deadline)
            )
        self._unwrapped = (digest, secret)
        return secret


def make_login(settings: VaultSettings, *, own: OwnSvids | None = None, keep: Path | None = None) -> Login:
    """The login that the settings ask for. `own` are SVIDs of ours where there may be some, `keep` is where
    an unwrapped secret ID is kept. Raises InvalidInput or FailedPrecondition."""
    settings.check()
    mount, role = settings.mount_of_login, settings.login_role
    match settings.login:
        case LoginMethod.TOKEN:
            return TokenLogin(_given("vault.token", settings.token, settings.token_file))
        case LoginMethod.APPROLE:
            source = _given("vault.secret_id", settings.secret_id, settings.secret_id_file)
            return AppRoleLogin(
                mount, settings.role_id, source, wrapped=settings.secret_id_wrapped, keep=keep
            )
        case LoginMethod.CERT:
            login = CertLogin(mount, role)
            return login if settings.certificate_file else _by_own(settings, login, own)
        case LoginMethod.KUBERNETES | LoginMethod.JWT:
            if settings.jwt_file:
                return BodyLogin(
                    settings.login, mount, role, _given("vault.jwt_file", Secret(""), settings.jwt_file)
                )
            source = own.jwt if own is not None else _nothing
            return _by_own(settings, BodyLogin(settings.login, mount, role, source), own)


def _by_own(settings: VaultSettings, login: Login, own: OwnSvids | None) -> Login:
    """A login by an SVID of ours; by the operator's token for as long as there is none."""
    if settings.has_token:
        first = TokenLogin(_given("vault.token", settings.token, settings.token_file))
        return FirstLogin(login, first, own)
    if own is None:
        raise FailedPrecondition(
            f"logging in to Vault by {settings.login}: only the server itself has its SVIDs",
            hint="use a token: VAULT_TOKEN or --token-file",
        )
    return login


def _nothing() -> Secret[str]:
    raise Unavailable("logging in to Vault: only the server itself has its SVIDs")


def _log_in(
    exchange: Exchange,
    method: LoginMethod,
    mount: str,
    body: Mapping[str, object],
    deadline: float,
    now: float,
) -> Lease:
    what = f"logging in to Vault by {method} at auth/{mount}"
    try:
        answer = exchange.send("post", f"auth/{mount}/login", body, token=None, deadline=deadline)
    except Unsent:
        raise
    except Unavailable as error:
        raise Unavailable(f"{what}: {error.message}", hint=error.hint) from error
    if not answer.is_good:
        raise _refused_login(answer, what, method, mount)
    return Lease.from_answer(answer, what, now)


def _refused_login(answer: Answer, what: str, method: LoginMethod, mount: str) -> GatehouseError:
    """Vault says 400 as well as 403 to credentials that it doesn't take."""
    error = refusal(answer, what)
    if isinstance(error, NotFound) or "unsupported path" in error.message or "no handler" in error.message:
        return FailedPrecondition(error.message, hint=f"enable it: vault auth enable -path={mount} {method}")
    if "missing name in alias" in error.message:
        return PermissionDenied(
            error.message,
            hint="Vault wants a common name in the certificate, which SVIDs of workloads don't have: log in "
            "by jwt; the server's own has one if neither certificate_file nor key_file is set",
        )
    if isinstance(error, FailedPrecondition | PermissionDenied):
        return PermissionDenied(
            error.message, hint="are the role and the credentials those that Vault has there?"
        )
    return error


def _given(name: str, secret: Secret[str], file: str) -> Source:
    """A secret from the settings, or from a file that is read each time."""
    if not file:
        return lambda: secret
    path = path_of(file, f"the file of {name}")

    def read() -> Secret[str]:
        try:
            with path.open("rb") as stream:
                content = stream.read(MAX_CREDENTIAL_BYTES + 1)
            text = content.decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise FailedPrecondition(f"{name}: {path} can't be read ({type(error).__name__})") from error
        if not text or len(content) > MAX_CREDENTIAL_BYTES or any(each in text for each in "\r\n\0"):
            raise FailedPrecondition(f"{name}: {path} doesn't hold one line with a credential")
        return Secret(text)

    return read


def _unwrap(exchange: Exchange, wrapping: Secret[str], mount: str, deadline: float) -> Secret[str]:
    """What is wrapped. Looks first where it was wrapped: anybody may wrap a secret ID of their own."""
    what = "unwrapping vault.secret_id"
    found = exchange.send(
        "post", "sys/wrapping/lookup", {"token": wrapping.reveal()}, token=None, deadline=deadline
    )
    if found.is_good:
        path = text_of(found.section("data", what), "creation_path", what)
        if not (path.startswith(f"auth/{mount}/role/") and path.endswith("/secret-id")):
            raise PermissionDenied(
                f"{what}: it wasn't wrapped by auth/{mount}; somebody may have replaced it"
            )
        answer = exchange.send("post", "sys/wrapping/unwrap", {}, token=wrapping, deadline=deadline)
        if answer.is_good:
            return Secret(text_of(answer.section("data", what), "secret_id", what))
        found = answer
    error = refusal(found, what)
    if isinstance(error, FailedPrecondition | PermissionDenied):
        return _raise_spent(error)
    raise error


def _raise_spent(error: GatehouseError) -> Secret[str]:
    raise PermissionDenied(
        f"{error.message}: the wrapping token has ended, or somebody has used it before us",
        hint="if nobody of yours did, take it for a theft: destroy the secret ID, and wrap a new one: "
        "vault write -wrap-ttl=10m -f auth/approle/role/gatehouse/secret-id",
    ) from error


def _unwrap_once(keep: Path, digest: str, unwrap: Callable[[], Secret[str]]) -> Secret[str]:
    """What `keep` has for this wrapping token; else unwraps, and writes it there before anybody uses it.

    A crash between the two loses the secret ID: it is gone from Vault then, and the next start says so.
    """
    try:
        descriptor = os.open(keep, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise FailedPrecondition(f"keeping the unwrapped secret ID: {keep}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        kept = _parse_kept(os.pread(descriptor, MAX_CREDENTIAL_BYTES, 0))
        if kept.get("wrapping_token_sha256") == digest:
            return Secret(kept["secret_id"])
        secret = unwrap()
        content = json.dumps({"wrapping_token_sha256": digest, "secret_id": secret.reveal()}).encode()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content, 0)
        os.fsync(descriptor)
        return secret
    except OSError as error:
        raise Unavailable(f"keeping the unwrapped secret ID: {keep}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _parse_kept(content: bytes) -> dict[str, str]:
    """What the file holds; nothing if a crash left it half written."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    whole = isinstance(found, dict) and all(
        isinstance(found.get(name), str) for name in ("wrapping_token_sha256", "secret_id")
    )
    return found if whole else {}
