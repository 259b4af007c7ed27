"""`gatehouse policy compile | render`: manifests of a policy, and the proof that they say the same."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from control_plane.cli import printing
from control_plane.cli.options import Output, OutputFlag
from control_plane.cli.policy_budget import MAX_MIB, MAX_SECONDS, MemoryFlag, SecondsFlag, Spending
from control_plane.cli.policy_files import (
    CacheFlag,
    FolderArgument,
    InventoryFlag,
    NoCacheFlag,
    read_inventory,
    read_project,
    read_text,
    write_files,
    writing,
)
from control_plane.cli.policy_report import NAMES_SHOWN, print_compilation
from control_plane.cli.remote import reported
from control_plane.core.errors import AlreadyExists
from policies.files import LIBRARY_FILES

TargetFlag = Annotated[str, typer.Option("--target", help="What the manifests are for.")]
ExactFlag = Annotated[bool, typer.Option("--exact-only", help="Refuse what the target can't say exactly.")]
CustomFlag = Annotated[
    str,
    typer.Option(
        "--custom-provider", help="Name of the agent's ext_authz provider; lets it decide the rest."
    ),
]
ByModeFlag = Annotated[
    bool,
    typer.Option("--by-mode", help="Leave out workloads whose mode in the inventory isn't the target's."),
]


def compile_policy(
    folder: FolderArgument,
    inventory: InventoryFlag,
    target: TargetFlag = "istio-sidecar",
    exact_only: ExactFlag = False,
    custom_provider: CustomFlag = "",
    by_mode: ByModeFlag = False,
    cache: CacheFlag = None,
    no_cache: NoCacheFlag = False,
    max_seconds: SecondsFlag = MAX_SECONDS,
    max_memory: MemoryFlag = MAX_MIB,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Compiles a policy for a target and proves that the manifests admit nothing that Rego refuses."""
    with (
        reported(output),
        _compiled(
            folder,
            inventory,
            target,
            cache,
            no_cache,
            Spending(max_seconds, max_memory),
            exact_only=exact_only,
            custom_provider=custom_provider,
            by_mode=by_mode,
        ) as (compiled, converted),
    ):
        _print_compilation(output, compiled, [], converted)
    if not compiled.accepted:
        raise typer.Exit(1)


