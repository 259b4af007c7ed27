"""Making a Vault ready for us: mounts, a root, the role, the policy, a login. A plan first, then its steps.

What is there already and right is left alone, so a second run has nothing to do. A root is made only in a
mount without any issuer, and nothing is ever deleted. A role is replaced as a whole where one of its fields
is wrong; domains for DNS names that it has are kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from control_plane.clients.vault.answers import Answer
from control_plane.clients.vault.door import VaultDoor
from control_plane.clients.vault.policies import hcl, rules
from control_plane.clients.vault.roles import role_faults, role_fields
from control_plane.clients.vault.secrets import SecretReference
from control_plane.core.errors import FailedPrecondition, NotFound
from control_plane.core.spiffe_id import TrustDomain
from control_plane.runtime.vault_settings import LoginMethod, VaultMode, VaultSettings

ROOT_TTL: Final = "87600h"
# Certificates below are back-dated, and Vault refuses that before the start of their issuer.
ROOT_BACKDATE: Final = "10m"
TOKEN_TTL: Final = "1h"  # noqa: S105  # a length of time


@dataclass(frozen=True, slots=True)
class Step:
    """One change: what it does in words, the request, and the command that would do the same."""

    about: str
    method: str
    path: str
    body: Mapping[str, object] = field(repr=False)
    command: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the Vault is to be ready for. `policy` is the name of our policy and of the login's role."""

    trust_domain: TrustDomain
    leaf_ttl_seconds: int
    dns_domains: Sequence[str] = ()
    policy: str = "gatehouse"
    references: Sequence[SecretReference] = ()
    signs: bool = True


