"""The server's settings as it runs with them: read from everywhere, checked, handed to its children.

Written in TOML (`--config`), in the environment (`GATEHOUSE_…`) and as flags; a flag wins over the
environment, the environment over the file. Unknown keys are an error that names the nearest right one. What
can't work (a leaf that would outlive its CA) is refused here, with the arithmetic, before anything starts.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from control_plane.core.access import Grant
from control_plane.core.dns_name import check_dns_name
from control_plane.core.errors import InvalidInput, shown
from control_plane.core.lifetime import check_ca_ttl, max_leaf_ttl_seconds, standby_ttl_seconds
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.runtime.addresses import HttpAddress, parse_bind, parse_loopback
from control_plane.runtime.log import LEVELS
from control_plane.runtime.settings import load, path_of
from control_plane.runtime.vault_settings import LoginMethod, PolicyKeyType, VaultMode, VaultSettings
from control_plane.settings.written import (
    ApiSettings,
    AuthorityKind,
    AuthoritySettings,
    CanarySettings,
    FalcoSettings,
    MetricsSettings,
    OidcSettings,
    OpaSettings,
    RateLimits,
    RoleSettings,
    WrittenSettings,
    X509PopSettings,
)

ENVIRONMENT_PREFIX: Final = "GATEHOUSE_"
OTHERS: Final = (
    *("GATEHOUSE_AGENT_", "GATEHOUSE_PEERS", "GATEHOUSE_REQUIRE_", "GATEHOUSE_CONFORMANCE"),
    *("GATEHOUSE_TOKEN", "GATEHOUSE_BENCH_", "GATEHOUSE_CHAOS_", "GATEHOUSE_DEMO_"),
    "GATEHOUSE_REMOTE",
)
OPA_PORT: Final = 8181

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """As run: valid, whoever made it. `issuers` is the number of issuing processes; port 0 means any."""

    written: WrittenSettings = field(repr=False)
    data_dir: Path
    trust_domain: TrustDomain
    host: str
    port: int
    issuers: int
    admin_ids: tuple[SpiffeId, ...]
    x509pop_ca_bundle: Path | None
    key_passphrase: Secret[str] | None
    grants: tuple[Grant, ...]
    opa_bind: tuple[str, int] | None
    opa_push: tuple[HttpAddress, ...]
    metrics_bind: tuple[str, int] | None
    api_bind: tuple[str, int] | None

    @classmethod
    def parse(cls, written: WrittenSettings) -> "ServerSettings":
        """Checks what was written. Raises InvalidInput with the setting, what came, what was expected."""
        if not written.data_dir:
            raise InvalidInput("settings: data_dir is missing", hint="give --data-dir")
        if not written.trust_domain:
            raise InvalidInput("settings: trust_domain is missing", hint="give --trust-domain")
        if written.log_level not in LEVELS or written.log_format not in ("json", "human"):
            raise InvalidInput(
                f"settings: log_level {shown(written.log_level)}, log_format {shown(written.log_format)}; "
                f"expected one of {', '.join(LEVELS)}, and json or human"
            )
        _check_lifetimes(written)
        written.vault.check()
        if written.authority.kind is AuthorityKind.VAULT and not written.vault.address:
            raise InvalidInput(
                "settings: authority.kind is vault, and vault.address is missing",
                hint="such as https://vault.example:8200",
            )
        host, port = parse_bind(written.bind)
        passphrase = written.authority.key_passphrase
        trust_domain = TrustDomain.parse(written.trust_domain)
        for dns_name in written.api.dns_names:
            check_dns_name(dns_name)
        names = [issuer.name for issuer in written.oidc]
        # Subjects of all kinds share one space of names: local:root, spiffe://example.org/x, login:ada.
        taken = {"local", "spiffe", "webhook"} & set(names)
        if len(set(names)) != len(names) or not all(map(_NAME.fullmatch, names)) or taken:
            raise InvalidInput(
                f"settings: oidc names {', '.join(map(shown, names))}; expected different ones of a-z, 0-9 "
                "and -, and neither local nor spiffe nor webhook"
            )
        return cls(
            written=written,
            data_dir=path_of(written.data_dir, "data_dir").absolute(),
            trust_domain=trust_domain,
            host=host,
            port=port,
            issuers=written.issuers or os.cpu_count() or 1,
            admin_ids=tuple(SpiffeId.parse(text) for text in written.admin_ids),
            x509pop_ca_bundle=path_of(written.x509pop.ca_bundle, "x509pop.ca_bundle").absolute()
            if written.x509pop.ca_bundle
            else None,
            key_passphrase=passphrase if passphrase.reveal() else None,
            grants=tuple(Grant.parse(text, trust_domain) for text in written.roles.grants),
            opa_bind=parse_loopback("opa.bind", written.opa.bind),
            opa_push=tuple(
                HttpAddress.parse(url, setting="opa.push", default_port=OPA_PORT, risk="change the policy")
                for url in written.opa.push
            ),
            metrics_bind=parse_loopback("metrics.bind", written.metrics.bind),
            api_bind=parse_bind(written.api.bind) if written.api.bind else None,
        )

    @property
    def database(self) -> Path:
        """The registry."""
        return self.data_dir / "registry.db"

    @property
    def ledger_dir(self) -> Path:
        """The journals of what was issued."""
        return self.data_dir / "ledger"

    @property
    def by_vault(self) -> VaultMode | None:
        """What Vault signs: leaves, or our intermediate; None where the root is ours."""
        is_vault = self.written.authority.kind is AuthorityKind.VAULT
        return self.written.vault.mode if is_vault else None

    @property
    def leaf_ttl_seconds(self) -> int:
        """The longest life of a leaf that these settings have issued."""
        return max(self.written.default_x509_svid_ttl_seconds, self.written.agent_ttl_seconds)

    @property
    def max_leaf_ttl_seconds(self) -> int:
        """The longest life that a leaf may be asked for. Where Vault signs leaves, its role is made for the
        longest of the settings, and what it cuts short is withheld; so nothing longer is asked of it."""
        if self.by_vault is VaultMode.LEAF:
            return self.leaf_ttl_seconds
        return max_leaf_ttl_seconds(self.written.authority.ca_ttl_seconds)

    @property
    def intermediate_ttl_seconds(self) -> int:
        """How long an issuing CA below a root lives: as written, or as the standby for a Vault needs it."""
        if self.by_vault is VaultMode.LEAF:
            return standby_ttl_seconds(self.leaf_ttl_seconds)
        return self.written.authority.ca_ttl_seconds

    @property
    def key_dir(self) -> Path:
        """Private keys."""
        return self.data_dir / "keys"

    @property
    def admin_socket(self) -> Path:
        """gRPC for the machine's administrators."""
        return self.data_dir / "server.sock"

    @property
    def rest_socket(self) -> Path:
        """REST for the machine's administrators."""
        return self.data_dir / "api.sock"

    def with_port(self, port: int) -> "ServerSettings":
        """The same with a port that was reserved."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return ServerSettings.parse(dataclasses.replace(self.written, bind=f"{host}:{port}"))

    def to_json(self) -> str:
        """For a child process, over a pipe: it holds the passphrase in clear. Never log it."""

        def plain(value: object) -> object:
            if isinstance(value, Secret):
                return value.reveal()
            if isinstance(value, Path):
                return str(value)
            raise TypeError(f"settings: {type(value).__name__} has no JSON form")

        # dataclasses.asdict copies deeply, which a Secret refuses.
        return json.dumps(_as_dict(self.written), default=plain)

    @classmethod
    def from_json(cls, text: str) -> "ServerSettings":
        """Reads what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        authority = values.pop("authority")
        authority["key_passphrase"] = Secret(authority["key_passphrase"])
        authority["kind"] = AuthorityKind(authority["kind"])
        vault = values.pop("vault")
        vault |= {name: Secret(vault[name]) for name in ("token", "secret_id")}
        vault |= {"mode": VaultMode(vault["mode"]), "login": LoginMethod(vault["login"])}
        vault["policy_key_type"] = PolicyKeyType(vault["policy_key_type"])
        opa = _tuples(values.pop("opa"))
        opa["push_token"] = Secret(opa["push_token"])
        return cls.parse(
            WrittenSettings(
                authority=AuthoritySettings(**authority),
                vault=VaultSettings(**vault),
                x509pop=X509PopSettings(**values.pop("x509pop")),
                rate_limits=RateLimits(**values.pop("rate_limits")),
                opa=OpaSettings(**opa),
                metrics=MetricsSettings(**values.pop("metrics")),
                api=ApiSettings(**_tuples(values.pop("api"))),
                canary=CanarySettings(**values.pop("canary")),
                falco=FalcoSettings(**values.pop("falco")),
                roles=RoleSettings(**_tuples(values.pop("roles"))),
                oidc=tuple(
                    OidcSettings(**(one | {"jwks_file": Path(one["jwks_file"])}))
                    for one in values.pop("oidc")
                ),
                **(values | {"admin_ids": tuple(values["admin_ids"])}),
            )
        )


def load_settings(
    *, file: Path | None, environment: Mapping[str, str], flags: Mapping[str, object]
) -> ServerSettings:
    """Settings from everywhere, later ones win: file, environment, flags. Raises InvalidInput."""
    written = load(
        WrittenSettings,
        file=file,
        environment=environment,
        prefix=ENVIRONMENT_PREFIX,
        ignore=OTHERS,
        flags=flags,
    )
    return ServerSettings.parse(written)


def _check_lifetimes(written: WrittenSettings) -> None:
    leaf = max(written.default_x509_svid_ttl_seconds, written.agent_ttl_seconds)
    for name in ("default_x509_svid_ttl_seconds", "default_jwt_svid_ttl_seconds", "agent_ttl_seconds"):
        if getattr(written, name) < 60:
            raise InvalidInput(f"settings: {name} is {getattr(written, name)} s, at least 60 s are needed")
    try:
        check_ca_ttl(written.authority.ca_ttl_seconds, leaf)
    except InvalidInput as error:
        raise InvalidInput(f"settings: {error.message}", hint=error.hint) from error


def _as_dict(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {each.name: _as_dict(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_as_dict(one) for one in value]
    return value


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
