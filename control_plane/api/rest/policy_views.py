"""How versions, lives and assignments look in answers: plain JSON, times in Unix seconds as `…_at`."""

import dataclasses
from collections.abc import Sequence

from control_plane.api.rest import answers
from control_plane.core.spiffe_id import SpiffeId
from control_plane.identity.quarantine import Quarantine
from control_plane.rollout.assignment import Assignment, InForce
from control_plane.rollout.denials import DenialVerdict
from control_plane.rollout.steps import Life, Planned
from control_plane.rollout.version import SignedVersion


def tag_of(life: Life) -> str:
    """The entity tag of a version: it changes with every step."""
    return f'"{life.number}-{len(life.steps)}"'


def shown_version(signed: SignedVersion, life: Life) -> answers.Version:
    """A version without its steps."""
    version = signed.version
    return {
        "version": version.number,
        "digest": version.digest,
        "author": version.author,
        "reason": version.reason,
        "created_at": version.created_at,
        "state": life.state,
        "signed_by": signed.key_id,
    }


def shown_life(life: Life) -> list[answers.Step]:
    """Every step with its time as `at`; a plan with its digest."""
    return [
        {
            "step": step.kind,
            **dataclasses.asdict(step),
            **({"digest": step.digest} if isinstance(step, Planned) else {}),
        }
        for step in life.steps
    ]


def shown_assignment(assignment: Assignment) -> answers.Assignment:
    """One assignment."""
    return {
        "sequence": assignment.sequence,
        "version": assignment.version,
        "digest": assignment.digest,
        "percent": assignment.percent,
        "cause": str(assignment.cause),
        "by": assignment.by,
        "reason": assignment.reason,
        "assigned_at": assignment.at,
    }


def shown_verdict(verdict: DenialVerdict) -> answers.Denials:
    """What the running canary's agents report, and what follows from it."""
    return {
        "requests": verdict.canary.requests,
        "denied": verdict.canary.denied,
        "denied_percent": round(verdict.canary.percent, 1),
        "usual_percent": round(verdict.usual_percent, 1),
        "agents_reporting": verdict.reporting,
        "agents_risen": verdict.risen,
        "judged": verdict.reason,
    }


def shown_in_force(
    now: InForce, agents: Sequence[SpiffeId], quarantine: Quarantine, verdict: DenialVerdict | None = None
) -> answers.InForce:
    """What is in force; `agents` counts those that each assignment is meant for, `verdict` is about the
    canary."""
    chosen = [now.of_agent(agent) for agent in agents]

    def shown(assignment: Assignment | None) -> answers.AssignmentInForce | None:
        if assignment is None:
            return None
        return {**shown_assignment(assignment), "agents": sum(one is assignment for one in chosen)}

    return {
        "sequence": now.sequence,
        "in_force": shown(now.full),
        "canary": shown(now.canary),
        "denials": shown_verdict(verdict) if verdict is not None and now.canary is not None else None,
        "agents": len(agents),
        "quarantined": len(quarantine.members),
    }
