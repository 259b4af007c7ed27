"""What follows from an alert: asked of Rego, ours in rego/response or the operator's own.

Rego decides, and nothing it says is taken on trust: an action that isn't one is a fault of the rules.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from control_plane.core.entry import Entry
from control_plane.core.errors import Bug, FailedPrecondition, InvalidInput
from control_plane.identity.alert import Alert
from control_plane.runtime.packaged import shipped
from policies.language.concrete.evaluate import EvaluationError, Evaluator, Limits
from policies.language.concrete.world import Undefined
from policies.language.serial import parse_json
from policies.language.values import Value, to_python
from policies.project import Project

_DECISION: Final = ("gatehouse", "response", "decision")
_LIMITS: Final = Limits(steps=200_000)


@dataclass(frozen=True, slots=True)
class Response:
    """Whom to cut off, and why; nobody where `spiffe_id` is empty."""

    spiffe_id: str
    reason: str


class Rules:
    """The rules; made once, asked for each alert."""

    def __init__(self, own: str | None = None) -> None:
        """`own` is the operator's Rego in place of ours. Raises Diagnostics for what doesn't compile."""
        files = {name: text for name, text in shipped("response").items() if not name.endswith("_test.rego")}
        if own is not None:
            files = {"response.rego": own}
        self._evaluator = Evaluator(Project.of(files).compiled(), limits=_LIMITS)

    def decide(self, alert: Alert, candidates: Sequence[Entry]) -> Response:
        """What follows. Raises InvalidInput for an alert that Rego has no value for, FailedPrecondition where
        the rules can't say."""
        question = _question(alert, candidates)
        try:
            found = self._evaluator.document(_DECISION, input_document=question)
            decision = None if isinstance(found, Undefined) else to_python(found)
        except (EvaluationError, InvalidInput, Bug) as error:
            raise FailedPrecondition(
                f"deciding on an alert of Falco's {alert.rule!a}: the rules can't be evaluated ({error})",
                hint="nothing was cut off; mend the rules in [falco] rego",
            ) from error
        if not isinstance(decision, dict) or decision.get("action") not in ("ignore", "quarantine"):
            raise FailedPrecondition(
                f"deciding on an alert of Falco's rule {alert.rule!a}: the rules gave no decision",
                hint="data.gatehouse.response.decision is to have action, spiffe_id and reason",
            )
        reason = str(decision.get("reason", ""))[:500]
        return Response(
            str(decision.get("spiffe_id", "")) if decision["action"] == "quarantine" else "", reason
        )


def _question(alert: Alert, candidates: Sequence[Entry]) -> Value:
    """`input`, by way of JSON: Rego's numbers are made of their text, and a float has one there only."""
    asked = {
        "alert": {
            "rule": alert.rule,
            "priority": alert.priority,
            "source": alert.source,
            "hostname": alert.hostname,
            "output": alert.output,
            "tags": list(alert.tags),
            "output_fields": dict(alert.fields),
        },
        "candidates": [
            {"spiffe_id": str(one.spiffe_id), "selectors": sorted(map(str, one.selectors))}
            for one in candidates
        ],
    }
    try:
        return parse_json(json.dumps(asked))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"alert of Falco's rule {alert.rule[:200]!a}: can't be judged ({error})"
        ) from error
