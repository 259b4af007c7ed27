"""`/v1/explain`: which entries would match a process, and which miss by one selector."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from control_plane.api.context import ServerContext
from control_plane.api.rest.answers import ExplainedEntry, Explanation
from control_plane.api.rest.body import Body
from control_plane.core.entry import Entry
from control_plane.core.errors import NotFound
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId
from control_plane.identity.explain import explain


class Question(Body):
    """Selectors of a process, and where to look: one agent, one parent, or everywhere."""

    selectors: list[Annotated[str, Field(max_length=4096)]] = Field(
        max_length=1000, examples=[["unix:uid:1000", "unix:path:/usr/bin/cart"]]
    )
    agent_id: str | None = Field(None, max_length=2048)
    parent_id: str | None = Field(None, max_length=2048)


def router(context: ServerContext) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["explain"])

    @routes.post("/v1/explain")
    async def answer(question: Question) -> Explanation:
        """What these selectors would get, and why not more."""
        found = explain(
            frozenset(Selector.parse(text) for text in question.selectors),
            _scope(context, question),
            context.replica.index.entries_after(""),
            now=context.clock.unix(),
            x509_ttl_seconds=context.ttls.x509_svid,
            jwt_ttl_seconds=context.ttls.jwt_svid,
        )
        return {
            "matches": [
                {
                    **_entry(match.entry),
                    "quarantined": _quarantined(context, match.entry),
                    "is_default": match.is_default,
                    "x509_svid_ttl_seconds": match.x509_svid_ttl_seconds,
                    "jwt_svid_ttl_seconds": match.jwt_svid_ttl_seconds,
                }
                for match in found.matches
            ],
            "near": [{**_entry(near.entry), "missing": [str(near.missing)]} for near in found.near],
            "elsewhere": [_entry(entry) for entry in found.elsewhere],
        }

    return routes


def _scope(context: ServerContext, question: Question) -> list[Entry]:
    index = context.replica.index
    if question.agent_id:
        agent_id = SpiffeId.parse(question.agent_id)
        if agent_id not in index.agents:
            raise NotFound(
                f"agent {agent_id} isn't attested", hint="gatehouse agent list shows those that are"
            )
        return list(index.authorized_entries(agent_id).ordered)
    if question.parent_id:
        return index.children_of(SpiffeId.parse(question.parent_id))
    return list(index.entries_after(""))


def _quarantined(context: ServerContext, entry: Entry) -> str:
    """Why this identity gets no SVID although the entry matches; empty if it does."""
    found = context.replica.index.quarantine.members.get(entry.spiffe_id)
    return "" if found is None else found.reason


def _entry(entry: Entry) -> ExplainedEntry:
    return {
        "entry_id": entry.id,
        "spiffe_id": str(entry.spiffe_id),
        "parent_id": str(entry.parent_id),
        "selectors": sorted(str(selector) for selector in entry.selectors),
        "hint": entry.hint,
        "priority": entry.priority,
    }
