"""The server's settings as an operator writes them: sections and keys, their defaults and bounds.

The names are those of keys in TOML, of variables in the environment and of flags. What can't work together is
found when `server` makes settings to run with of them.
"""

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from control_plane.core.secret import Secret
from control_plane.runtime.vault_settings import VaultSettings

DEFAULT_BIND: Final = "0.0.0.0:8081"
MAX_ISSUERS: Final = 64
HOUR: Final = 3600
DAY: Final = 24 * HOUR


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """Requests a second from one address, per process; bursts in requests; a rate of 0 is no limit."""

    attestation_per_second: float = field(default=1.0, metadata={"minimum": 0})
    attestation_burst: int = field(default=100, metadata={"minimum": 1})
    signing_per_second: float = field(default=500.0, metadata={"minimum": 0})
    signing_burst: int = field(default=500, metadata={"minimum": 1})
    publishing_per_second: float = field(default=500.0, metadata={"minimum": 0})
    status_per_second: float = field(default=10.0, metadata={"minimum": 0})
    status_burst: int = field(default=1000, metadata={"minimum": 1})


class AuthorityKind(enum.StrEnum):
    """Whose key the root is: ours, or Vault's."""

    EMBEDDED = "embedded"
    VAULT = "vault"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthoritySettings:
    """Whose the root is, how long authorities live, what they may name, and how their keys are kept.

    With `kind` vault, the life of the root is Vault's affair; where Vault signs leaves too, `ca_ttl_seconds`
    says nothing about the standby CA, only how long a leaf may be asked for.
    `constrain_uris` binds issuing CAs to the URIs of their trust domain; some verifiers refuse every
    certificate below such a CA, and for their sake it can be switched off. An empty passphrase means none.
    """

    kind: AuthorityKind = AuthorityKind.EMBEDDED
    root_ttl_seconds: int = 365 * DAY
    ca_ttl_seconds: int = 7 * DAY
    jwt_key_ttl_seconds: int = 7 * DAY
    confirmation_limit_seconds: int = DAY
    constrain_uris: bool = True
    key_passphrase: Secret[str] = field(default_factory=lambda: Secret(""))


@dataclass(frozen=True, slots=True, kw_only=True)
class X509PopSettings:
    """The node attestor x509pop; without a file of authorities (PEM) it isn't offered."""

    ca_bundle: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcSettings:
    """One issuer of bearer tokens for people. Subjects are `name:` and the claim `subject_claim`."""

    name: str
    issuer: str
    jwks_file: Path
    audience: str
    subject_claim: str = "sub"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSettings:
    """Who may do what by the management API: `SUBJECT ROLE [SCOPE]` each.

    `local_administrators`: root, and the user that the server runs as, have every role, for they own its keys
    and its database anyway; that nobody approves their own change holds for them too.
    """

    grants: tuple[str, ...] = ()
    local_administrators: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaSettings:
    """Open Policy Agents that decide as our agents do.

    `bind`: where they fetch bundles by plain HTTP, `host:port` of a loopback address; empty is nowhere (the
    management API has the same routes). `push`: URLs of OPAs that are told by their REST API; plain HTTP only
    to a loopback address. `push_token`: the bearer token that they want, empty for none.
    """

    bind: str = ""
    push: tuple[str, ...] = ()
    push_token: Secret[str] = field(default_factory=lambda: Secret(""))


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """Metrics for Prometheus, by plain HTTP on a loopback address: `host:port`; empty is nowhere. The
    management process has that port, the first issuer the next one, and so on."""

    bind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """The management API over TLS, beside its unix socket.

    `bind`: `host:port`; empty is nowhere. `dns_names` are put into its certificate, for clients that look at
    names of hosts and not at SPIFFE IDs. Rates are in requests a second, bursts in requests, a rate of 0 is
    no limit; an address counts before anybody is authenticated, a subject after it. The user of the unix
    socket isn't limited. `listeners`: how many event streams may be open at once.
    """

    bind: str = ""
    dns_names: tuple[str, ...] = ("localhost",)
    address_requests_per_second: float = field(default=200.0, metadata={"minimum": 0})
    address_burst: int = field(default=400, metadata={"minimum": 1})
    subject_requests_per_second: float = field(default=50.0, metadata={"minimum": 0})
    subject_burst: int = field(default=200, metadata={"minimum": 1})
    listeners: int = field(default=100, metadata={"minimum": 0, "maximum": 1000})


@dataclass(frozen=True, slots=True, kw_only=True)
class FalcoSettings:
    """Alerts of Falco at `POST /v1/alerts/falco`, from whoever has the role sensor.

    `secret_file`: a secret of at least 32 characters that Falco sends as a bearer token; empty for none.
    `rego`: rules in place of those in rego/response. `per_minute`: how many identities alerts may cut off.
    """

    secret_file: str = ""
    rego: str = ""
    per_minute: int = field(default=10, metadata={"minimum": 0, "maximum": 1000})


@dataclass(frozen=True, slots=True, kw_only=True)
class CanarySettings:
    """When a canary is rolled back by itself: once it has decided `least_requests`, and its share of denials,
    and that of each of `least_agents`, has risen by `rise_percent` points (`rollout.denials`)."""

    rise_percent: float = field(default=5.0, metadata={"minimum": 0.1, "maximum": 100})
    least_requests: int = field(default=100, metadata={"minimum": 1})
    least_agents: int = field(default=2, metadata={"minimum": 1})


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenSettings:
    """As written: text and numbers, hardly checked. The names are those of keys and flags."""

    data_dir: str = ""
    trust_domain: str = ""
    bind: str = DEFAULT_BIND
    issuers: int = field(default=0, metadata={"minimum": 0, "maximum": MAX_ISSUERS})
    default_x509_svid_ttl_seconds: int = DAY
    default_jwt_svid_ttl_seconds: int = 300
    agent_ttl_seconds: int = DAY
    admin_ids: tuple[str, ...] = ()
    allow_tls12: bool = False
    max_connection_age_seconds: int = field(default=180, metadata={"minimum": 0})
    purge_agents_after_seconds: int = field(default=30 * DAY, metadata={"minimum": 0})
    log_level: str = "info"
    log_format: str = "json"
    authority: AuthoritySettings = field(default_factory=AuthoritySettings)
    vault: VaultSettings = field(default_factory=VaultSettings)
    x509pop: X509PopSettings = field(default_factory=X509PopSettings)
    rate_limits: RateLimits = field(default_factory=RateLimits)
    roles: RoleSettings = field(default_factory=RoleSettings)
    oidc: tuple[OidcSettings, ...] = ()
    opa: OpaSettings = field(default_factory=OpaSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    api: ApiSettings = field(default_factory=ApiSettings)
    canary: CanarySettings = field(default_factory=CanarySettings)
    falco: FalcoSettings = field(default_factory=FalcoSettings)
