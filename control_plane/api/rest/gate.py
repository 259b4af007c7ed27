"""What stands before every route: who calls, may they, and what the ledger says of it.

One table names the action of each route; a route that isn't in it answers nobody. Routes that touch one
identity, or that decide on somebody's change, say so when they know it (`Passage.enter`); every change is in
the ledger before it is made, with who, why and the request's ID.
"""

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from fastapi import Depends, Request

from control_plane.api.rest.roles import Roles
from control_plane.api.rest.subjects import Subjects
from control_plane.core.access import Subject, SubjectKind
from control_plane.core.errors import Bug, InvalidInput, PermissionDenied, Unauthenticated
from control_plane.core.spiffe_id import SpiffeId
from control_plane.rollout.ports import Recorder
from control_plane.rollout.version import checked_reason
from control_plane.runtime.log import get_logger

REQUEST_ID: Final = "x-request-id"
BREAK_GLASS: Final = "gatehouse-break-glass"
REASON: Final = "gatehouse-reason"

_log = get_logger("rest")


@dataclass(frozen=True, slots=True)
class Rule:
    """What a route does. `late`: the route itself calls `enter`, once it knows what is touched."""

    action: str
    late: bool = False


def _rules(action: str, *routes: str, late: bool = False) -> dict[tuple[str, str], Rule]:
    found = (route.split(" ") for route in routes)
    return {(method, path): Rule(action, late) for method, path in found}


RULES: Final[Mapping[tuple[str, str], Rule]] = {
    **_rules("status.read", "GET /v1/health", "GET /v1/policy/status", "GET /v1/quarantine"),
    **_rules("status.read", "GET /v1/events", late=True),
    **_rules("authority.read", "GET /v1/authority", "GET /v1/authority/{kind}"),
    **_rules(
        "authority.rotate",
        "POST /v1/authority/{kind}/prepare",
        "POST /v1/authority/{kind}/activate",
        "POST /v1/authority/{kind}/taint",
        "POST /v1/authority/{kind}/revoke",
        "POST /v1/policy/keys",
    ),
    **_rules("ledger.read", "GET /v1/ledger", "GET /v1/ledger/{record_id}"),
    **_rules("explain", "POST /v1/explain"),
    **_rules(
        "policy.read",
        "GET /v1/policy/versions",
        "GET /v1/policy/versions/{number}",
        "GET /v1/policy/versions/{number}/files",
        "GET /v1/policy/assignments",
        "GET /v1/policy/keys",
        "GET /v1/opa/bundle",
        "GET /v1/opa/keys",
    ),
    **_rules("policy.propose", "POST /v1/policy/versions"),
    **_rules("policy.plan", "POST /v1/policy/versions/{number}/plan"),
    **_rules("policy.approve", "POST /v1/policy/versions/{number}/approve", late=True),
    **_rules("policy.reject", "POST /v1/policy/versions/{number}/reject", late=True),
    **_rules("policy.withdraw", "POST /v1/policy/versions/{number}/withdraw", late=True),
    **_rules("policy.apply", "POST /v1/policy/versions/{number}/apply"),
    **_rules("policy.rollback", "POST /v1/policy/rollback"),
    **_rules("quarantine.set", "POST /v1/authority/{kind}/quarantine"),
    **_rules("quarantine.release", "POST /v1/authority/{kind}/release"),
    **_rules("alert.report", "POST /v1/alerts/falco"),
    **_rules("quarantine.set", "POST /v1/quarantine", late=True),
    **_rules("quarantine.release", "POST /v1/quarantine/release", late=True),
}
"""(method, path) → rule."""
_PATTERNS: Final = tuple(
    (re.compile(re.sub(r"\\{[a-z_]+\\}", "[^/]+", re.escape(path))), method) for method, path in RULES
)


@dataclass(frozen=True, slots=True)
class ChangeHeader:
    """A header that every change takes."""

    name: str
    max_characters: int
    about: str


HEADERS: Final = (
    ChangeHeader(
        "idempotency-key", 128, "A change asked for again under its key is answered again, not made again."
    ),
    ChangeHeader("if-match", 1000, "Make the change only if the resource is in this state."),
    ChangeHeader(REASON, 1000, "Why, where the body doesn't say it. It goes into the ledger."),
    ChangeHeader(
        BREAK_GLASS, 1, "`1`: root on the server's machine does what its roles don't permit. It is recorded."
    ),
)


_ROLES: Final = "roles are granted by [roles] in the server's settings"
_ANOTHER: Final = (
    "have somebody else decide, with their --token-file or as another user; where nobody else can, root on "
    "the server's machine may with --break-glass, which is recorded"
)


