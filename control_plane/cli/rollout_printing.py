"""Policy versions, plans and what is in force, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from control_plane.cli import printing
from control_plane.cli.printing import counted

SHOWN_CHANGES = 20

_NEXT = {
    "proved": "see what it changes: gatehouse policy plan {version}",
    "planned": "have somebody else approve it: gatehouse policy approve {version} --reason …",
    "approved": "bring it into force: gatehouse policy apply {version}",
}


def step_of(answer: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """The latest step of a kind."""
    return next((step for step in reversed(answer["steps"]) if step["step"] == kind), None)


def print_version(answer: dict[str, Any]) -> None:
    """A version with every step of its life, and what comes next."""
    printing.line(
        f"version {answer['version']}  {answer['digest'][:19]}  by {answer['author']}: {answer['reason']}"
    )
    for step in answer["steps"]:
        at = printing.moment(step["at"]).split(" (")[0]
        printing.line(f"  {at}  {step['step']:10} {_told(step)}")
        for text in _details(step):
            for line in str(text).splitlines():
                printing.line(f"      {line}")
    following = _NEXT.get(answer["state"])
    if following:
        printing.note("next: " + following.format(**answer))


def print_plan(answer: dict[str, Any], *, every: bool) -> None:
    """Who gains and who loses, each with one request and the Rego lines on both sides."""
    plan = step_of(answer, "planned")
    assert plan is not None
    against = f"version {plan['against_version']}" if plan["against_version"] else "no policy (all is denied)"
    printing.line(f"version {answer['version']} against {against}: {_told(plan)}")
    shifts = plan["shifts"] if every else plan["shifts"][:SHOWN_CHANGES]
    for one in shifts:
        sign = {"gains": "+", "loses": "-"}.get(one["direction"], "?")
        who = one["caller"] or "callers outside the inventory"
        verb = one["direction"] if one["caller"] else one["direction"].removesuffix("s")
        printing.line(f"{sign} {who} {verb} {one['question']} access to {one['workload']}")
        printing.line(f"      {one['request']}")
        for side in ("before", "after"):
            printing.line(f"      {side:6} {', '.join(one[side]) or 'no rule'}")
    rest = plan["gains"] + plan["loses"] + plan["undecided"] - len(shifts)
    if rest:
        printing.line(f"… and {rest} more" + ("" if every else ": --all shows them"))
    following = _NEXT.get(answer["state"])
    if following:
        printing.note("next: " + following.format(**answer))


def print_status(answer: dict[str, Any], waiting: Sequence[dict[str, Any]]) -> None:
    """What is in force, and what waits for whom."""
    for name, title in (("in_force", "in force"), ("canary", "canary")):
        one = answer[name]
        if one is not None:
            others = "other " if answer["canary"] is not None else ""
            share = f"all {others}agents" if one["percent"] == 100 else f"{one['percent']} % of the agents"
            printing.line(
                f"{title}: version {one['version']} on {share} ({one['agents']} of {answer['agents']}), "
                f"assignment {one['sequence']}"
            )
            printing.line(f"    since {printing.moment(one['assigned_at'])}, {_why(one)}")
    if answer.get("denials"):
        printing.line(f"    {answer['denials']['judged']}")
    if answer["in_force"] is None:
        printing.line("in force: nothing, so agents deny everything")
    for one in waiting:
        printing.line(
            f"waiting: version {one['version']} is {one['state']}, by {one['author']}: {one['reason']}"
        )
        printing.line("    " + _NEXT[one["state"]].format(**one))
    if answer["quarantined"]:
        printing.line(f"quarantined: {answer['quarantined']} (gatehouse quarantine list)")


def print_history(versions: Sequence[dict[str, Any]], assignments: Sequence[dict[str, Any]]) -> None:
    """Assignments, then versions, each the newest first. No tables: reasons may be long, terminals narrow."""
    for one in assignments:
        printing.line(
            f"assignment {one['sequence']:<4} version {one['version']} on {one['percent']} %  "
            f"{printing.moment(one['assigned_at'])}"
        )
        printing.line(f"    {_why(one)}")
    if not assignments:
        printing.line("nothing was ever in force")
    printing.line("")
    for one in versions:
        printing.line(
            f"version {one['version']:<4} {one['state']:8}  {one['digest'][:19]}  "
            f"{printing.moment(one['created_at'])}"
        )
        printing.line(f"    by {one['author']}: {one['reason']}")
    if not versions:
        printing.line("no version was pushed yet")


def _why(assignment: dict[str, Any]) -> str:
    """How an assignment came to be, by whom, and why."""
    cause = {"denials": "rolled back for denials"}.get(assignment["cause"], assignment["cause"])
    return f"{cause} by {assignment['by']}: {assignment['reason']}"


def _told(step: dict[str, Any]) -> str:
    """One step in a few words."""
    kind = step["step"]
    if kind == "evaluated":
        return f"{counted(step['files'], 'file')}, {counted(step['tests'], 'test')} passed"
    if kind == "compiled":
        found = f"{counted(step['workloads'], 'workload')}, {counted(step['objects'], 'object')}"
        return f"for {step['target']}: {found}"
    if kind == "proved":
        return f"{step['exact']} exact, {len(step['narrower'])} narrower than Rego; every invariant holds"
    if kind == "refused":
        return f"at {step['stage']}"
    if kind == "planned":
        moved = f"{step['gains']} gain, {step['loses']} lose access"
        return moved + (f", {step['undecided']} undecided" if step["undecided"] else "")
    if kind == "applied":
        share = f"{step['cause']} to {step['percent']} % as assignment {step['sequence']}"
        return f"{share} by {step['by']}: {step['reason']}"
    if kind == "recorded":
        return f"ledger entry {step['ledger_id']}"
    how = f"{step['how']} " if kind == "closed" else ""
    return f"{how}by {step['by']}: {step['reason']}"


def _details(step: dict[str, Any]) -> Sequence[str]:
    names = ("warnings", "shortfalls", "narrower", "reasons")
    return [text for name in names for text in step.get(name, ())]
