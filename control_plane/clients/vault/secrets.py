"""Secrets that are kept in Vault: `vault:MOUNT/PATH#FIELD` in place of a secret in our settings.

Both versions of the key/value engine are read; which one a mount has, it says itself. The value is taken
when the settings are read; a changed one counts from the next start.
"""

import re
from dataclasses import dataclass
from typing import Final

from control_plane.clients.vault.door import VaultDoor
from control_plane.core.errors import FailedPrecondition, InvalidInput, NotFound, shown
from control_plane.core.secret import Secret
from control_plane.runtime.vault_settings import check_path

PREFIX: Final = "vault:"

_FIELD: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True, slots=True)
class SecretReference:
    """Where a value is: a path, its mount first, and the field."""

    path: str
    field: str

    @classmethod
    def parse(cls, text: str) -> "SecretReference":
        """Reads `vault:MOUNT/PATH#FIELD`. Raises InvalidInput; what came isn't shown, it may be a secret."""
        path, hash_, field = text.removeprefix(PREFIX).partition("#")
        if not text.startswith(PREFIX) or not hash_ or "/" not in path or not _FIELD.fullmatch(field):
            raise InvalidInput(
                "settings: a reference to a secret in Vault that can't be read",
                hint="expected vault:MOUNT/PATH#FIELD, such as vault:secret/gatehouse#key_passphrase",
            )
        return cls(check_path("a reference to a secret", path), field)

    def __str__(self) -> str:
        return f"{PREFIX}{self.path}#{self.field}"


def is_reference(value: Secret[str]) -> bool:
    """Whether a secret of the settings stands for one in Vault."""
    return value.reveal().startswith(PREFIX)


def resolve(value: Secret[str], door: VaultDoor) -> Secret[str]:
    """The secret that is meant: the value itself, or what it refers to. Blocks for up to two exchanges.

    Raises InvalidInput (no reference), FailedPrecondition (nothing there, or no text), Unavailable or
    PermissionDenied.
    """
    if not is_reference(value):
        return value
    reference = SecretReference.parse(value.reveal())
    what = f"reading {reference} of the settings"
    mount, version = _mount(door, reference, what)
    rest = reference.path.removeprefix(f"{mount}/")
    path = f"{mount}/data/{rest}" if version == "2" else f"{mount}/{rest}"
    try:
        data = door.call("get", path, what=what).section("data", what)
    except NotFound as error:
        raise FailedPrecondition(
            f"{what}: nothing is there", hint=f"vault kv put -mount={mount} {rest} {reference.field}=…"
        ) from error
    fields = data.get("data") if version == "2" else data
    found = fields.get(reference.field) if isinstance(fields, dict) else None
    if not isinstance(found, str) or not found:
        names = sorted(map(str, fields)) if isinstance(fields, dict) else []
        raise FailedPrecondition(
            f"{what}: it has no text in that field; its fields are {shown(', '.join(names)) or 'none'}"
        )
    return Secret(found)


def _mount(door: VaultDoor, reference: SecretReference, what: str) -> tuple[str, str]:
    """The mount that the path is below, and its version. Any token that may read there may ask this."""
    answer = door.call("get", f"sys/internal/ui/mounts/{reference.path}", what=what)
    data = answer.section("data", what)
    mount = str(data.get("path", "")).strip("/")
    options = data.get("options")
    if (
        not mount
        or not f"{reference.path}/".startswith(f"{mount}/")
        or data.get("type") not in ("kv", "generic")
    ):
        raise FailedPrecondition(f"{what}: {shown(mount)} isn't a key/value mount that has it")
    return mount, str(options.get("version", "1")) if isinstance(options, dict) else "1"
