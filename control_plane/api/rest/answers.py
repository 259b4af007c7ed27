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
    kind: str
    bundle_sequence: int
    authorities: list[Authority]


class LedgerPage(TypedDict):
    records: list[LedgerRecord]
    next_cursor: Cursor


class ExplainedEntry(TypedDict):
    entry_id: str
    spiffe_id: str
    parent_id: str
    selectors: list[str]
    hint: str
    priority: int


class MatchingEntry(ExplainedEntry):
    quarantined: str
    is_default: bool
    x509_svid_ttl_seconds: int
    jwt_svid_ttl_seconds: int


class NearEntry(ExplainedEntry):
    missing: list[str]


class Explanation(TypedDict):
    matches: list[MatchingEntry]
    near: list[NearEntry]
    elsewhere: list[ExplainedEntry]


class Version(TypedDict):
    version: int
    digest: str
    author: str
    reason: str
    created_at: int
    state: str
    signed_by: str


class VersionWithSteps(Version):
    steps: list[Step]


class VersionPage(TypedDict):
    versions: list[Version]
    next_cursor: Cursor


class Files(TypedDict):
    files: dict[str, str]
    inventory: str


class Assignment(TypedDict):
    sequence: int
    version: int
    digest: str
    percent: int
    cause: str
    by: str
    reason: str
    assigned_at: int


class AssignmentPage(TypedDict):
    assignments: list[Assignment]
    next_cursor: Cursor


class AssignmentInForce(Assignment):
    agents: int


class Denials(TypedDict):
    requests: int
    denied: int
    denied_percent: float
    usual_percent: float
    agents_reporting: int
    agents_risen: int
    judged: str


class InForce(TypedDict):
    sequence: int
    in_force: AssignmentInForce | None
    canary: AssignmentInForce | None
    denials: Denials | None
    agents: int
    quarantined: int


class PolicyKey(TypedDict):
    key_id: str
    created_at: int


class PolicyKeyPage(TypedDict):
    keys: list[PolicyKey]
    next_cursor: Cursor


class NewPolicyKey(TypedDict):
    key_id: str


class Quarantined(TypedDict):
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
    revision: int
    quarantined: list[Quarantined]
    next_cursor: Cursor


class Cut(TypedDict):
    spiffe_id: str
    quarantined: bool
    changed: bool
    revision: int
    entries: int
