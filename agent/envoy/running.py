"""Ends what has lost its right: requests that were running when the policy changed are judged again.

Envoy decides on a request once, when it begins; a stream that began under the policy before goes on. So
Envoy reports requests that keep running (its gRPC access log, only the periodic entries), and the agent
judges those that began before what is enforced now came into force. If one of them isn't allowed any more,
its listener is drained: within a second all requests there end, and callers that are still allowed come
again. Only then, as draining costs the others a reconnect.

A report lacks the headers of the request. While the rules for its workload are those that it began under,
headers were judged then; once they are others, a request that they can't be applied to without its headers is
taken for one that lost its right. It may be ended for nothing, once for each change of these rules or of the
agent's life; it is never left running for want of headers.
Records for the audit are not made here.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from envoy.config.core.v3 import base_pb2
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf.message import DecodeError

from agent.attest.sessions import Sessions
from agent.enforcement.ports import Decisions, Enforcement, EnforcementSource, Json
from agent.envoy.authorization import claims_of
from agent.envoy.fleet import Fleet
from agent.envoy.request_input import input_document
from agent.identities import Identities
from control_plane.core.errors import GatehouseError, InvalidInput
from control_plane.core.spiffe_id import SpiffeId
from control_plane.runtime.clock import Clock
from control_plane.runtime.log import get_logger
from control_plane.runtime.transport import Call

SKEW_SECONDS: Final = 1.0  # between a request's start as Envoy has it and the change as the agent has it

_METHODS: Final = base_pb2.RequestMethod
_log = get_logger(__name__)


class UnknownHeaders(Mapping[str, str]):
    """The headers of a reported request: none, and `asked` says whether a rule looked for any."""

    def __init__(self) -> None:
        self.asked = False

    def __getitem__(self, name: str) -> str:
        self.asked = True
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        self.asked = True
        return iter(())

    def __len__(self) -> int:
        self.asked = True
        return 0


@dataclass(frozen=True, slots=True)
class Running:
    """One request that was running when Envoy reported it. `started` is in Unix seconds."""

    destination: SpiffeId
    port: int
    started: float
    document: Json
    headers: UnknownHeaders


class RunningRequests:
    """Implements envoy.service.accesslog.v3.AccessLogService; requests come as bytes (`services`)."""

    def __init__(
        self,
        identities: Identities,
        sessions: Sessions,
        enforcement: EnforcementSource,
        decisions: Decisions,
        fleet: Fleet,
        clock: Clock,
    ) -> None:
        self._identities = identities
        self._sessions = sessions
        self._enforcement = enforcement
        self._decisions = decisions
        self._fleet = fleet
        self._clock = clock
        self._seen: Enforcement | None = None
        self._drained: set[tuple[SpiffeId, int]] = set()

    async def stream_access_logs(self, call: Call, requests: AsyncIterator[Any]) -> AsyncIterator[bytes]:
        """Takes reports for as long as Envoy sends them; there is nothing to answer."""
        session = await self._sessions.of(call.peer)
        async for message in requests:
            own = {entry.spiffe_id for entry in self._identities.match(session.selectors)}
            for one in _read(message.SerializeToString()):
                if one.destination in own:
                    self._judge(one)
        no_answers: tuple[bytes, ...] = ()
        for answer in no_answers:  # makes this an asynchronous generator, as streams are
            yield answer

    def _judge(self, one: Running) -> None:
        current = self._look()
        if not current.settled:
            return  # the agent has just started and doesn't know yet what is enforced
        place = (one.destination, one.port)
        if self._began_after(current.since, one) or place in self._drained:
            return
        ruling = self._decisions.decide(one.destination, one.document)
        if one.headers.asked:
            if self._began_after(current.rules_since.get(one.destination, current.since), one):
                return  # these very rules have seen its headers
        elif ruling.allowed:
            return
        self._drained.add(place)
        told = self._fleet.drain_port(*place)
        _log.info(
            "running_request_cut_off",
            destination=str(one.destination),
            port=one.port,
            reason="the rules have changed and ask for headers" if ruling.allowed else ruling.reason,
            lines=list(ruling.lines),
            envoys=told,
        )

    def _look(self) -> Enforcement:
        """What is enforced; another one than before may drain a place again."""
        current = self._enforcement.current
        if current is not self._seen:
            self._seen = current
            self._drained.clear()
        return current

    def _began_after(self, instant: float, one: Running) -> bool:
        """A request from the future is one from before the clock was set back."""
        return instant + SKEW_SECONDS < one.started <= self._clock.now().timestamp()


def _read(payload: bytes) -> Iterator[Running]:
    """The requests of one message. Raises InvalidInput."""
    try:
        message = als_pb2.StreamAccessLogsMessage.FromString(payload)
    except DecodeError as error:
        raise InvalidInput(
            f"a message of {len(payload)} bytes can't be read as a StreamAccessLogsMessage"
        ) from error
    for entry in message.http_logs.log_entry:
        if entry.common_properties.access_log_type == accesslog_pb2.AccessLogType.DownstreamPeriodic:
            found = _running(entry)
            if found is not None:
                yield found


def _running(entry: Any) -> Running | None:
    """One entry; None if it isn't of a request over mutual TLS."""
    common = entry.common_properties
    tls = common.tls_properties
    peer = [name.uri for name in tls.peer_certificate_properties.subject_alt_name if name.uri]
    local = [name.uri for name in tls.local_certificate_properties.subject_alt_name if name.uri]
    try:
        destination = SpiffeId.parse(local[0] if len(local) == 1 else "")
    except GatehouseError:
        return None
    port = common.downstream_local_address.socket_address.port_value
    try:
        claims = claims_of(common.metadata.filter_metadata)
    except InvalidInput:
        peer, claims = [], None  # nobody's request: what can't be read isn't left running for that
    document = input_document(
        principal=peer[0] if len(peer) == 1 else "",
        address=common.downstream_direct_remote_address.socket_address.address,
        port=port,
        sni=tls.tls_sni_hostname,
        method=_method(entry.request.request_method),
        path=entry.request.path,
        host=entry.request.authority,
        claims=claims,
    )
    headers, request = UnknownHeaders(), document.get("request")
    if isinstance(request, Mapping):
        document = {**document, "request": {**request, "headers": headers}}
    started = common.start_time.seconds + common.start_time.nanos / 1e9
    return Running(destination, port, started, document, headers)


def _method(number: int) -> str:
    """The name of a method; that of none for one that a newer Envoy may know and we don't."""
    known = number in _METHODS.values()
    name: str = _METHODS.Name(number if known else base_pb2.METHOD_UNSPECIFIED)
    return name
