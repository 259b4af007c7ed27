"""The least that our token has to be allowed in Vault, for each way of using it: rules, and their HCL.

Nothing here can widen itself: no rule lets us change roles, policies, mounts or logins. Renewing the token
and asking for its own rights are in Vault's policy `default`, and named all the same, since a token may be
made without it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from control_plane.clients.vault.pki import DEFAULT_ISSUER
from control_plane.clients.vault.secrets import SecretReference
from control_plane.runtime.vault_settings import LoginMethod, VaultMode, VaultSettings


@dataclass(frozen=True, slots=True)
class Rule:
    """A path (with Vault's `+` for one step), what may be done with it, and what for."""

    path: str
    capabilities: tuple[str, ...]
    why: str

    def example(self, settings: VaultSettings) -> str:
        """The path with a step in place of `+`, to ask Vault about."""
        return self.path.replace("+", settings.issuer or DEFAULT_ISSUER).replace("*", "x")


def rules(
    settings: VaultSettings, references: Iterable[SecretReference] = (), *, signs: bool = True
) -> list[Rule]:
    """What the settings need; `signs` says whether certificates are signed there."""
    found = [
        Rule("auth/token/lookup-self", ("read",), "how long the token lives"),
        Rule("sys/capabilities-self", ("update",), "`gatehouse check vault`: what the token may do"),
    ]
    if settings.login is not LoginMethod.CERT:
        found.append(Rule("auth/token/renew-self", ("update",), "renewal before need"))
    if signs:
        found += _signing(settings)
    transit = settings.transit_mount
    if transit:
        found += [
            Rule(f"{transit}/keys", ("list",), "finding our keys"),
            Rule(f"{transit}/keys/+", ("create", "read", "update", "delete"), "making and ending keys"),
            Rule(f"{transit}/keys/+/config", ("update",), "allowing a key to be deleted"),
            Rule(f"{transit}/sign/+", ("update",), "signing"),
        ]
    for reference in references:
        mount, _, rest = reference.path.partition("/")
        why = f"{reference} of the settings"
        found.append(Rule(f"{mount}/data/{rest}", ("read",), f"{why}, key/value version 2"))
        found.append(Rule(reference.path, ("read",), f"{why}, version 1"))
    return found


def _signing(settings: VaultSettings) -> list[Rule]:
    """For certificates. Issuers are named by ID, which changes with each new root, hence the `+`."""
    pki = settings.pki_mount
    found = []
    if settings.mode is VaultMode.LEAF:
        found.append(Rule(f"{pki}/issuer/+/sign/{settings.role}", ("update",), "leaves, under the one role"))
        # The role itself matters to nobody in the other mode.
        why = "`gatehouse check vault`: whether the role is right"
        found.append(Rule(f"{pki}/roles/{settings.role}", ("read",), why))
    found += [
        Rule(
            f"{pki}/issuer/+/sign-intermediate",
            ("update",),
            "the standby" if settings.mode is VaultMode.LEAF else "our issuing CAs",
        ),
        Rule(f"{pki}/root/sign-intermediate", ("update",), "the same on servers without named issuers"),
        Rule(f"{pki}/revoke", ("update",), "revoking what was stolen"),
        Rule(f"{pki}/crl/rotate", ("read",), "a new revocation list"),
        Rule(f"{pki}/crl/rotate-delta", ("read",), "the same, where the mount keeps delta lists"),
    ]
    return found


def hcl(found: Iterable[Rule]) -> str:
    """Rules as a policy in Vault's own language."""
    blocks = []
    for rule in found:
        capabilities = ", ".join(f'"{each}"' for each in rule.capabilities)
        blocks.append(f'# {rule.why}\npath "{rule.path}" {{\n  capabilities = [{capabilities}]\n}}\n')
    return "\n".join(blocks)
