"""How versions, lives and assignments look in answers: plain JSON, times in Unix seconds as `…_at`."""

import asyncio
import json

from control_plane.api.rest import answers
from control_plane.api.rest.census import Census
from control_plane.identity.quarantine import Quarantine
from control_plane.rollout.assignment import Assignment, InForce
from control_plane.rollout.denials import DenialVerdict
from control_plane.rollout.steps import Life, Planned, Step, fields_of
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


async def written_life(signed: SignedVersion, life: Life) -> bytes:
    """A version with every step, as the JSON of an answer. A plan may be large: others have their turn
    between one and the next."""
    steps = []
    for step in life.steps:
        steps.append(json.dumps(_shown_step(step)))
        if isinstance(step, Planned):
            await asyncio.sleep(0)
    return f'{json.dumps(shown_version(signed, life))[:-1]}, "steps": [{", ".join(steps)}]}}'.encode()


def _shown_step(step: Step) -> answers.Step:
    """A step with its time as `at`; a plan with its digest."""
    digest = {"digest": step.digest} if isinstance(step, Planned) else {}
    return {"step": step.kind, **fields_of(step), **digest}


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
    now: InForce, census: Census, quarantine: Quarantine, verdict: DenialVerdict | None = None
) -> answers.InForce:
    """What is in force, and for how many agents; `verdict` is about the canary."""

    def shown(assignment: Assignment | None) -> answers.AssignmentInForce | None:
        if assignment is None:
            return None
        agents = census.canary if assignment is now.canary else census.agents - census.canary
        return {**shown_assignment(assignment), "agents": agents}

    return {
        "sequence": now.sequence,
        "in_force": shown(now.full),
        "canary": shown(now.canary),
        "denials": shown_verdict(verdict) if verdict is not None and now.canary is not None else None,
        "agents": census.agents,
        "quarantined": len(quarantine.members),
    }
