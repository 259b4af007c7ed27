"""`/v1/events`: what happens, as server-sent events (WHATWG HTML, section 9.2), for as long as one listens.

The stream begins with `hello`, has a comment every fifteen seconds, and ends with `bye`: when the server
stops, the caller would no longer be let in (it is asked again every five seconds), or the time is over that
was asked for. `missed` says that events were lost. A listener sees only what its roles let it read.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Final

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.types import Receive, Scope, Send

from control_plane.api.rest.events import OF_IDENTITIES, TOPICS, Event, Events, Place
from control_plane.api.rest.gate import Gate, Passage, Passing
from control_plane.core.errors import InvalidInput, ResourceExhausted

HEARTBEAT_SECONDS: Final = 15.0
JUDGED_SECONDS: Final = 5.0
GATHER_SECONDS: Final = 0.05
"""What happens within this time is one write: a storm of events costs a listener twenty turns a second."""
RETRY_MILLISECONDS: Final = 2000
MAX_SECONDS: Final = 24 * 3600
MEDIA_TYPE: Final = "text/event-stream"
EXAMPLE: Final = (
    'id: 5f0c1d2e-7\nevent: quarantine.set\ndata: {"at": 1764000000, "spiffe_id": '
    '"spiffe://example.org/ns/shop/sa/web", "reason": "odd calls", "by": "login:olga"}\n\n'
)


def router(events: Events, gate: Gate, *, max_listeners: int) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["events"])

    @routes.get(
        "/v1/events",
        response_class=Response,
        responses={200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}, "example": EXAMPLE}}}},
    )
    async def listen(
        request: Request,
        passage: Passing,
        topic: Annotated[
            list[str] | None,
            Query(max_length=len(TOPICS), description=f"Of {', '.join(TOPICS)}; all where none is named."),
        ] = None,
        for_seconds: Annotated[
            float, Query(ge=0, le=MAX_SECONDS, description="How long to listen.")
        ] = MAX_SECONDS,
        last_event_id: Annotated[
            str, Header(max_length=64, description="The `id` of the last event that was seen.")
        ] = "",
    ) -> Response:
        """Follows what happens: policy versions and assignments, quarantines, agents, authorities."""
        sees = _sight(passage, topic or list(TOPICS))
        if events.listeners >= max_listeners:
            raise ResourceExhausted(
                f"following events: {events.listeners} listen already",
                hint="close one, or raise api.listeners in the server's settings",
                retry_after_seconds=RETRY_MILLISECONDS / 1000,
            )
        return EventStream(
            events, events.place(last_event_id), sees, lambda: gate.still(request), for_seconds
        )

    return routes


class EventStream(Response):
    """The answer that goes on. `sees` says which events are for the caller, `still` whether it may listen."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        events: Events,
        place: Place,
        sees: Callable[[Event], bool],
        still: Callable[[], bool],
        for_seconds: float,
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._place = place
        self._sees = sees
        self._still = still
        self._for_seconds = for_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends until one of the two is gone."""
        self._events.listeners += 1
        telling, gone = asyncio.ensure_future(self._tell(send)), asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({telling, gone}, return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                telling.result()
        finally:
            self._events.listeners -= 1
            for each in (telling, gone):
                each.cancel()
            await asyncio.gather(telling, gone, return_exceptions=True)

    async def _tell(self, send: Send) -> None:
        async def say(text: str, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

        clock, events = asyncio.get_running_loop(), self._events
        end = clock.time() + self._for_seconds
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await say(f"retry: {RETRY_MILLISECONDS}\n{self._written('hello', {}, self._place.next_number - 1)}")
        judged = spoke = clock.time()
        while True:
            news, now = self._news(), clock.time()
            if news or now - spoke >= HEARTBEAT_SECONDS:
                await say(news or ": still here\n\n")
                spoke = now
            if now - judged >= JUDGED_SECONDS:
                if not self._still():
                    why = "the credentials don't hold any more"
                    break
                judged = now
            if events.closing or now >= end:
                why = "the server stops" if events.closing else "the time is over"
                break
            await asyncio.sleep(min(GATHER_SECONDS, end - now))
            await events.wait(self._place, max(0.0, min(JUDGED_SECONDS, end - clock.time())))
        await say(self._written("bye", {"reason": why}, self._place.next_number - 1), more=False)

    def _news(self) -> str:
        found, place = self._events.take(self._place), self._place
        pieces = []
        if place.missed:
            first = found[0].number - 1 if found else place.next_number - 1
            pieces.append(self._written("missed", {"at_least": place.missed, "read": _STATE}, first))
            place.missed = 0
        for event in found:
            if self._sees(event):
                whom = {} if event.spiffe_id is None else {"spiffe_id": str(event.spiffe_id)}
                pieces.append(self._written(event.kind, {"at": event.at, **whom, **event.data}, event.number))
        return "".join(pieces)

    def _written(self, kind: str, data: Mapping[str, object], number: int) -> str:
        return f"id: {self._events.id_of(number)}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"


_STATE: Final = ("/v1/policy/status", "/v1/policy/versions", "/v1/quarantine")


def _sight(passage: Passage, topics: list[str]) -> Callable[[Event], bool]:
    """Which events of these topics the caller may see. Raises InvalidInput, and PermissionDenied for a caller
    that could never see one."""
    for topic in topics:
        if topic not in TOPICS:
            raise InvalidInput(f"topic: is none that there is; expected of {', '.join(TOPICS)}")
    everywhere = {topic for topic in topics if passage.may(TOPICS[topic])}
    parts = OF_IDENTITIES.intersection(topics) - everywhere
    somewhere = {topic for topic in parts if passage.may_somewhere(TOPICS[topic])}
    if not everywhere and not somewhere:
        passage.enter()

    def sees(event: Event) -> bool:
        if event.topic in everywhere:
            return True
        if event.topic not in somewhere or event.spiffe_id is None:
            return False
        return passage.may(TOPICS[event.topic], event.spiffe_id)

    return sees


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