@dataclass(slots=True)
class Passage:
    """One request on its way through the gate."""

    subject: Subject
    rule: Rule
    request_id: str
    reason: str
    break_glass: bool
    _roles: Roles = field(repr=False)
    _recorder: Recorder = field(repr=False)
    _entered: bool = False

    def enter(self, *, spiffe_id: SpiffeId | None = None, author: str | None = None) -> None:
        """Returns if the subject may do this. Raises PermissionDenied with the reasons."""
        verdict = self._roles.decide(
            self.subject, self.rule.action, spiffe_id=spiffe_id, author=author, break_glass=self.break_glass
        )
        if not verdict.allowed:
            _log.warning("refused", action=self.rule.action, by=self.subject.id, request_id=self.request_id)
            raise PermissionDenied(
                f"{self.rule.action}: " + ("; ".join(verdict.reasons) or f"{self.subject} may not"),
                hint=_ANOTHER if verdict.reasons and author == self.subject.id else _ROLES,
            )
        self._entered = True

    def may(self, action: str, spiffe_id: SpiffeId | None = None) -> bool:
        """Whether the subject may do this, for what a route shows to some and not to others."""
        decide = self._roles.decide
        return decide(self.subject, action, spiffe_id=spiffe_id, break_glass=self.break_glass).allowed

    def may_somewhere(self, action: str) -> bool:
        """Whether there is a scope in which the subject may do this."""
        scopes = {SpiffeId.parse(grant.scope) for grant in self._roles.of(self.subject)}
        return any(self.may(action, scope if scope.has_path else None) for scope in scopes)

    async def changing(
        self, resource: str, reason: str = "", *, detail: Mapping[str, object] | None = None
    ) -> None:
        """Puts the change that is about to be made into the ledger; made it may be when this returns. Why it
        is made says `reason`, or else the header. Raises InvalidInput where neither does."""
        if not self._entered:
            raise Bug(f"{self.rule.action} on {resource}: was not let through the gate")
        why = checked_reason(reason or self.reason)
        await self._recorder.record(
            action=self.rule.action,
            by=self.subject.id,
            resource=resource,
            reason=why,
            request_id=self.request_id,
            detail=json.dumps({**(detail or {}), **({"break_glass": True} if self.break_glass else {})}),
        )
        _log.info(
            "change", action=self.rule.action, by=self.subject.id, on=resource, request_id=self.request_id
        )
        if self.break_glass:
            # Loud, so that nobody gets used to it.
            _log.error("glass_broken", action=self.rule.action, by=self.subject.id, on=resource)


class Gate:
    """The dependency of every route; keeps the passage in the request's state."""

    def __init__(self, subjects: Subjects, roles: Roles, recorder: Recorder) -> None:
        self._subjects = subjects
        self._roles = roles
        self._recorder = recorder

    async def __call__(self, request: Request) -> None:
        """Lets the request in. Raises Unauthenticated, PermissionDenied."""
        rule = RULES.get((request.method, request.scope["route"].path))
        if rule is None:
            raise PermissionDenied(f"{request.method} {request.url.path}: isn't served here")
        subject = self.subject_of(request)
        check_headers(request)
        wished = BREAK_GLASS in request.headers
        if wished and not _can_break_glass(subject):
            raise PermissionDenied(
                f"{rule.action}: only root on this machine can break the glass, not {subject}"
            )
        passage = Passage(
            subject, rule, request_id_of(request), request.headers.get(REASON, ""), wished, self._roles,
            self._recorder,
        )  # fmt: skip
        if not rule.late:
            passage.enter()
        request.state.passage = passage

    def subject_of(self, request: Request) -> Subject:
        """Who calls; found out once a request. Raises Unauthenticated, PermissionDenied."""
        known = getattr(request.state, "subject", None)
        if not isinstance(known, Subject):
            known = request.state.subject = self._subjects.of(request)
        return known

    def still(self, request: Request) -> bool:
        """Whether the caller of a request that goes on for long would be let in again now."""
        try:
            return self._subjects.of(request).id == self.subject_of(request).id
        except (Unauthenticated, PermissionDenied):
            return False

    def may(self, request: Request, action: str) -> bool:
        """Whether the caller may do this to the whole trust domain; for what is decided before a route is."""
        subject = self.subject_of(request)
        glass = BREAK_GLASS in request.headers and _can_break_glass(subject)
        return self._roles.decide(subject, action, break_glass=glass).allowed


def methods_of(path: str) -> list[str]:
    """The methods that a path is served by, sorted."""
    return sorted(method for pattern, method in _PATTERNS if pattern.fullmatch(path))


def is_change(method: str, path: str) -> bool:
    """Whether a route changes something."""
    rule = RULES.get((method, path))
    return rule is not None and rule.action != "explain" and not rule.action.endswith(".read")


def check_headers(request: Request) -> None:
    """Raises InvalidInput for a header of ours that is too long, or says what it can't."""
    for header in HEADERS:
        value = request.headers.get(header.name)
        if value is not None and len(value) > header.max_characters:
            raise InvalidInput(
                f"{header.name}: {len(value)} characters came, at most {header.max_characters} are taken"
            )
    if request.headers.get(BREAK_GLASS, "1") != "1":
        raise InvalidInput(f"{BREAK_GLASS}: expected 1, or no such header")


def _can_break_glass(subject: Subject) -> bool:
    return subject.kind is SubjectKind.LOCAL and subject.uid == 0


def request_id_of(request: Request) -> str:
    """The caller's own ID of the request, if it is a decent one, else a new one."""
    known = getattr(request.state, "request_id", None)
    if not isinstance(known, str):
        given = request.headers.get(REQUEST_ID, "")
        decent = given.isascii() and 8 <= len(given) <= 64 and given.replace("-", "").isalnum()
        known = request.state.request_id = given if decent else secrets.token_hex(8)
    return known


async def passage_of(request: Request) -> Passage:
    """The passage that the gate made."""  # async, for FastAPI takes others to a thread
    found = request.state.passage
    assert isinstance(found, Passage)
    return found


Passing = Annotated[Passage, Depends(passage_of)]
