"""What `gatehouse policy compile` and `render` print for people: the verdicts, and why some aren't exact.

What is said of many workloads alike is said once, with their names below it. A terminal gets folded lines;
what is piped on isn't folded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from control_plane.cli import printing
from control_plane.cli.policy_meaning import what_is_asked

NAMES_SHOWN: Final = 12


def print_compilation(
    compiled: Any, warnings: Iterable[Any], blocked: Sequence[Any], more: bool, written: Sequence[str]
) -> None:
    """A compilation for people."""
    for warning in warnings:
        for text in warning.render().splitlines():
            printing.note(text)
    rows = [
        (one.workload, one.layer, one.outcome, ", ".join(map(str, one.origins))) for one in compiled.verdicts
    ]
    printing.table(["workload", "guard", "outcome", "rego"], rows, empty=_nobody(compiled))
    for one in compiled.verdicts:
        _print_verdict(one)
    _print_shortfalls(compiled)
    for one in compiled.breaches:
        rule = one.invariant[0]
        printing.line(f"{one.workload}: broken invariant: {rule.rule} ({rule})")
        shown = what_is_asked(one.request) if one.request else one.reason
        printing.paragraph(f"{shown}  admitted by {', '.join(map(str, one.admitted_by))}", 4)
    _print_blocked(blocked, more)
    said = (
        "refused" if not compiled.accepted else "exact" if compiled.exact else "accepted, narrower than Rego"
    )
    printing.line(f"{compiled.target}: {printing.counted(compiled.objects, 'object')}, {said}")
    if written:
        printing.line(f"wrote {printing.counted(len(written), 'file')}")


def _nobody(compiled: Any) -> str:
    if compiled.shortfalls:
        return "no workload is guarded"
    package = "segmentation" if compiled.target == "network-policy" else "authz"
    asked = f"{compiled.target} asks data.gatehouse.{package}, which has no rule allow"
    return f"no workload is guarded: {asked}, or --by-mode leaves all of them out"


def _print_verdict(verdict: Any) -> None:
    if verdict.witness is not None:
        verb = "is refused, though Rego allows" if verdict.accepted else "is let through, though Rego refuses"
        printing.paragraph(f"{verdict.workload}: {verb}: {what_is_asked(verdict.witness)}", 0)
    elif verdict.reason:
        printing.paragraph(f"{verdict.workload}: {verdict.reason}", 0)


def _print_shortfalls(compiled: Any) -> None:
    """Why workloads aren't exact; what was narrowed without any effect isn't told."""
    exact = {one.workload for one in compiled.verdicts}
    exact -= {one.workload for one in compiled.verdicts if str(one.outcome) != "exact"}
    told: dict[tuple[str, str, str], list[str]] = {}
    for one in compiled.shortfalls:
        if str(one.step) != "narrowed" or one.workload not in exact:
            lines = ", ".join(map(str, one.origins))
            told.setdefault((str(one.step), one.reason, lines), []).append(one.workload)
    for (step, reason, lines), workloads in told.items():
        printing.paragraph(f"{step}: {reason}" + (f" ({lines})" if lines else ""), 0)
        names = list(dict.fromkeys(workloads))
        rest = len(names) - NAMES_SHOWN
        shown = ", ".join(names[:NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
        printing.paragraph(f"at {shown}", 4)


def _print_blocked(blocked: Sequence[Any], more: bool) -> None:
    if blocked:
        printing.line("authz allows what segmentation blocks:")
    for one in blocked:
        printing.line(f"  {one.caller or 'callers outside the inventory'} → {one.workload}")
        if one.request is None:
            printing.paragraph(f"can't be decided: {one.reason}", 4)
            continue
        lines = ", ".join(map(str, one.allowed_by))
        extent = "; nothing else gets through" if one.entirely else ""
        asked = what_is_asked(one.request, with_caller=not one.caller)
        printing.paragraph(f"{asked}  authz allows at {lines}, {one.why}{extent}", 4)
    if more:
        printing.line("  … and more")
