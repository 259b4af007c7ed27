"""Settings of a Vault or OpenBao: where it is, how we log in there, what we use of it. Text in, checked out.

Nothing is asked of the server here; `clients/vault` does that.
"""

import enum
import re
from dataclasses import dataclass, field
from typing import Final

from control_plane.core.errors import InvalidInput, shown
from control_plane.core.secret import Secret
from control_plane.runtime.addresses import HttpAddress

VAULT_PORT: Final = 8200
MAX_REQUESTS: Final = 512

# One step of a path in Vault. Its own rules allow more; what isn't here would have to be escaped, and two
# readers of an escaped path may disagree about what it names.
_STEP: Final = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class VaultMode(enum.StrEnum):
    """Who signs leaves: Vault each of them, or we, with an intermediate that Vault signed."""

    LEAF = "leaf"
    INTERMEDIATE = "intermediate"


class LoginMethod(enum.StrEnum):
    """How a token is come by; the value is also where Vault mounts the method unless told otherwise."""

    TOKEN = "token"  # noqa: S105  # a method's name
    APPROLE = "approle"
    KUBERNETES = "kubernetes"
    JWT = "jwt"
    CERT = "cert"


class PolicyKeyType(enum.StrEnum):
    """The kinds of keys in transit that sign policies. What OPAs verify is a token, so no Ed25519."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA_2048 = "rsa-2048"
    RSA_4096 = "rsa-4096"


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultSettings:
    """The table `[vault]`; without an address there is no Vault.

    Where and what: `pki_mount` and `transit_mount` are where the engines are mounted (no transit: keys are on
    disk), `policy_key_type` the kind of the keys that are made there to sign policies (RSA signs by PSS),
    `role` is the PKI role that leaves are signed under, `issuer` the name or ID of the issuer, empty for the
    mount's default. `ca_file` (PEM) alone says who may be this Vault; without it the system's
    authorities do.

    Login: `token` takes `token` or `token_file`; `approle` `role_id` and `secret_id` or `secret_id_file`
    (response-wrapped with `secret_id_wrapped`); `kubernetes` the projected token in `jwt_file`; `jwt` that
    file or, without one, a JWT-SVID of our own for `jwt_audience`; `cert` the PEM files `certificate_file`
    and `key_file` or, without them, an X.509-SVID of our own. Where our own are used, `token` or `token_file`
    opens the door before the first authority is there. `login_role` is the role there, `login_mount` the
    mount if it isn't the method's name.

    `timeout_seconds` bounds each call with all its retries; `max_requests` how many are under way at once,
    over all processes of this server.
    """

    address: str = ""
    namespace: str = ""
    ca_file: str = ""
    mode: VaultMode = VaultMode.LEAF
    pki_mount: str = "pki"
    role: str = "gatehouse"
    issuer: str = ""
    transit_mount: str = ""
    policy_key_type: PolicyKeyType = PolicyKeyType.EC_P256
    login: LoginMethod = LoginMethod.TOKEN
    login_mount: str = ""
    login_role: str = ""
    token: Secret[str] = field(default_factory=lambda: Secret(""))
    token_file: str = ""
    role_id: str = ""
    secret_id: Secret[str] = field(default_factory=lambda: Secret(""))
    secret_id_file: str = ""
    secret_id_wrapped: bool = False
    jwt_file: str = ""
    jwt_audience: str = "vault"
    certificate_file: str = ""
    key_file: str = ""
    timeout_seconds: float = field(default=5.0, metadata={"minimum": 0.1})
    max_requests: int = field(default=32, metadata={"minimum": 1, "maximum": MAX_REQUESTS})

    @property
    def has_token(self) -> bool:
        """Whether an operator gave a token, in the settings or in a file."""
        return bool(self.token.reveal() or self.token_file)

    @property
    def mount_of_login(self) -> str:
        """Where the login method is mounted, below `auth/`."""
        return self.login_mount or self.login.value

    def parsed_address(self) -> HttpAddress:
        """Where the server listens. Raises InvalidInput."""
        return HttpAddress.parse(
            self.address, setting="vault.address", default_port=VAULT_PORT, risk="read our token"
        )

    def check(self) -> None:
        """Raises InvalidInput for what can't work; nothing is checked where there is no Vault."""
        if not self.address:
            return
        self.parsed_address()
        for name in ("pki_mount", "role", "mount_of_login"):
            check_path(f"vault.{name}", getattr(self, name))
        for name in ("issuer", "transit_mount", "namespace", "login_role"):
            if getattr(self, name):
                check_path(f"vault.{name}", getattr(self, name))
        missing = self._missing()
        if missing:
            raise InvalidInput(
                f"settings: vault.login {self.login.value} needs {missing}",
                hint="see docs/vault.md for what each login takes",
            )

    def _missing(self) -> str:
        """What the chosen login still needs, in words; empty if nothing."""
        if self.login is LoginMethod.TOKEN:
            return "" if self.has_token else "vault.token or vault.token_file"
        if self.login is LoginMethod.APPROLE:
            if not self.role_id:
                return "vault.role_id"
            return "" if self.secret_id.reveal() or self.secret_id_file else "vault.secret_id or its file"
        if self.login is LoginMethod.KUBERNETES and not self.jwt_file:
            return "vault.jwt_file, the file of the projected service account token"
        if self.login is LoginMethod.CERT and bool(self.certificate_file) != bool(self.key_file):
            return "both vault.certificate_file and vault.key_file, or neither for our own SVID"
        return "" if self.login_role or self.login is LoginMethod.CERT else "vault.login_role"


def check_path(name: str, path: str) -> str:
    """A path in Vault, steps joined by slashes, none at its ends. Raises InvalidInput for anything else."""
    steps = path.split("/")
    if len(steps) > 16 or not all(map(_STEP.fullmatch, steps)):
        raise InvalidInput(
            f"settings: {name} {shown(path)}, expected letters, digits, '.', '_' and '-' in steps joined by /"
        )
    return path
