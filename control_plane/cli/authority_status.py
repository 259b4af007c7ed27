"""`gatehouse authority status`: who signs, since when, and how long issuing could go on without Vault."""

from __future__ import annotations

from typing import Any

from control_plane.cli import printing
from control_plane.cli.options import DataDirFlag, Output, OutputFlag
from control_plane.cli.remote import rest

_WHO = {
    "nobody": "nobody: no authority is active",
    "embedded": "this server, below a root of its own",
    "intermediate": "this server, by an intermediate that Vault signed",
    "vault": "Vault, each leaf",
    "standby": "this server, by the standby intermediate: Vault is away",
}


def status(data_dir: DataDirFlag = None, output: OutputFlag = Output.HUMAN) -> None:
    """Shows who signs, since when, and how long issuing could go on without Vault."""
    answer: dict[str, Any] = rest("GET", "/v1/authority", data_dir=data_dir, output=output)
    printing.emit(output, answer, lambda: printing.record(_shown(answer)))


def _shown(answer: dict[str, Any]) -> dict[str, object]:
    fields: dict[str, object] = {
        "signs now": _WHO.get(str(answer["signer"]), answer["signer"]),
        "since": printing.moment(int(answer["since_at"])),
        "authority id": answer["authority_id"],
    }
    vault = answer.get("vault")
    if vault is not None and vault.get("policy_keys_missing"):
        fields["policy keys"] = f"out of reach, no policy can be signed: {vault['policy_keys_missing']}"
    if vault is None or answer["signer"] == "embedded":
        fields["issuing ca ends"] = printing.moment(int(answer["issuing_ends_at"]))
        return fields
    fields["without vault, issuing until"] = printing.moment(int(answer["issuing_ends_at"]))
    fields["vault"] = f"{vault['address']}, mode {vault['mode']}: {vault['health']}"
    fields["last error of vault"] = (
        f"{printing.moment(int(vault['last_error_at']))}: {vault['last_error']}"
        if vault["last_error_at"]
        else "none"
    )
    return fields
