"""`/v1/alerts/falco`: takes Falco's alerts, and cuts off whom the rules say (`response`).

An alert is answered once: the same again, by its digest, gets the answer that was given before, and one that
is older than an hour is refused, so that an alert that comes late or is sent again doesn't cut off whom
people have let in since. No more identities than the settings say are cut off in a minute: more at once is
an attack on us or a rule gone wrong, and a person has to look. What is done is in the ledger before it is
done.
"""

import asyncio
import hashlib
import json
from typing import Annotated, Any, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from control_plane.api.rest.answers import AlertAnswer
from control_plane.api.rest.context import RestContext
from control_plane.api.rest.gate import Passage, Passing
from control_plane.core.errors import InvalidInput, ResourceExhausted
from control_plane.core.spiffe_id import SpiffeId, is_agent_id
from control_plane.identity.alert import Alert, candidates
from control_plane.identity.quarantine import Quarantined
from control_plane.runtime import tracing
from control_plane.runtime.answers import Answer
from control_plane.runtime.log import get_logger

MAX_ALERT_BYTES: Final = 64 << 10
MAX_AGE_SECONDS: Final = 3600
PER_SECONDS: Final = 60
BY: Final = "falco"

Text = Annotated[str, Field(max_length=8192)]
_log = get_logger("falco")


class FalcoAlert(BaseModel):
    """An alert, as Falco writes it with `json_output: true`; fields that it gains are taken too."""

    model_config = ConfigDict(extra="allow")

    rule: Text = Field(min_length=1, examples=["Terminal shell in container"])
    priority: Text = Field(min_length=1, examples=["Critical"])
    time: Text = Field(examples=["2026-01-30T10:20:05.408091526Z"])
    output: Text = ""
    source: Text = ""
    hostname: Text = ""
    tags: Annotated[list[Text], Field(max_length=100)] | None = None
    output_fields: Annotated[dict[str, Any], Field(max_length=200)] | None = None


def router(context: RestContext) -> APIRouter:
    """The route."""
    server, rules = context.server, context.rules
    routes = APIRouter(prefix="/v1/alerts", tags=["quarantine"], route_class=context.route_class)
    turn = asyncio.Lock()  # one alert at a time, so that none is answered twice and the limit holds

    @routes.post("/falco")
    async def falco(body: FalcoAlert, request: Request, passage: Passing) -> AlertAnswer:
        """Decides one alert: nothing follows, or an identity is cut off. The same again changes nothing."""
        raw = await request.body()
        if len(raw) > MAX_ALERT_BYTES:
            raise InvalidInput(f"alert of Falco: {len(raw)} bytes, at most {MAX_ALERT_BYTES} are read")
        alert = Alert.of(body.model_dump())
        age = server.clock.unix() - alert.at
        if abs(age) > MAX_AGE_SECONDS:
            raise InvalidInput(
                f"alert of Falco: it is {age} s old, at most {MAX_AGE_SECONDS} s are allowed",
                hint="look at the clocks; what is old is for people to judge",
            )
        digest = hashlib.sha256(raw).hexdigest()
        async with turn:
            known = await context.answers.find(BY, digest)
            if known is not None:
                answered: AlertAnswer = json.loads(known.body)
                return {**answered, "seen_before": True}
            answer = await _decided(alert, digest, passage)
            kept = Answer(digest, 200, json.dumps(answer))
            await context.answers.keep(BY, digest, kept, server.clock.unix())
        return answer

    async def _decided(alert: Alert, digest: str, passage: Passage) -> AlertAnswer:
        index = server.replica.index
        suspects = candidates(alert, index.entries_after(""))
        response = await asyncio.to_thread(rules.decide, alert, suspects)
        answer: AlertAnswer = {
            "action": "quarantine" if response.spiffe_id else "ignore",
            "spiffe_id": response.spiffe_id,
            "reason": response.reason,
            "changed": False,
            "seen_before": False,
        }
        if not response.spiffe_id:
            _log.info("alert_ignored", rule=alert.rule, priority=alert.priority, reason=response.reason)
            return answer
        spiffe_id = _ours(response.spiffe_id)
        if spiffe_id in index.quarantine:
            return answer
        _check_rate(alert)
        reason = response.reason or f"Falco: {alert.rule}"
        detail = {
            "alert_sha256": digest,
            "rule": alert.rule[:200],
            "priority": alert.priority[:40],
            "hostname": alert.hostname[:200],
        }
        await passage.changing(str(spiffe_id), reason, detail=detail)
        member = Quarantined(spiffe_id, reason, f"{BY} ({passage.subject.id})", server.clock.unix())
        answer["changed"] = await server.store.quarantine(member, tracing.outgoing() or "")
        await server.replica.refresh()
        _log.warning("alert_cut_off", spiffe_id=str(spiffe_id), rule=alert.rule, priority=alert.priority)
        return answer

    def _ours(text: str) -> SpiffeId:
        """An identity or an agent that we gave. Raises InvalidInput: the rules may be anything."""
        spiffe_id = SpiffeId.parse(text)
        index = server.replica.index
        known = spiffe_id in index.agents if is_agent_id(spiffe_id) else bool(index.entries_of(spiffe_id))
        if spiffe_id.trust_domain != server.trust_domain or not known:
            raise InvalidInput(
                f"alert of Falco: the rules name {spiffe_id}, which is neither registered nor an agent",
                hint="they may choose among input.candidates",
            )
        return spiffe_id

    def _check_rate(alert: Alert) -> None:
        since = server.clock.unix() - PER_SECONDS
        members = server.replica.index.quarantine.members.values()
        recent = sum(one.at > since and one.by.startswith(f"{BY} (") for one in members)
        if recent >= context.falco_per_minute:
            _log.error("alerts_limited", rule=alert.rule, cut_off=recent, seconds=PER_SECONDS)
            raise ResourceExhausted(
                f"alert of Falco: {recent} identities were cut off by alerts within a minute, no more are",
                hint="a person has to look: gatehouse quarantine list",
                retry_after_seconds=PER_SECONDS,
            )

    return routes
