"""`gatehouse check vault` and `gatehouse authority vault`: making a Vault ready, and finding what is missing.

All three read the server's own settings file, so that they speak of what the server will do. `setup` and,
where the server's own login can't be used here, `check` act with another token: that of `VAULT_TOKEN` or of a
file.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from control_plane.cli import printing
from control_plane.cli.options import Output, OutputFlag, group
from control_plane.cli.remote import Exit, reported
from control_plane.core.errors import FailedPrecondition
from control_plane.core.secret import Secret
from control_plane.settings import ServerSettings, load_settings

if TYPE_CHECKING:
    from control_plane.clients.vault.door import VaultDoor
    from control_plane.clients.vault.inspection import Finding
    from control_plane.clients.vault.preparation import Step
    from control_plane.runtime.vault_settings import VaultSettings

ConfigArgument = Annotated[Path, typer.Argument(help="Settings of the server, in TOML.")]
TokenFileFlag = Annotated[
    Path | None,
    typer.Option("--token-file", help="A token to act with.", show_default="the token in VAULT_TOKEN"),
]

app = group("Vault or OpenBao as the signing authority: its policy, and making it ready.")


@app.command()
def policy(file: ConfigArgument, output: OutputFlag = Output.HUMAN) -> None:
    """Prints the least policy that the server's login needs, as Vault's HCL."""
    from control_plane.clients.vault.policies import hcl, rules

    with reported(output):
        settings = _load(file)
        found = rules(settings.written.vault, _references(settings), signs=settings.by_vault is not None)
    answer = [{"path": rule.path, "capabilities": rule.capabilities, "why": rule.why} for rule in found]
    printing.emit(output, answer, lambda: printing.document(hcl(found)))


@app.command()
def setup(
    file: ConfigArgument,
    token_file: TokenFileFlag = None,
    dns_domains: Annotated[
        list[str] | None,
        typer.Option("--dns-domain", help="A domain that entries may name DNS names below; repeatable."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Makes mounts, a root, the role, the policy and an AppRole that are missing; shows its plan first."""
    from control_plane.clients.vault.preparation import Preparation, Wanted

    with reported(output):
        settings = _load(file)
        own = settings.written.vault
        wanted = Wanted(
            settings.trust_domain,
            _leaf_ttl(settings),
            tuple(dns_domains or ()),
            references=_references(settings),
            signs=settings.by_vault is not None,
        )
        acting = _with_token(own, token_file)
        if acting is None:
            raise FailedPrecondition(
                "setting Vault up: there is no token of an administrator",
                hint="set VAULT_TOKEN, or give --token-file",
            )
        door = _open(acting)
        try:
            steps = asyncio.run(Preparation(door, own, wanted).plan())
            done = bool(steps) and (yes or (output is Output.HUMAN and _agreed(steps, file)))
            if done:
                asyncio.run(_carry_out(Preparation(door, own, wanted), steps, output))
        finally:
            door.close()
    answer = {
        "done": done,
        "steps": [{"about": step.about, "command": _named(step.command, file)} for step in steps],
    }
    printing.emit(output, answer, lambda: _print_plan(steps, done=done))


def inspect(
    file: ConfigArgument, token_file: TokenFileFlag = None, output: OutputFlag = Output.HUMAN
) -> None:
    """Checks the Vault of the settings step by step, and tells what to run where something is missing."""
    with reported(output):
        settings = _load(file)
        acting = settings.written.vault
        if token_file is not None or os.environ.get("VAULT_TOKEN"):
            acting = _with_token(acting, token_file) or acting
        findings = asyncio.run(_inspected(settings, acting, file, output))
    answer = [
        {name: getattr(each, name) for name in ("step", "is_good", "found", "expected", "remedy")}
        for each in findings
    ]
    printing.emit(output, answer, lambda: _conclude(findings))
    if not all(each.is_good for each in findings):
        raise typer.Exit(Exit.FAILED)


def _load(file: Path) -> ServerSettings:
    settings = load_settings(file=file, environment=os.environ, flags={})
    if not settings.written.vault.address:
        raise FailedPrecondition(f"{file}: has no Vault", hint="set address in the table [vault]")
    return settings


