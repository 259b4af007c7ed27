"""What the demo prints: steps while it works, then one picture of what runs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from deploy.demo import place

STARTED = time.monotonic()


def step(what: str, detail: str) -> None:
    """One line of progress, with the seconds since the start."""
    print(f"  {time.monotonic() - STARTED:5.1f} s  {what:<12} {detail}", flush=True)


def picture(
    ports: dict[str, int], exchange: dict[str, Any], refusal: str, identities: dict[str, dict[str, Any]]
) -> None:
    """The whole demo on one screen."""
    data = _short(place.data_dir())
    rows = "\n".join(_identity(name, told) for name, told in identities.items())
    print(
        f"""
   gatehouse server   127.0.0.1:{ports["server"]}      registry, authority, ledger
         │  mutual TLS
   gatehouse-agent    {data}/agent.sock
         │  who are you? the kernel tells: pid, user, program
   ┌─────┴──────┐                 ┌────────────┐
   │ storefront │ ── mutual TLS ─▶│  payments  │  127.0.0.1:{ports["payments"]}
   └────────────┘                 └────────────┘

{rows}

   storefront asked payments: {exchange.get("said")!r} → {exchange.get("answer")!r}
      {exchange.get("tls")}, {exchange.get("milliseconds")} ms; payments saw {exchange.get("caller")},
      storefront saw {exchange.get("callee")}
   a process that nobody registered asked for an identity:
      {refusal.strip()}

   Next:
      .venv/bin/gatehouse entry show
      .venv/bin/gatehouse ledger list
      {_short(place.interpreter("storefront"))} -m agent api fetch x509 --output json
      {_short(place.interpreter("stranger"))} -m agent api fetch x509 --output json
      tail -f {_short(place.log_of("storefront"))}
      make down
""",
        flush=True,
    )


def newest(log: Path, event: str) -> dict[str, Any] | None:
    """The last event of a kind in a workload's log; None when there is none yet."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if isinstance(told, dict) and told.get("event") == event:
            return told
    return None


def tail(log: Path, lines: int = 15) -> str:
    """The end of a log."""
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError as error:
        return str(error)


def _identity(name: str, told: dict[str, Any]) -> str:
    """One line about a workload's certificate."""
    expires_at = int(told.get("expires_at", 0))
    when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(expires_at))
    hours = (expires_at - time.time()) / 3600
    return f"   {name:<11} {told.get('spiffe_id')}   expires {when} (in {hours:.1f} h)"


def short_text(part: str) -> str:
    """A path below the clone without the clone; anything else as it is."""
    return part.removeprefix(f"{place.ROOT}/")


def _short(path: Path) -> str:
    """A path as one would type it in the clone."""
    return os.path.relpath(path, place.ROOT) if path.is_relative_to(place.ROOT) else str(path)
