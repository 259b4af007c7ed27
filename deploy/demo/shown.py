"""What the demo prints: steps while it works, then one picture of what runs."""

from __future__ import annotations

import json
import os
import shlex
import time
from pathlib import Path
from typing import Any

from deploy.demo import database, place
from deploy.demo.mesh import Shop, spiffe_id
from deploy.demo.trial import Trial

STARTED = time.monotonic()


def step(what: str, detail: str) -> None:
    """One line of progress, with the seconds since the start."""
    print(f"  {time.monotonic() - STARTED:5.1f} s  {what:<12} {detail}", flush=True)


def picture(
    ports: dict[str, int],
    shop: Shop,
    trials: list[Trial],
    exchange: dict[str, Any],
    refusal: str,
    identities: dict[str, dict[str, Any]],
) -> None:
    """The whole demo on one screen."""
    data = _short(place.data_dir())
    rows = "\n".join(_identity(name, told) for name, told in identities.items())
    tried = "\n".join(_trial(one) for one in trials)
    print(
        f"""
   gatehouse server   127.0.0.1:{ports["server"]}      registry, authority, ledger, policy versions
         │  mutual TLS: identities and signed policy are pushed
   gatehouse-agent    {data}/agent.sock
         │  who asks? the kernel tells: pid, user, program
         ├─ SVIDs to programs    storefront ── mutual TLS ──▶ warehouse 127.0.0.1:{ports["warehouse"]}
         └─ SVIDs and policy to Envoys
              ┌──────────┐             ┌──────────┐             ┌─────────┐
   customer ─▶│ frontend │── HTTP ────▶│ payments │── TCP ─────▶│ card-db │
              │          │── gRPC ────▶│          │             │         │
              └──────────┘             └──────────┘             └─────────┘
              {shop.host("frontend"):<24} {shop.host("payments"):<24} {shop.host("card-db")}

   What the policy in rego/starter lets through, tried just now:
{tried}

{rows}
   storefront asked warehouse: {exchange.get("said")!r} → {exchange.get("answer")!r}
      {exchange.get("tls")}, {exchange.get("milliseconds")} ms; warehouse saw {exchange.get("caller")},
      storefront saw {exchange.get("callee")}
   a process that nobody registered asked for an identity:
      {refusal.strip()}

   Next:
{_next(shop)}
""",
        flush=True,
    )


def _next(shop: Shop) -> str:
    """What to try, each with what it shows."""
    cards = [
        (shlex.join(database.psql(shop.host(service), 9003, "TABLE cards")), what)
        for service, what in (("payments", "the payment service may"), ("frontend", "the front end may not"))
        if shop.database
    ]
    tries = [
        (f"curl -i {shop.payments}/v1/charges", "you are the front end; also try /v1/charges/refund"),
        *cards,
        (".venv/bin/gatehouse policy status", "which version is in force"),
        (".venv/bin/gatehouse-agent policy", "what is enforced here, by Rego line"),
        (
            f"tail -f {_short(place.log_of('shop-customer'))} &",
            "a customer pays once a second, but not while",
        ),
        (f'.venv/bin/gatehouse quarantine {spiffe_id("frontend")} --reason "a try"', ""),
        (f'.venv/bin/gatehouse quarantine release {spiffe_id("frontend")} --reason "tried"', ""),
        (".venv/bin/gatehouse ledger list", "every certificate and every change"),
        (f"{_short(place.interpreter('storefront'))} -m agent api fetch x509 --output json", ""),
        ("make demo", "a tour of all this"),
        ("make down", "stops it"),
    ]
    width = max(len(command) for command, what in tries if what)
    return "\n".join(f"      {command:<{width}}   {what}".rstrip() for command, what in tries)


def _trial(one: Trial) -> str:
    mark = "✓" if one.allowed else "✗"
    return f"     {mark} {one.what:<46} {one.outcome:<18} {one.why}".rstrip()


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
