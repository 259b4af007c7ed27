"""What is missing on a live Vault, found step by step: each step with what was found, what was expected, and
the command that mends it. Later steps are left out where an earlier one leaves them without a ground.

Nothing is changed in Vault, except that one leaf of a minute is signed and thrown away.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from control_plane.authority.vault_leaf import check_vault_leaf
from control_plane.authority.vault_ports import LeafOrder, VaultHealth, VaultIssuer
from control_plane.clients.vault.door import VaultDoor
from control_plane.clients.vault.pki import PkiMount
from control_plane.clients.vault.policies import Rule, rules
from control_plane.clients.vault.roles import role_faults
from control_plane.clients.vault.secrets import SecretReference
from control_plane.core.certificate import read_certificate
from control_plane.core.errors import (
    FailedPrecondition,
    GatehouseError,
    NotFound,
    PermissionDenied,
    shown,
)
from control_plane.core.jwk import spki_of
from control_plane.core.lifetime import Window
from control_plane.core.profile import SigningRequest
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.runtime.clock import Clock
from control_plane.runtime.vault_settings import VaultMode, VaultSettings

# How far an intermediate is back-dated at most: the issuer has to be older than that.
BACKDATE_SECONDS: Final = 150
TEST_LEAF_SECONDS: Final = 60

_HEALTH: Final = {
    VaultHealth.UNREACHABLE: "is Vault running, and is vault.address right? vault status",
    VaultHealth.NOT_INITIALISED: "vault operator init",
    VaultHealth.SEALED: "vault operator unseal",
    VaultHealth.RECOVERY: "set vault.address to the primary cluster",
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finding:
    """One step: whether it is as it must be, and if not, what to run or to do. A warning is good enough."""

    step: str
    is_good: bool
    found: str
    expected: str = ""
    remedy: str = ""
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class Needs:
    """What the server will want of this Vault."""

    trust_domain: TrustDomain
    leaf_ttl_seconds: int
    intermediate_ttl_seconds: int
    references: Sequence[SecretReference] = ()
    signs: bool = True


class Inspection:
    """Looks at one Vault with the settings of one server."""

    def __init__(self, door: VaultDoor, settings: VaultSettings, needs: Needs, clock: Clock) -> None:
        self._door = door
        self._settings = settings
        self._needs = needs
        self._clock = clock
        self._pki = PkiMount(door, mount=settings.pki_mount, role=settings.role, issuer=settings.issuer)

    async def findings(self) -> AsyncIterator[Finding]:
        """The steps in their order. Raises nothing: what goes wrong is a finding."""
        health = await self._health()
        yield health
        if not health.is_good:
            return
        login = await self._login()
        yield login
        if not login.is_good:
            return
        for rights in await self._tried("rights of the token", self._rights):
            yield rights
        if self._needs.signs:
            async for finding in self._signing():
                yield finding
        if self._settings.transit_mount:
            for finding in await self._tried(f"keys in {self._settings.transit_mount}", self._transit):
                yield finding

    async def _signing(self) -> AsyncIterator[Finding]:
        """What certificates need."""
        issuer: VaultIssuer | None = None
        try:
            issuer = await self._pki.issuer()
        except GatehouseError as error:
            yield self._no_issuer(error)
        else:
            for finding in self._about(issuer):
                yield finding
        if self._settings.mode is VaultMode.LEAF:
            for finding in await self._tried(f"role {self._settings.role}", self._role):
                yield finding
            if issuer is not None:
                certificate = issuer.certificate
                for finding in await self._tried("test leaf", lambda: self._leaf(certificate)):
                    yield finding

    async def _health(self) -> Finding:
        health = await self._door.health()
        good = health in (VaultHealth.ACTIVE, VaultHealth.STANDBY, VaultHealth.PERFORMANCE_STANDBY)
        step, found, remedy = f"server at {self._settings.address}", health.value, _HEALTH.get(health, "")
        if health is VaultHealth.UNREACHABLE:
            found, remedy = await self._why_unreachable(remedy)
        return Finding(step, good, found, "active", remedy)

    async def _why_unreachable(self, remedy: str) -> tuple[str, str]:
        """The reason, which health doesn't tell, and what to do about it."""
        try:
            await self._door.ask("get", "sys/health", what="asking for its health", anonymous=True)
        except GatehouseError as error:
            return error.message, error.hint or remedy
        return "something answers that isn't a Vault", remedy

    async def _login(self) -> Finding:
        step = f"login by {self._door.login_name}"
        try:
            answer = await self._door.ask("get", "auth/token/lookup-self", what="looking our token up")
            data = answer.section("data", "looking our token up")
        except GatehouseError as error:
            return Finding(step, False, error.message, "a token", error.hint)
        policies = data.get("policies")
        names = [str(each) for each in policies] if isinstance(policies, list) else []
        found = f"policies {', '.join(names)}; {_left(data.get('ttl'))}"
        if "root" in names:
            return Finding(
                step, True, found, "a token with one policy of our own",
                "gatehouse authority vault policy CONFIG | vault policy write gatehouse -",
                is_warning=True,
            )  # fmt: skip
        return Finding(step, True, found)

    async def _rights(self) -> list[Finding]:
        wanted = rules(self._settings, self._needs.references, signs=self._needs.signs)
        paths = {rule.example(self._settings): rule for rule in wanted}
        answer = await self._door.ask(
            "post", "sys/capabilities-self", {"paths": list(paths)}, what="asking for our rights"
        )
        has = answer.body.get("data")
        missing = [
            rule for path, rule in paths.items() if not _suffices(rule, has, path) and not _optional(rule)
        ]
        if not missing:
            return [Finding("rights of the token", True, f"all {len(wanted)} that are needed")]
        return [
            Finding(
                f"right to {'/'.join(rule.capabilities)} {rule.path}",
                False,
                "missing",
                rule.why,
                "gatehouse authority vault policy CONFIG | vault policy write gatehouse -",
            )
            for rule in missing
        ]

    def _no_issuer(self, error: GatehouseError) -> Finding:
        mount = self._settings.pki_mount
        remedy = error.hint
        if isinstance(error, FailedPrecondition | PermissionDenied) and "self-signed" not in error.message:
            remedy = (
                f"vault secrets enable -path={mount} pki, and a root: "
                f"vault write {mount}/root/generate/internal key_type=ec ttl=87600h "
                f"not_before_duration=10m common_name=…; or all of it: gatehouse authority vault setup CONFIG"
            )
        return Finding(f"issuer of {mount}", False, error.message, "a CA that leads to a root", remedy)

    def _about(self, issuer: VaultIssuer) -> list[Finding]:
        """Whether the issuer lives long enough, and is old enough to back-date below it."""
        certificate = read_certificate(issuer.certificate)
        now, needs, mount = self._clock.unix(), self._needs, self._settings.pki_mount
        left = certificate.not_after - now
        longest = max(needs.leaf_ttl_seconds, needs.intermediate_ttl_seconds)
        step = f"issuer of {mount}"
        found = f"{certificate.title}, {len(issuer.chain)} in its chain, {_left(left)}"
        expected = (
            f"at least {longest} s left: we ask for an intermediate of {needs.intermediate_ttl_seconds} s"
        )
        remedy = f"make a new issuer: vault write {mount}/root/rotate/internal common_name=… ttl=87600h"
        findings = [Finding(step, left >= longest, found, expected, "" if left >= longest else remedy)]
        age = now - certificate.not_before
        if age < BACKDATE_SECONDS:
            findings.append(
                Finding(
                    f"age of the issuer of {mount}", True, f"valid since {max(age, 0)} s",
                    f"{BACKDATE_SECONDS} s, by which certificates below it are back-dated",
                    f"wait {BACKDATE_SECONDS - age} s, or make issuers with not_before_duration=10m",
                    is_warning=True,
                )
            )  # fmt: skip
        return findings

    async def _role(self) -> list[Finding]:
        path, step = f"{self._settings.pki_mount}/roles/{self._settings.role}", f"role {self._settings.role}"
        try:
            answer = await self._door.ask("get", path, what=f"reading the {step}")
        except NotFound:
            return [Finding(step, False, "not there", "a role", "gatehouse authority vault setup CONFIG")]
        faults = role_faults(
            answer.section("data", f"reading the {step}"),
            self._needs.trust_domain,
            ttl_seconds=self._needs.leaf_ttl_seconds,
        )
        if not faults:
            return [Finding(step, True, "each field that matters is right")]
        return [
            Finding(
                f"{step}: {fault.name}",
                False,
                shown(fault.found),
                f"{shown(fault.expected)}: {fault.why}",
                f"vault patch {path} {fault.name}={_as_argument(fault.expected)}",
            )
            for fault in faults
        ]

    async def _leaf(self, issuer: bytes) -> list[Finding]:
        """One leaf, checked as each leaf is, and thrown away."""
        key = ec.generate_private_key(ec.SECP256R1())
        spiffe_id = SpiffeId.parse(f"{self._needs.trust_domain.id}/gatehouse/check")
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        (leaf, *_) = await self._pki.sign_leaf(
            LeafOrder(csr.public_bytes(Encoding.DER), spiffe_id, (), TEST_LEAF_SECONDS)
        )
        now = self._clock.unix()
        request = SigningRequest(
            spiffe_id, spki_of(key.public_key()), 0, Window(now, now + TEST_LEAF_SECONDS)
        )
        checked = check_vault_leaf(leaf, request, read_certificate(issuer), now)
        return [Finding("test leaf", True, f"serial {checked.serial:x}, just as it was asked for")]

    async def _transit(self) -> list[Finding]:
        mount = self._settings.transit_mount
        step = f"keys in {mount}"
        try:
            answer = await self._door.ask("list", f"{mount}/keys", what=f"listing the {step}")
        except NotFound as error:
            if "no handler" in error.message:
                remedy = f"vault secrets enable -path={mount} transit"
                return [Finding(step, False, "not mounted", "the engine transit", remedy)]
            return [Finding(step, True, "none yet")]
        keys = answer.section("data", step).get("keys")
        return [Finding(step, True, f"{len(keys) if isinstance(keys, list) else 0}")]

    async def _tried(self, step: str, work: Callable[[], Awaitable[list[Finding]]]) -> list[Finding]:
        try:
            return await work()
        except GatehouseError as error:
            return [Finding(step, False, error.message, "", error.hint)]


def _suffices(rule: Rule, has: object, path: str) -> bool:
    found = has.get(path) if isinstance(has, dict) else None
    if not isinstance(found, list):
        return False
    return "root" in found or set(rule.capabilities) <= set(map(str, found))


def _optional(rule: Rule) -> bool:
    """Paths that not every server has, or that both versions of an engine are named for."""
    return rule.path.endswith(("/root/sign-intermediate", "/crl/rotate-delta")) or ", version 1" in rule.why


def _left(seconds: object) -> str:
    """How long something lives still, in words."""
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        return "for an unknown time"
    if seconds == 0:
        return "without an end"
    return f"{seconds} s left" if seconds < 2 * 86_400 else f"{seconds // 86_400} days left"


def _as_argument(value: object) -> str:
    """A value as the `vault` command takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"'{','.join(map(str, value))}'"
    return str(value)
