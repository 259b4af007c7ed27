"""An alert of Falco's as a value, and whom it can be about.

The form is Falco's JSON output (falco.org, "Alert formatting"). An alert names processes, users and pods, not
identities: they are found as an agent finds them, by entries of which every selector agrees with what the
alert says. What it doesn't say agrees with nothing, so that an entry with one selector too many is left out.
Nothing is decided here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from control_plane.core.entry import Entry
from control_plane.core.errors import InvalidInput, shown

MAX_CANDIDATES: Final = 100

_SELECTORS: Final[Mapping[str, str]] = {
    "proc.exepath": "unix:path",
    "user.uid": "unix:uid",
    "user.name": "unix:user",
    "group.gid": "unix:gid",
    "group.name": "unix:group",
    "k8s.ns.name": "k8s:ns",
    "k8s.pod.name": "k8s:pod-name",
    "k8s.pod.uid": "k8s:pod-uid",
    "k8s.sa.name": "k8s:sa",
    "container.name": "k8s:container-name",
    "container.image": "k8s:container-image",
    "container.id": "docker:container-id",
}
"""Falco's fields as the selectors that SPIRE's attestors give."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. `at` is in Unix seconds; `fields` are Falco's output fields."""

    rule: str
    priority: str
    at: int
    source: str = ""
    hostname: str = ""
    output: str = field(default="", repr=False)
    tags: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Alert":
        """Reads what Falco sent, types already checked. Raises InvalidInput for a time that is none."""
        text = str(document["time"])
        try:
            # Nine digits of a second and a Z: only the first six are of use.
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise InvalidInput(
                f"alert of Falco: time is {shown(text)}, expected ISO 8601",
                hint="in falco.yaml: time_format_iso_8601 is for lines, JSON has it always",
            ) from error
        if moment.tzinfo is None:
            raise InvalidInput(f"alert of Falco: time is {shown(text)}, expected a time zone too")
        return cls(
            rule=str(document["rule"]),
            priority=str(document["priority"]),
            at=int(moment.timestamp()),
            source=str(document.get("source") or ""),
            hostname=str(document.get("hostname") or ""),
            output=str(document.get("output") or ""),
            tags=tuple(map(str, document.get("tags") or ())),
            fields=dict(document.get("output_fields") or {}),
        )

    @property
    def selectors(self) -> frozenset[str]:
        """What the alert says of the process, as selectors."""
        return frozenset(
            f"{kind}:{value}"
            for name, kind in _SELECTORS.items()
            if isinstance(value := self.fields.get(name), str | int) and value not in ("", "<NA>")
        )


def candidates(alert: Alert, entries: Iterable[Entry]) -> list[Entry]:
    """The entries that the alert can be about, at most `MAX_CANDIDATES`."""
    said, found = alert.selectors, []
    for entry in entries:
        if entry.selectors and all(str(selector) in said for selector in entry.selectors):
            found.append(entry)
            if len(found) >= MAX_CANDIDATES:
                break
    return found
