"""From settings to a door: the TLS that a Vault is spoken to with, and who we are in it."""

import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from control_plane.clients.vault.chains import read_pem
from control_plane.clients.vault.door import VaultDoor
from control_plane.clients.vault.logins import make_login
from control_plane.clients.vault.own import OwnSvids
from control_plane.clients.vault.pki import PkiMount
from control_plane.core.errors import FailedPrecondition, InvalidInput, PeerMisbehaved
from control_plane.core.secret import Secret
from control_plane.runtime.clock import Clock
from control_plane.runtime.files import read_bounded, read_text_bounded
from control_plane.runtime.settings import path_of
from control_plane.runtime.tls import TlsIdentity, load_identity
from control_plane.runtime.vault_settings import LoginMethod, VaultSettings

MAX_FILE_BYTES: Final = 1 << 20  # of a certificate or a key


def open_vault(
    settings: VaultSettings,
    *,
    random: Callable[[], float],
    max_requests: int | None = None,
    own: OwnSvids | None = None,
    keep: Path | None = None,
    clock: Clock | None = None,
) -> VaultDoor:
    """A door to the Vault of the settings; nothing is asked yet.

    `own` gives SVIDs of ours to log in with; `keep` is where an unwrapped secret ID is kept;
    `max_requests` this process's share. Raises InvalidInput or FailedPrecondition.
    """
    from control_plane.clients.vault.adapter import HvacExchange  # 0.2 s and 5 MiB, where there is a Vault

    login = make_login(settings, own=own, keep=keep)
    address = settings.parsed_address()
    places = max_requests or settings.max_requests
    identity = _identity(settings, own) if settings.login is LoginMethod.CERT else None
    ca_file = path_of(settings.ca_file, "vault.ca_file") if settings.ca_file else None
    exchange = HvacExchange(
        address,
        namespace=settings.namespace,
        tls=VaultTls(ca_file, identity) if address.tls else None,
        connections=places + 1,
    )
    return VaultDoor(
        exchange,
        login,
        random=random,
        timeout_seconds=settings.timeout_seconds,
        max_requests=places,
        clock=clock,
    )


def _identity(settings: VaultSettings, own: OwnSvids | None) -> Callable[[], TlsIdentity | None]:
    """The certificate that is shown: from the files of the settings, else ours, once there is one."""
    address = settings.parsed_address()
    if not address.tls:
        raise FailedPrecondition(f"logging in to Vault at {address} by certificate: use https")
    if settings.certificate_file:
        certificate = path_of(settings.certificate_file, "vault.certificate_file")
        return _FileIdentity(certificate, path_of(settings.key_file, "vault.key_file"))
    return lambda: own.identity() if own is not None and own.is_ready else None


def open_pki(door: VaultDoor, settings: VaultSettings) -> PkiMount:
    """The PKI mount of the settings."""
    return PkiMount(door, mount=settings.pki_mount, role=settings.role, issuer=settings.issuer)


class VaultTls:
    """The context for the next connection: pinned to `ca_file`, or to the system's authorities without one.

    Made anew when the identity or the file has changed; the same object is given until then.
    """

    def __init__(
        self, ca_file: Path | None, identity: Callable[[], TlsIdentity | None] | None = None
    ) -> None:
        self._ca_file = ca_file
        self._identity = identity
        self._lock = threading.Lock()
        self._made: tuple[object, TlsIdentity | None, ssl.SSLContext] | None = None

    def __call__(self) -> ssl.SSLContext:
        """Raises FailedPrecondition or InvalidInput if it can't be made."""
        identity = self._identity() if self._identity is not None else None
        stamp = _stamp(self._ca_file) if self._ca_file is not None else None
        with self._lock:
            if self._made is None or self._made[:2] != (stamp, identity):
                self._made = (stamp, identity, self._make(identity))
            return self._made[2]

    def _make(self, identity: TlsIdentity | None) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._ca_file)
        except (OSError, ssl.SSLError) as error:
            raise FailedPrecondition(
                f"vault.ca_file {self._ca_file}: holds no certificates in PEM ({type(error).__name__})"
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if identity is not None:
            load_identity(context, identity)
        return context


class _FileIdentity:
    """A certificate chain and its key in PEM files; read again when one of them has changed."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._read: tuple[object, TlsIdentity] | None = None

    def __call__(self) -> TlsIdentity:
        stamp = (_stamp(self._certificate), _stamp(self._key))
        if self._read is None or self._read[0] != stamp:
            self._read = (stamp, self._load())
        return self._read[1]

    def _load(self) -> TlsIdentity:
        try:
            text = read_text_bounded(self._certificate, MAX_FILE_BYTES, "ascii")
            chain = read_pem((text,), str(self._certificate))
            return TlsIdentity(chain, Secret(read_bounded(self._key, MAX_FILE_BYTES)))
        except (OSError, UnicodeDecodeError, InvalidInput, PeerMisbehaved) as error:
            raise FailedPrecondition(
                f"the login certificate {self._certificate} with the key {self._key}: can't be read "
                f"({type(error).__name__})"
            ) from error


def _stamp(path: Path) -> tuple[int, int, int]:
    """What changes when a file is written or replaced. Raises FailedPrecondition if it isn't there."""
    try:
        status = path.stat()
    except OSError as error:
        raise FailedPrecondition(f"{path}: can't be read ({error.strerror})") from error
    return status.st_mtime_ns, status.st_ino, status.st_size