def _references(settings: ServerSettings) -> list[Any]:
    """The secrets of the settings that are kept in Vault."""
    from control_plane.clients.vault.secrets import SecretReference, is_reference

    written = settings.written
    secrets = (written.authority.key_passphrase, written.opa.push_token)
    return [SecretReference.parse(each.reveal()) for each in secrets if is_reference(each)]


def _leaf_ttl(settings: ServerSettings) -> int:
    return max(settings.written.default_x509_svid_ttl_seconds, settings.written.agent_ttl_seconds)


def _intermediate_ttl(settings: ServerSettings) -> int:
    """How long the CA lives that Vault has to sign: the standby, or what signs our leaves."""
    from control_plane.core.lifetime import standby_ttl_seconds
    from control_plane.runtime.vault_settings import VaultMode

    if settings.written.vault.mode is VaultMode.LEAF:
        return standby_ttl_seconds(_leaf_ttl(settings))
    return settings.written.authority.ca_ttl_seconds


def _with_token(settings: VaultSettings, token_file: Path | None) -> VaultSettings | None:
    """The settings with another login: a token of whoever runs the command; None if there is none."""
    import dataclasses

    from control_plane.runtime.vault_settings import LoginMethod

    token = os.environ.get("VAULT_TOKEN", "").strip()
    if token_file is None and not token:
        return None
    return dataclasses.replace(
        settings,
        login=LoginMethod.TOKEN,
        token=Secret(token),
        token_file=str(token_file) if token_file is not None else "",
    )


def _open(settings: VaultSettings, data_dir: Path | None = None) -> VaultDoor:
    """A door; `data_dir` is where the server keeps what it unwrapped, for that can be done once only."""
    import random  # noqa: TID251  # pauses between retries, nothing secret

    from control_plane.clients.vault.opening import open_vault

    keep = None
    if data_dir is not None and settings.secret_id_wrapped:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        keep = data_dir / "vault-secret-id"
    return open_vault(settings, random=random.random, keep=keep)


async def _inspected(
    settings: ServerSettings, acting: VaultSettings, file: Path, output: Output
) -> list[Finding]:
    import dataclasses

    from control_plane.clients.vault.inspection import Inspection, Needs
    from control_plane.runtime.clock import SystemClock

    needs = Needs(
        settings.trust_domain,
        _leaf_ttl(settings),
        _intermediate_ttl(settings),
        _references(settings),
        settings.by_vault is not None,
    )
    door = _open(acting, settings.data_dir)
    findings = []
    try:
        async for finding in Inspection(door, settings.written.vault, needs, SystemClock()).findings():
            finding = dataclasses.replace(finding, remedy=_named(finding.remedy, file))
            findings.append(finding)
            if output is Output.HUMAN:
                _print_finding(finding)
    finally:
        door.close()
    return findings


def _print_finding(finding: Finding) -> None:
    mark = "ok" if finding.is_good and not finding.is_warning else "warning" if finding.is_good else "MISSING"
    printing.line(f"{mark:8} {finding.step}: {finding.found}")
    if mark == "ok":
        return
    if finding.expected:
        printing.line(f"         expected: {finding.expected}")
    if finding.remedy:
        printing.line(f"         to do:    {finding.remedy}")


def _conclude(findings: list[Finding]) -> None:
    wrong = sum(not each.is_good for each in findings)
    printing.line("this Vault can be used" if not wrong else f"{wrong} of {len(findings)} steps failed")


def _named(command: str, file: Path) -> str:
    """A command with the settings file that we were given."""
    return command.replace("CONFIG", shlex.quote(str(file)))


def _agreed(steps: list[Step], file: Path) -> bool:
    for step in steps:
        printing.line(f"will {step.about}")
        printing.line(f"  {_named(step.command, file)}")
    return typer.confirm("Do this?")


async def _carry_out(preparation: Any, steps: list[Step], output: Output) -> None:
    for step in steps:
        await preparation.carry_out(step)
        if output is Output.HUMAN:
            printing.line(f"done: {step.about}")


def _print_plan(steps: list[Step], *, done: bool) -> None:
    if not steps:
        printing.line("nothing to do: mounts, root, role and policy are there")
    elif not done:
        printing.line("nothing was done")