class Preparation:
    """Plans and carries out, as somebody who may: `door` is logged in with an administrator's token."""

    def __init__(self, door: VaultDoor, settings: VaultSettings, wanted: Wanted) -> None:
        self._door = door
        self._settings = settings
        self._wanted = wanted

    async def plan(self) -> list[Step]:
        """What is to be done now, in order. Raises PermissionDenied, Unavailable or FailedPrecondition."""
        settings = self._settings
        mounts = await self._listed("sys/mounts", "reading the mounts")
        steps = []
        if self._wanted.signs:
            pki_is_new = settings.pki_mount not in mounts
            steps += self._engine("pki", settings.pki_mount, mounts)
            steps += await self._root(pki_is_new)
            if settings.mode is VaultMode.LEAF:
                steps += await self._role(pki_is_new)
        if settings.transit_mount:
            steps += self._engine("transit", settings.transit_mount, mounts)
        steps += await self._policy()
        if settings.login is LoginMethod.APPROLE:
            steps += await self._approle()
        return steps

    async def carry_out(self, step: Step) -> None:
        """Does one step. Raises what `VaultDoor.ask` raises."""
        await self._door.ask(step.method, step.path, step.body, what=step.about, repeatable=False)

    def _engine(self, kind: str, mount: str, mounts: Mapping[str, str]) -> list[Step]:
        found = mounts.get(mount)
        if found == kind:
            return []
        if found is not None:
            raise FailedPrecondition(
                f"planning: {mount} is mounted already, as {found} instead of {kind}",
                hint="name another mount in the settings",
            )
        longest = f" -max-lease-ttl={ROOT_TTL}" if kind == "pki" else ""
        body: dict[str, object] = {"type": kind}
        if kind == "pki":
            body["config"] = {"max_lease_ttl": ROOT_TTL}
        command = f"vault secrets enable -path={mount}{longest} {kind}"
        return [Step(f"mount the engine {kind} at {mount}", "post", f"sys/mounts/{mount}", body, command)]

    async def _root(self, is_new: bool) -> list[Step]:
        mount = self._settings.pki_mount
        if not is_new and await self._has_issuer():
            return []
        name = f"{self._wanted.trust_domain.name} root"
        body = {
            "common_name": name,
            "exclude_cn_from_sans": True,
            "key_type": "ec",
            "key_bits": 256,
            "ttl": ROOT_TTL,
            "not_before_duration": ROOT_BACKDATE,
        }
        path = f"{mount}/root/generate/internal"
        about = f"make a root in {mount}: {name}, valid for {ROOT_TTL}, its key stays in Vault"
        return [Step(about, "post", path, body, f"vault write {path} {_arguments(body)}")]

    async def _has_issuer(self) -> bool:
        """Whether the mount has any issuer: then the root is somebody's decision already."""
        what = f"listing the issuers of {self._settings.pki_mount}"
        try:
            answer = await self._door.ask("list", f"{self._settings.pki_mount}/issuers", what=what)
        except NotFound:
            return False
        return bool(answer.section("data", what).get("keys"))

    async def _role(self, is_new: bool) -> list[Step]:
        path = f"{self._settings.pki_mount}/roles/{self._settings.role}"
        wanted, domains = self._wanted, list(self._wanted.dns_domains)
        found = None if is_new else await self._read(path)
        if found is not None:
            kept = found.get("allowed_domains")
            domains = domains or ([str(each) for each in kept] if isinstance(kept, list) else [])
            if not role_faults(
                found,
                wanted.trust_domain,
                ttl_seconds=wanted.leaf_ttl_seconds,
                dns_domains=domains,
            ):
                return []
        body = role_fields(wanted.trust_domain, ttl_seconds=wanted.leaf_ttl_seconds, dns_domains=domains)
        about = f"{'write' if found is None else 'replace'} the role {self._settings.role}: leaves of " + (
            f"spiffe://{wanted.trust_domain.name}/* alone"
        )
        return [Step(about, "post", path, body, f"vault write {path} {_arguments(body)}")]

    async def _policy(self) -> list[Step]:
        text = hcl(rules(self._settings, self._wanted.references, signs=self._wanted.signs))
        path = f"sys/policies/acl/{self._wanted.policy}"
        found = await self._read(path)
        if found is not None and found.get("policy") == text:
            return []
        command = f"gatehouse authority vault policy CONFIG | vault policy write {self._wanted.policy} -"
        return [
            Step(
                f"write the policy {self._wanted.policy}: what we may do",
                "post",
                path,
                {"policy": text},
                command,
            )
        ]

    async def _approle(self) -> list[Step]:
        mount, role = self._settings.mount_of_login, self._settings.login_role
        steps = []
        if mount not in await self._listed("sys/auth", "reading the login methods"):
            command = f"vault auth enable -path={mount} approle"
            steps.append(
                Step(
                    f"enable AppRole at auth/{mount}",
                    "post",
                    f"sys/auth/{mount}",
                    {"type": "approle"},
                    command,
                )
            )
        path, body = (
            f"auth/{mount}/role/{role}",
            {"token_policies": [self._wanted.policy], "token_ttl": TOKEN_TTL},
        )
        found = None if steps else await self._read(path)
        if found is None or self._wanted.policy not in _texts(found.get("token_policies")):
            about = f"write the AppRole {role}, with the policy {self._wanted.policy}"
            steps.append(Step(about, "post", path, body, f"vault write {path} {_arguments(body)}"))
        return steps

    async def _read(self, path: str) -> Mapping[str, object] | None:
        what = f"reading {path}"
        try:
            return (await self._door.ask("get", path, what=what)).section("data", what)
        except NotFound:
            return None

    async def _listed(self, path: str, what: str) -> dict[str, str]:
        """Mounts by name with their kinds."""
        answer: Answer = await self._door.ask("get", path, what=what)
        found = answer.section("data", what)
        return {
            name.strip("/"): str(value.get("type"))
            for name, value in found.items()
            if isinstance(value, dict)
        }


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _arguments(body: Mapping[str, object]) -> str:
    """A body as the `vault` command takes it."""
    words = []
    for name, value in body.items():
        if isinstance(value, bool):
            words.append(f"{name}={str(value).lower()}")
        elif isinstance(value, list | tuple):
            words.append(f"{name}='{','.join(map(str, value))}'")
        else:
            text = str(value)
            words.append(f"{name}='{text}'" if " " in text or not text else f"{name}={text}")
    return " ".join(words)
