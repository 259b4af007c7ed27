"""May this subject do this? Asked of the Rego in rego/admin, by our own evaluator.

The roles of a subject come from the settings and hold for the life of the process, as the rules do: a
decision follows from its question alone, and one that was made is remembered. Nothing here knows HTTP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from control_plane.core.access import Grant, Role, Subject
from control_plane.core.errors import Bug
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.runtime.packaged import shipped
from policies.language.concrete.evaluate import EvaluationError, Evaluator, Limits
from policies.language.values import FALSE, TRUE, from_python
from policies.project import Project

_ALLOW: Final = ("gatehouse", "admin", "allow")
_REASONS: Final = ("gatehouse", "admin", "reasons")
_LIMITS: Final = Limits(steps=100_000)
MAX_REMEMBERED: Final = 4096


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it is allowed; if not, sentences that say why."""

    allowed: bool
    reasons: tuple[str, ...] = ()


class Roles:
    """Decides by grants and by the packaged Rego."""

    def __init__(
        self, trust_domain: TrustDomain, grants: Sequence[Grant], local_administrators: Sequence[str]
    ) -> None:
        """`local_administrators` are subjects that have every role on the whole trust domain."""
        everywhere = f"spiffe://{trust_domain}"
        self._grants = (
            *grants,
            *(Grant(subject, role, everywhere) for subject in local_administrators for role in Role),
        )
        files = {name: text for name, text in shipped("admin").items() if not name.endswith("_test.rego")}
        self._evaluator = Evaluator(Project.of(files).compiled(), limits=_LIMITS)
        self._data = from_python({"inventory": {"trust_domain": trust_domain.name}})
        self._decide = lru_cache(MAX_REMEMBERED)(self._decided)

    def of(self, subject: Subject) -> list[Grant]:
        """The grants of a subject."""
        return [grant for grant in self._grants if grant.subject == subject.id]

    def decide(
        self,
        subject: Subject,
        action: str,
        *,
        spiffe_id: SpiffeId | None = None,
        author: str | None = None,
        break_glass: bool = False,
    ) -> Verdict:
        """One decision. `spiffe_id` is what is touched (None: the whole trust domain), `author` who wrote
        the change that is decided on. `break_glass`: this subject is root on this machine and says so."""
        return self._decide(subject, action, spiffe_id, author, break_glass)

    def _decided(
        self, subject: Subject, action: str, spiffe_id: SpiffeId | None, author: str | None, break_glass: bool
    ) -> Verdict:
        question: dict[str, object] = {
            "subject": {
                "id": subject.id,
                "kind": str(subject.kind),
                "grants": [{"role": str(one.role), "scope": one.scope} for one in self.of(subject)],
                **({"uid": subject.uid} if break_glass else {}),
            },
            "action": action,
            "resource": {} if spiffe_id is None else {"spiffe_id": str(spiffe_id)},
            "change": {} if author is None else {"author": author},
        }
        document = from_python(question)
        try:
            allowed = self._evaluator.document(_ALLOW, input_document=document, data=self._data)
            if allowed == TRUE:
                return Verdict(True)
            if allowed != FALSE:
                raise Bug(f"deciding {action} for {subject}: the rules gave neither true nor false")
            reasons = self._evaluator.document(_REASONS, input_document=document, data=self._data)
        except EvaluationError as error:
            raise Bug(f"deciding {action} for {subject}: the rules can't be evaluated ({error})") from error
        return Verdict(False, tuple(sorted(str(one) for one in reasons)))  # type: ignore[union-attr]
