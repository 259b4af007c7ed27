"""Builds what the life of policies needs in the management process, and the gate before the REST routes."""

import os
from typing import Final

from fastapi.routing import APIRoute

from control_plane.api.opa import OpaBundles
from control_plane.api.rest.evidence import SvidSubjects
from control_plane.api.rest.gate import Gate
from control_plane.api.rest.idempotency import route_class
from control_plane.api.rest.response import Rules
from control_plane.api.rest.roles import Roles
from control_plane.api.rest.subjects import OidcIssuer, Subjects, Webhook, user_name
from control_plane.authority.ports import KeyPurpose, KeyType
from control_plane.core.access import Grant, Role
from control_plane.core.errors import InvalidInput
from control_plane.core.spiffe_id import SpiffeId
from control_plane.identity.index import Effects
from control_plane.identity.ledger import ChangeRecord, LedgerEntry
from control_plane.rollout.canary import CanaryWatch, StoredReports
from control_plane.rollout.compiler import ChildCompiler
from control_plane.rollout.denials import DenialRule
from control_plane.rollout.keys import PolicyKeys
from control_plane.rollout.lifecycle import Rollouts
from control_plane.rollout.ports import RolloutStore
from control_plane.runtime.files import read_text_bounded
from control_plane.runtime.settings import path_of
from control_plane.sql.answer_store import SqlAnswers
from control_plane.wiring.process import MANAGEMENT_JOURNAL, Parts
from control_plane.wiring.vault import keys_in_vault

MAX_REGO_BYTES: Final = 8 << 20  # as much as a policy may be


class LedgerRecorder:
    """Implements `rollout.ports.Recorder` by the journal of this process."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def record(
        self, *, action: str, by: str, resource: str, reason: str, request_id: str, detail: str
    ) -> str:
        """See the port."""
        record = ChangeRecord(self._parts.clock.unix(), action, by, resource, reason, request_id, detail)
        [sequence] = await self._parts.journal.append([record])
        return LedgerEntry(MANAGEMENT_JOURNAL, sequence, record).id


async def policy_keys_of(parts: Parts) -> PolicyKeys:
    """What signs policies; a key is there when this returns, unless Vault has to come back first."""
    settings = parts.settings
    in_vault = keys_in_vault(parts.vault, parts.keys, KeyPurpose.POLICY)
    key_type = KeyType(settings.written.vault.policy_key_type) if in_vault is not None else KeyType.EC_P256
    keys = PolicyKeys(
        in_vault or parts.keys, parts.rollout_store, settings.trust_domain, parts.clock, key_type=key_type
    )
    await keys.open()
    return keys


def rollouts_of(parts: Parts, keys: PolicyKeys, store: RolloutStore) -> Rollouts:
    """The service that carries policies through their lives."""
    compiler = ChildCompiler(parts.settings.trust_domain, parts.clock)
    return Rollouts(store, compiler, keys, LedgerRecorder(parts), parts.clock)


def canary_watch_of(parts: Parts, rollouts: Rollouts) -> CanaryWatch:
    """The service that ends a canary whose denials rise."""
    index, unix, written = parts.replica.index, parts.clock.unix, parts.settings.written.canary

    def live_agents() -> list[SpiffeId]:
        return [agent_id for agent_id, record in index.agents.items() if record.is_live(unix())]

    feed = StoredReports(parts.rollout_store, parts.rollout_store, live_agents)
    rule = DenialRule(written.rise_percent, written.least_requests, written.least_agents)
    return CanaryWatch(rollouts, feed, rule)


def response_rules_of(parts: Parts) -> Rules:
    """What decides on alerts. Raises InvalidInput, Diagnostics for the operator's file."""
    path = parts.settings.written.falco.rego
    try:
        return Rules(read_text_bounded(path_of(path, "falco.rego"), MAX_REGO_BYTES) if path else None)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"settings: falco.rego {path}: {error}") from error


def gate_of(parts: Parts) -> tuple[Gate, type[APIRoute]]:
    """The gate, and the class of routes behind it."""
    settings = parts.settings
    administrators = {f"local:{user_name(uid)}" for uid in (0, os.geteuid())}
    secret_file = settings.written.falco.secret_file
    webhook = Webhook(path_of(secret_file, "falco.secret_file")) if secret_file else None
    sensor = Grant(Webhook.SUBJECT, Role.SENSOR, f"spiffe://{settings.trust_domain}")
    roles = Roles(
        settings.trust_domain,
        [*settings.grants, sensor] if webhook is not None else settings.grants,
        sorted(administrators) if settings.written.roles.local_administrators else [],
    )
    issuers = [
        OidcIssuer(one.name, one.issuer, one.jwks_file, one.audience, one.subject_claim)
        for one in settings.written.oidc
    ]
    svids = SvidSubjects(parts.trust, lambda: parts.replica.index.quarantine, parts.clock.unix)
    gate = Gate(Subjects(issuers, svids, parts.clock.unix, webhook), roles, LedgerRecorder(parts))
    return gate, route_class(gate, SqlAnswers(parts.store.thread), parts.clock.unix)


def opa_bundles_of(parts: Parts, keys: PolicyKeys) -> OpaBundles:
    """What Open Policy Agents are served; it learns of changes from the change log."""
    bundles = OpaBundles(parts.rollout_store, keys, lambda: parts.replica.index.quarantine)

    def note(effects: Effects) -> None:
        if effects.policies or effects.quarantine:
            bundles.changed()

    parts.replica.listen(note)
    return bundles
