"""What a rewrite did and where the result means something else; values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from policies.language.source import Span


class Kind(StrEnum):
    """What became of a reference."""

    SAME = "same"
    DIFFERS = "differs"
    REFUSED = "refused"


class Difference(StrEnum):
    """For which requests a rewritten reference has another value. The value is a stable name."""

    QUERY = "query"
    HOST = "host"
    DECODED = "decoded"
    PSEUDO_HEADERS = "pseudo-headers"
    LABELS = "labels"
    CLAIMS = "claims"

    @property
    def meaning(self) -> str:
        """The difference in one sentence."""
        return _MEANING[self]


_MEANING = {
    Difference.QUERY: "input.request.path has no query: `/a?b=c` is `/a` here",
    Difference.HOST: "input.request.host is in lower case and has no port: `Shop:8080` is `shop` here",
    Difference.DECODED: "input.request.path isn't percent-decoded: `/a%2Fb` is one segment here",
    Difference.PSEUDO_HEADERS: "input.request.headers has no `:method`, `:path`, `:authority`, `:scheme`",
    Difference.LABELS: "labels are facts of the inventory, not of Envoy's configuration",
    Difference.CLAIMS: "input.jwt.claims are those of any token that the mesh validated, of whichever issuer",
}


class Assumption(StrEnum):
    """What has to be true of the Envoy that was asked, for the same to mean the same."""

    NORMALISED = "Envoy normalises paths and merges slashes before it asks (normalize_path, merge_slashes)"
    DIRECT = "Envoy's source address is the direct peer's (no trusted hops in x-forwarded-for)"
    OWN_PORT = "Envoy stands at the workload: the port and address it accepts on are the workload's own"
    URI_NAME = "callers show SVIDs: `principal` is the URI name of the certificate"


@dataclass(frozen=True, slots=True)
class Remark:
    """One reference: where it stood, what it became, and how the two differ."""

    span: Span
    kind: Kind
    was: str
    became: str = ""
    difference: Difference | None = None
    reason: str = ""
    """Why it was refused, and what to do."""

    @property
    def text(self) -> str:
        """What a person has to know."""
        return self.difference.meaning if self.difference is not None else self.reason

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; fields are only added."""
        row, column = self.span.source.position(self.span.start)
        found: dict[str, Any] = {
            "location": {"file": self.span.source.file, "row": row, "col": column},
            "kind": str(self.kind), "was": self.was, "became": self.became,
        }  # fmt: skip
        if self.difference is not None:
            found["difference"] = str(self.difference)
        return found | ({"text": self.text} if self.text else {})


@dataclass(frozen=True, slots=True)
class Rewrite:
    """The rewritten modules by file name, and the report. Nothing is rewritten where a line is refused."""

    modules: Mapping[str, str]
    remarks: tuple[Remark, ...]
    assumptions: tuple[Assumption, ...]

    @property
    def accepted(self) -> bool:
        """Whether every line has a counterpart."""
        return all(remark.kind is not Kind.REFUSED for remark in self.remarks)
