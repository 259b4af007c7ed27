"""The filters of ListAgents and CountAgents, as one condition."""

from collections.abc import Callable
from datetime import datetime

from control_plane.core.errors import InvalidInput, shown
from control_plane.identity.agent_record import AgentRecord
from control_plane.identity.matching import SetMatch, matches
from control_plane.proto.convert import selectors_from_messages
from control_plane.proto.spire.api.server.agent.v1 import agent_pb2 as wire

AgentFilter = Callable[[AgentRecord], bool]


def agent_filter(message: wire.ListAgentsRequest.Filter | wire.CountAgentsRequest.Filter) -> AgentFilter:
    """All given conditions together. Raises InvalidInput for one that can't be read."""
    conditions: list[AgentFilter] = []
    if message.by_attestation_type:
        conditions.append(lambda agent: agent.attestation_type == message.by_attestation_type)
    if message.HasField("by_selector_match"):
        selectors = selectors_from_messages(message.by_selector_match.selectors)
        if not selectors:
            raise InvalidInput("by_selector_match: holds no selector")
        behaviour = SetMatch.parse(message.by_selector_match.match, what="by_selector_match")
        conditions.append(lambda agent: matches(agent.selectors, selectors, behaviour))
    if message.HasField("by_banned"):
        conditions.append(lambda agent: agent.banned == message.by_banned.value)
    if message.HasField("by_can_reattest"):
        conditions.append(lambda agent: agent.can_reattest == message.by_can_reattest.value)
    if message.by_expires_before:
        limit = _unix_time(message.by_expires_before)
        conditions.append(lambda agent: agent.expires_at < limit)
    return lambda agent: all(condition(agent) for condition in conditions)


def _unix_time(text: str) -> float:
    """A time in SPIRE's form, Go's default text of a time, or RFC 3339. Raises InvalidInput."""
    if len(text) <= 64:
        for pattern in ("%Y-%m-%d %H:%M:%S %z %Z", "%Y-%m-%d %H:%M:%S %z"):
            try:
                return datetime.strptime(text, pattern).astimezone().timestamp()
            except ValueError:
                continue
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = None
        if moment is not None and moment.tzinfo is not None:
            return moment.timestamp()
    raise InvalidInput(f"by_expires_before: {shown(text)} isn't a time such as 2027-01-02 03:04:05 +0000 UTC")
