"""Flags to wire messages, and wire messages to the JSON that commands print.

Text from flags is parsed by the kernel's own rules first, so that a wrong SPIFFE ID is told here with its
reason and never sent. Nothing here talks to a server.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import typer

from control_plane.cli.remote import Exit
from control_plane.core.errors import GatehouseError
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.proto.spire.api.types import agent_pb2, entry_pb2, selector_pb2, spiffeid_pb2

OK = 0
NOT_FOUND = 5


def refusal(result: Any) -> str:
    """Why one of a batch was refused; empty if it was done."""
    return "" if result.status.code == OK else str(result.status.message)


def end_unless_done(results: Iterable[Any]) -> None:
    """Ends the command if part of a batch was refused: as not found where nothing else is wrong."""
    refusals = {each.status.code for each in results} - {OK}
    if refusals:
        raise typer.Exit(Exit.NOT_FOUND if refusals == {NOT_FOUND} else Exit.FAILED)


def spiffe_id(text: str, flag: str) -> spiffeid_pb2.SPIFFEID:
    """A SPIFFE ID given with a flag. Raises typer's usage error naming the flag."""
    try:
        parsed = SpiffeId.parse(text)
    except GatehouseError as error:
        raise typer.BadParameter(str(error), param_hint=flag) from error
    return spiffeid_pb2.SPIFFEID(trust_domain=parsed.trust_domain.name, path=parsed.path)


def trust_domain(text: str, flag: str) -> str:
    """The name of a trust domain given as a name or as `spiffe://name`."""
    try:
        return TrustDomain.parse(text.removeprefix("spiffe://")).name
    except GatehouseError as error:
        raise typer.BadParameter(str(error), param_hint=flag) from error


def selectors(texts: Iterable[str], flag: str = "--selector") -> list[selector_pb2.Selector]:
    """Selectors given as `type:value`."""
    try:
        parsed = [Selector.parse(text) for text in texts]
    except GatehouseError as error:
        raise typer.BadParameter(str(error), param_hint=flag) from error
    return [selector_pb2.Selector(type=each.type, value=each.value) for each in parsed]


def id_text(message: spiffeid_pb2.SPIFFEID) -> str:
    """`spiffe://trust-domain/path` of a wire ID; empty for an empty one."""
    return f"spiffe://{message.trust_domain}{message.path}" if message.trust_domain else ""


def selector_texts(messages: Iterable[selector_pb2.Selector]) -> list[str]:
    """`type:value` of each, sorted."""
    return sorted(f"{each.type}:{each.value}" for each in messages)


def entry_json(entry: entry_pb2.Entry, priority: int) -> dict[str, Any]:
    """A registration entry as commands print it; what is at its default is there too."""
    return {
        "id": entry.id,
        "spiffe_id": id_text(entry.spiffe_id),
        "parent_id": id_text(entry.parent_id),
        "selectors": selector_texts(entry.selectors),
        "x509_svid_ttl_seconds": entry.x509_svid_ttl,
        "jwt_svid_ttl_seconds": entry.jwt_svid_ttl,
        "federates_with": list(entry.federates_with),
        "dns_names": list(entry.dns_names),
        "hint": entry.hint,
        "admin": entry.admin,
        "downstream": entry.downstream,
        "store_svid": entry.store_svid,
        "expires_at": entry.expires_at,
        "priority": priority,
        "created_at": entry.created_at,
        "revision": entry.revision_number,
    }


def agent_json(agent: agent_pb2.Agent) -> dict[str, Any]:
    """An attested agent as commands print it."""
    return {
        "spiffe_id": id_text(agent.id),
        "attestation_type": agent.attestation_type,
        "serial": agent.x509svid_serial_number,
        "expires_at": agent.x509svid_expires_at,
        "selectors": selector_texts(agent.selectors),
        "banned": agent.banned,
        "can_reattest": agent.can_reattest,
        "version": agent.agent_version,
    }