def render(
    folder: FolderArgument,
    inventory: InventoryFlag,
    out: Annotated[Path, typer.Option("--out", help="A folder; one file an object, and a kustomization.")],
    target: TargetFlag = "istio-sidecar",
    exact_only: ExactFlag = False,
    custom_provider: CustomFlag = "",
    by_mode: ByModeFlag = False,
    cache: CacheFlag = None,
    no_cache: NoCacheFlag = False,
    max_seconds: SecondsFlag = MAX_SECONDS,
    max_memory: MemoryFlag = MAX_MIB,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Writes the proved manifests for GitOps; files of an earlier render that are no longer meant go."""
    with (
        reported(output),
        _compiled(
            folder,
            inventory,
            target,
            cache,
            no_cache,
            Spending(max_seconds, max_memory),
            exact_only=exact_only,
            custom_provider=custom_provider,
            by_mode=by_mode,
        ) as (compiled, converted),
    ):
        written = _write(out, compiled.files()) if compiled.accepted else []
        _print_compilation(output, compiled, written, converted)
    if not compiled.accepted:
        raise typer.Exit(1)


@contextlib.contextmanager
def _compiled(
    folder: Path,
    inventory: Path,
    target: str,
    cache: Path | None,
    no_cache: bool,
    budget: Spending,
    **chosen: Any,
) -> Iterator[tuple[Any, Mapping[str, str]]]:
    """The compilation, and the workloads that it takes out of their mode, with that mode.

    `chosen` is what `Options` takes. What was left to be worked out later is kept at the end as well.
    """
    from policies.compilation import compile_project, otherwise_guarded
    from policies.project import Project
    from policies.targets.emission import Options

    project = Project.of(read_project(folder))
    known = read_inventory(inventory)
    options = Options(**chosen)
    converted = {} if options.by_mode else otherwise_guarded(target, known)
    if no_cache:
        yield compile_project(project, known, target, options, budget).result, converted
        return
    from control_plane.cli.policy_cache import kept_between_runs
    from policies.kept.compilation import compile_kept

    with kept_between_runs(cache) as shelf:
        yield compile_kept(project, known, target, options, shelf, budget), converted


def _print_compilation(
    output: Output, compiled: Any, written: list[str], converted: Mapping[str, str]
) -> None:
    # The library comes along whether a policy uses all of it or not.
    warnings = [one for one in compiled.warnings if not one.span.source.file.startswith(LIBRARY_FILES)]
    blocked, more = compiled.blocked() if not written else ([], False)
    answer = {
        "target": compiled.target,
        "bundle_digest": compiled.bundle_digest,
        "accepted": compiled.accepted,
        "exact": compiled.exact,
        "objects": compiled.objects,
        "verdicts": [
            {
                "workload": one.workload, "layer": one.layer, "outcome": str(one.outcome),
                "witness": one.witness.document() if one.witness else None,
                "origins": [str(origin) for origin in one.origins],
                "reason": one.reason, "assumptions": list(one.assumptions),
            }
            for one in compiled.verdicts
        ],
        "shortfalls": [
            {
                "workload": one.workload, "step": str(one.step), "reason": one.reason,
                "origins": [str(origin) for origin in one.origins],
            }
            for one in compiled.shortfalls
        ],
        "breaches": [
            {
                "workload": one.workload, "invariant": one.invariant[0].rule if one.invariant else "",
                "origins": [str(origin) for origin in one.invariant],
                "witness": one.request.document() if one.request else None,
                "admitted_by": [str(origin) for origin in one.admitted_by], "reason": one.reason,
            }
            for one in compiled.breaches
        ],
        "blocked": [
            {
                "caller": one.caller, "workload": one.workload, "entirely": one.entirely,
                "reason": one.reason,
                "request": one.request.document() if one.request else None,
                "allowed_by": [str(origin) for origin in one.allowed_by],
                "denied_by": [str(origin) for origin in one.denied_by],
            }
            for one in blocked
        ],
        "more_blocked": more,
        "other_modes": {key: str(mode) for key, mode in converted.items()},
        "warnings": [warning.to_json() for warning in warnings],
        "written": written,
    }  # fmt: skip

    def human() -> None:
        print_compilation(compiled, warnings, blocked, more, written)
        if converted:
            printing.note(_other_modes(compiled.target, converted))

    printing.emit(output, answer, human)


def _other_modes(target: str, converted: Mapping[str, str]) -> str:
    """What manifests for another mode would mean to proxies of theirs isn't proved."""
    names = [f"{key} ({mode})" for key, mode in converted.items()]
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    count = printing.counted(len(names), "workload")
    return (
        f"compiled as if guarded by {target}, where the inventory has another mode for {count}: "
        f"{', '.join(names[:NAMES_SHOWN])}{more}; --by-mode leaves them out"
    )


def _write(folder: Path, files: Any) -> list[str]:
    """Writes a render; removes only what an earlier render listed in its kustomization."""
    from policies.documents import read_document

    listing = folder / "kustomization.yaml"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if listing.exists():
            earlier = read_document(read_text(listing), str(listing))
            resources = earlier.get("resources", []) if isinstance(earlier, dict) else []
            for name in resources if isinstance(resources, list) else []:
                if isinstance(name, str) and name not in files and Path(name).name == name:
                    (folder / name).unlink(missing_ok=True)
        elif any(folder.iterdir()):
            raise AlreadyExists(
                f"writing manifests to {folder}: it holds other files",
                hint="name an empty folder or an earlier render",
            )
    return write_files(folder, files)
