"""The shapes of answers: what the OpenAPI document says, and what mypy holds the routes to.

Times are in Unix seconds and end in `_at`, except in ledger records and steps, which show the fields of their
kinds. A list has `next_cursor`: None after its last page. Shapes only grow.
"""

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict  # pydantic reads the one of `typing` from Python 3.12 on

Cursor = Annotated[str | None, Field(description="Where the next page begins; null after the last one.")]
Step = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "description": "One step of a version's life, with the fields of its kind.",
            "required": ["step", "at"],
            "properties": {
                "step": {
                    "enum": [
                        *("evaluated", "compiled", "proved", "refused", "planned", "approved", "closed"),
                        *("applied", "recorded"),
                    ]
                },
                "at": {"type": "integer"},
                "by": {"type": "string"},
                "reason": {"type": "string"},
                "digest": {"type": "string", "description": "Of a plan: what an approval agrees to."},
            },
            "additionalProperties": True,
        }
    ),
]
LedgerRecord = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "description": "One record, with the fields of its kind. Bytes are hex, a certificate is base64.",
            "required": ["id", "kind", "issued_at"],
            "properties": {
                "id": {"type": "string", "examples": ["1-42"]},
                "kind": {
                    "enum": [
                        *("x509-intent", "x509", "x509-withheld", "jwt"),
                        *("authority", "authority-mark", "change"),
                    ]
                },
                "issued_at": {"type": "integer"},
            },
            "additionalProperties": True,
        }
    ),
]


class Health(TypedDict):
    """Whether the management process works, and what it knows."""

    status: str
    trust_domain: str
    entries: int
    agents: int
    change_sequence: int
    bundle_sequence: int


class AuthorityQuarantine(TypedDict):
    reason: str
    by: str
    quarantined_at: int
    withheld: Annotated[bool, Field(description="It is out of the bundle: what it signed is refused.")]


class Authority(TypedDict):
    """One signing authority. `agents_without_it`: live agents whose bundle lacks it, while it is prepared."""

    authority_id: str
    status: str
    tainted: bool
    revoked: bool
    not_before: int
    not_after: int
    prepared_at: int
    activated_at: int
    agents_without_it: int | None
    quarantine: AuthorityQuarantine | None


class AuthorityCut(TypedDict):
    kind: str
    authority_id: str
    changed: bool
    quarantine: AuthorityQuarantine | None
    signing_now: str


class Authorities(TypedDict):
    """Those of one kind, the oldest first."""

    kind: str
    bundle_sequence: int
    authorities: list[Authority]
    next_cursor: Cursor


class LedgerPage(TypedDict):
    """The newest first."""

    records: list[LedgerRecord]
    next_cursor: Cursor


class ExplainedEntry(TypedDict):
    """A registration entry, as far as matching goes."""

    entry_id: str
    spiffe_id: str
    parent_id: str
    selectors: list[str]
    hint: str
    priority: int


class MatchingEntry(ExplainedEntry):
    """One that matches. `quarantined` says why it gives no SVID all the same; empty if it does."""

    quarantined: str
    is_default: bool
    x509_svid_ttl_seconds: int
    jwt_svid_ttl_seconds: int


class NearEntry(ExplainedEntry):
    """One that would match if the process had the selectors in `missing`."""

    missing: list[str]


class Explanation(TypedDict):
    """What selectors get, what is near, and what is parented elsewhere."""

    matches: list[MatchingEntry]
    near: list[NearEntry]
    elsewhere: list[ExplainedEntry]


class Version(TypedDict):
    """A version of a policy."""

    version: int
    digest: str
    author: str
    reason: str
    created_at: int
    state: str
    signed_by: str


class VersionWithSteps(Version):
    """A version with all that became of it."""

    steps: list[Step]


class VersionPage(TypedDict):
    """The newest first."""

    versions: list[Version]
    next_cursor: Cursor


class Files(TypedDict):
    """What was pushed."""

    files: dict[str, str]
    inventory: str


class Assignment(TypedDict):
    """One version given to `percent` of the agents."""

    sequence: int
    version: int
    digest: str
    percent: int
    cause: str
    by: str
    reason: str
    assigned_at: int


class AssignmentPage(TypedDict):
    """The newest first."""

    assignments: list[Assignment]
    next_cursor: Cursor


class AssignmentInForce(Assignment):
    """An assignment, with how many live agents it is for."""

    agents: int


class Denials(TypedDict):
    """What the agents of a canary report, and what follows from it."""

    requests: int
    denied: int
    denied_percent: float
    usual_percent: float
    agents_reporting: int
    agents_risen: int
    judged: str


class InForce(TypedDict):
    """What is assigned now. Agents that hear of nothing deny everything."""

    sequence: int
    in_force: AssignmentInForce | None
    canary: AssignmentInForce | None
    denials: Denials | None
    agents: int
    quarantined: int


class PolicyKey(TypedDict):
    """A key that signs policies."""

    key_id: str
    created_at: int


class PolicyKeyPage(TypedDict):
    """The newest last."""

    keys: list[PolicyKey]
    next_cursor: Cursor


class NewPolicyKey(TypedDict):
    """The key that signs from the next assignment on."""

    key_id: str


class Quarantined(TypedDict):
    """One identity that is cut off."""

    spiffe_id: str
    reason: str
    by: str
    quarantined_at: int


class AlertAnswer(TypedDict):
    action: str
    spiffe_id: str
    reason: str
    changed: bool
    seen_before: bool


class QuarantinePage(TypedDict):
    """Everybody who is cut off, by SPIFFE ID; the revision grows with every change."""

    revision: int
    quarantined: list[Quarantined]
    next_cursor: Cursor


class Cut(TypedDict):
    """An identity after a change of its quarantine. `changed`: whether this request did it; `entries`: how
    many registration entries it concerns."""

    spiffe_id: str
    quarantined: bool
    changed: bool
    revision: int
    entries: int
