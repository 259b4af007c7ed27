"""Agents that attested before: rows of a running server's registry, with certificates of its authority."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from control_plane.core.entry import Entry
from control_plane.core.errors import GatehouseError
from control_plane.core.secret import Secret
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId, TrustDomain, agent_id, server_id
from control_plane.identity.agent_record import AgentRecord
from control_plane.identity.issuance import X509Issue
from control_plane.runtime.tls import TlsIdentity
from control_plane.settings import load_settings
from control_plane.wiring.process import Parts

ENTRIES_EACH = 3
SPARE_JOURNAL = 900  # an index that no process of the server has; others may follow it
BATCH = 500
GROUP = frozenset({Selector("crowd", "member")})


@dataclass(frozen=True, slots=True)
class Member:
    """One agent: its ID, and the certificate that it got when it attested."""

    id: SpiffeId
    identity: TlsIdentity


class Keys:
    """One key pair for all of them: what is looked at is the server, not how agents make keys."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        empty = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        self.csr = empty.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
        self.pem = Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


async def enrol(
    data_dir: Path,
    trust_domain: TrustDomain,
    count: int,
    keys: Keys,
    *,
    name: str = "",
    journal: int = SPARE_JOURNAL,
    entries: bool = True,
) -> list[Member]:
    """Puts agents, and with `entries` what they may issue, into the registry, through its ports.

    `name` begins the agents' names; whoever calls this at the same time takes a `journal` of its own.
    """
    flags = {"data_dir": str(data_dir), "trust_domain": trust_domain.name, "bind": "127.0.0.1:0"}
    parts = Parts(load_settings(file=None, environment={}, flags=flags), journal)
    await parts.open()
    try:
        if entries:
            rows = [entry.check(trust_domain) for entry in _entries(trust_domain)]
            await parts.store.create_entries(rows, parts.clock.unix())
        members: list[Member] = []
        for start in range(0, count, BATCH):
            numbers = range(start, min(start + BATCH, count))
            ids = [agent_id(trust_domain, "join_token", f"{name}{number}") for number in numbers]
            members += await _attest(parts, ids, keys)
        return members
    finally:
        await parts.close()


def _entries(trust_domain: TrustDomain) -> list[Entry]:
    node = SpiffeId.of(trust_domain, "crowd")
    return [
        Entry(id="", spiffe_id=node, parent_id=server_id(trust_domain), selectors=GROUP),
        *(
            Entry(
                id="",
                spiffe_id=SpiffeId.of(trust_domain, "workload", str(number)),
                parent_id=node,
                selectors=frozenset({Selector("unix", f"uid:{number}")}),
            )
            for number in range(ENTRIES_EACH)
        ),
    ]


async def _attest(parts: Parts, ids: list[SpiffeId], keys: Keys) -> list[Member]:
    """Certificates and records of some agents, as a join token would have made them."""
    issued = await parts.issuer.issue_x509([X509Issue(spiffe_id=one, csr=keys.csr) for one in ids])
    members, records = [], []
    for svid in issued:
        if isinstance(svid, GatehouseError):
            raise svid
        members.append(Member(svid.spiffe_id, TlsIdentity(svid.chain, keys.pem)))
        records.append(
            AgentRecord(
                id=svid.spiffe_id,
                attestation_type="join_token",
                selectors=GROUP,
                serial=svid.serial,
                expires_at=svid.not_after,
                attested_at=parts.clock.unix(),
            )
        )
    await asyncio.gather(*(parts.store.record_attestation(record) for record in records))
    return members
