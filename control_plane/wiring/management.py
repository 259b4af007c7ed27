"""The management process: admin sockets (gRPC and REST), the life of authorities and policies, housekeeping.

Issuers serve without it. What it writes reaches them by the change log.
"""

import asyncio
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from control_plane.api.authorization import Authorization
from control_plane.api.caller import Admission
from control_plane.api.opa import router as opa_router
from control_plane.api.rest import RestContext, rest_app
from control_plane.api.services import local_services
from control_plane.authority.lifecycle import AuthorityLifecycle
from control_plane.authority.state import AuthorityState
from control_plane.core.errors import GatehouseError, Unavailable
from control_plane.identity.authority_ledger import authority_records
from control_plane.runtime import log, loop
from control_plane.runtime.answers import KEPT_SECONDS
from control_plane.runtime.lifecycle import run_services
from control_plane.runtime.transport import Server
from control_plane.settings import ServerSettings
from control_plane.sql.answer_store import SqlAnswers
from control_plane.wiring.events import ToldSteps, events_of, rates_of
from control_plane.wiring.metrics import Observe, metrics_of, metrics_service
from control_plane.wiring.opa import opa_services
from control_plane.wiring.own_svid import OwnSvid
from control_plane.wiring.policy import (
    canary_watch_of,
    gate_of,
    opa_bundles_of,
    policy_keys_of,
    response_rules_of,
    rollouts_of,
)
from control_plane.wiring.process import MANAGEMENT_JOURNAL, Parts
from control_plane.wiring.rest_server import HTTP_ALPN, RestServer
from control_plane.wiring.signing import signing_of
from control_plane.wiring.vault import lifetimes_of, maker_of, vault_services

GRACE_SECONDS: Final = 5.0
HOUSEKEEPING_SECONDS: Final = 10.0
KEPT_CHANGES: Final = 100_000
TOKEN_RETENTION_SECONDS: Final = 24 * 3600
BATCH: Final = 1000
SWITCH_SECONDS: Final = 0.001
"""After which a thread that reads the ledger or the database lets the event loop go on; with Python's own
five milliseconds answers would wait for several of those."""


def run_management(settings: ServerSettings, started: Callable[[], None] | None = None) -> None:
    """Serves until a signal."""

    def ready() -> None:
        # As in an issuer: what was loaded and built stays, and looking at it again would stop everybody.
        gc.collect()
        gc.freeze()
        if started is not None:
            started()

    sys.setswitchinterval(SWITCH_SECONDS)
    loop.run(manage(settings, started=ready))


async def manage(
    settings: ServerSettings,
    *,
    stop: asyncio.Event | None = None,
    started: Callable[[], None] | None = None,
) -> None:
    """The same inside an event loop."""
    parts = Parts(settings, MANAGEMENT_JOURNAL)
    published = PublishedBundle(parts)
    try:
        await parts.open()
        lifecycle = lifecycle_of(parts)
        await _first_tick(parts, lifecycle)
        await parts.reload()
        policy_keys = await policy_keys_of(parts)
        events = events_of(parts)
        rollouts = rollouts_of(parts, policy_keys, ToldSteps(parts, events))
        opa = opa_bundles_of(parts, policy_keys)
        canary_watch = canary_watch_of(parts, rollouts)
        gate, route_class = gate_of(parts)
        api_svid = OwnSvid(parts, alpn=HTTP_ALPN, dns_names=settings.written.api.dns_names)
        metrics, observe = metrics_of(parts) if settings.metrics_bind is not None else (None, None)
        context = RestContext(
            server=parts.context,
            lifecycle=lifecycle,
            authorities=parts.authority_store,
            unconfirmed=lambda sequence: _unconfirmed(parts, sequence),
            ledger_dir=settings.ledger_dir,
            healthy=lambda: _healthy(parts),
            signing=lambda: signing_of(parts.authority, parts.vault, parts.clock, policy_keys.missing),
            gate=gate,
            route_class=route_class,
            rollouts=rollouts,
            rollout_store=parts.rollout_store,
            canary_watch=canary_watch,
            answers=SqlAnswers(parts.store.thread),
            rules=response_rules_of(parts),
            falco_per_minute=settings.written.falco.per_minute,
            events=events,
            rates=rates_of(parts),
            max_listeners=settings.written.api.listeners,
        )
        app = rest_app(context)
        app.include_router(opa_router(opa))
        await run_services(
            {
                "authority": parts,
                "lifecycle": lifecycle,
                "rollouts": rollouts,
                "policy-keys": policy_keys,
                "canary": canary_watch,
                "replica": parts.replica,
                "confirmations": parts.confirmations,
                "bundle": published,
                "housekeeping": Housekeeping(parts),
                "admin": AdminListener(parts, started, observe),
                "events": events,
                "rest": RestServer(app, settings.rest_socket, bind=settings.api_bind, svid=api_svid),
                **opa_services(parts, opa),
                **vault_services(parts.vault, parts.authority),
                **metrics_service(parts, metrics, 0),
            },
            stop=stop,
        )
    finally:
        await parts.close()


async def _first_tick(parts: Parts, lifecycle: AuthorityLifecycle) -> None:
    """The first authorities are there before anybody is told that we are ready. Where there are some already,
    a step that fails (Vault is away) is the life cycle's affair, and it tries again."""
    try:
        await lifecycle.tick()
    except GatehouseError as error:
        if not _healthy(parts):
            raise
        log.get_logger("authority").error("authority_step_failed", error=str(error), kind=error.kind)


class AdminListener:
    """gRPC on the admin socket; the file's mode is its only guard."""

    def __init__(
        self, parts: Parts, listening: Callable[[], None] | None, observe: Observe | None = None
    ) -> None:
        self._parts = parts
        self._listening = listening
        self._observe = observe

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop`."""
        parts, settings = self._parts, self._parts.settings
        unix = parts.clock.unix
        written = settings.written
        server = Server(
            local_services(
                parts.context,
                chain=lambda: parts.authority.active().x509.chain,
                launch_level=written.log_level,
                configure_log=lambda level: log.configure(level=level, json=written.log_format == "json"),
                healthy=lambda: _healthy(parts),
            ),
            interceptors=[Authorization(parts.replica, parts.store, settings.admin_ids, unix)],
            admit=Admission(parts.trust, settings.admin_ids, unix).admit,
            observe=self._observe,
        )
        await server.listen_unix(settings.admin_socket, 0o600)
        if self._listening is not None:
            self._listening()
        try:
            await stop.wait()
        finally:
            await server.close(GRACE_SECONDS)


class PublishedBundle:
    """Our bundle as files, for agents that start: `bundle.pem` and `bundle.json` in the data directory."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._changed = asyncio.Event()
        self._changed.set()
        self._log = log.get_logger("bundle")
        parts.trust.listen(self._changed.set)

    async def run(self, stop: asyncio.Event) -> None:
        """Writes after each change, whole files by rename; an agent never reads half of one."""
        directory = self._parts.settings.data_dir
        while not stop.is_set():
            if self._changed.is_set():
                self._changed.clear()
                own = self._parts.trust.own
                try:
                    # The one that agents and scripts wait for comes last: then both are there.
                    await asyncio.to_thread(_replace, directory / "bundle.json", own.to_json())
                    await asyncio.to_thread(_replace, directory / "bundle.pem", own.to_pem())
                except OSError as error:
                    self._log.error("bundle_not_written", directory=str(directory), reason=str(error))
                    self._changed.set()
            try:
                async with asyncio.timeout(0.5):
                    await stop.wait()
            except TimeoutError:
                continue


class Housekeeping:
    """Deletes what has outlived its use, in small batches."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._answers = SqlAnswers(parts.store.thread)
        self._log = log.get_logger("housekeeping")

    async def run(self, stop: asyncio.Event) -> None:
        """Looks every ten seconds."""
        while not stop.is_set():
            try:
                await self._once()
            except GatehouseError as error:
                self._log.warning("housekeeping_failed", reason=str(error))
            try:
                async with asyncio.timeout(HOUSEKEEPING_SECONDS):
                    await stop.wait()
            except TimeoutError:
                continue

    async def _once(self) -> None:
        store, now = self._parts.store, self._parts.clock.unix()
        for entry in await store.prune_entries(now, BATCH):
            self._log.info("entry_expired", entry=entry.id, spiffe_id=str(entry.spiffe_id))
        await store.prune_tokens(now - TOKEN_RETENTION_SECONDS)
        patience = self._parts.settings.written.purge_agents_after_seconds
        if patience:
            for agent_id in await store.purge(now - patience, BATCH):
                self._log.info("agent_purged", agent=str(agent_id))
        await store.prune_changes(KEPT_CHANGES)
        await self._answers.forget(now - KEPT_SECONDS)


def lifecycle_of(parts: Parts) -> AuthorityLifecycle:
    """The service that makes and rotates the authorities."""
    settings = parts.settings
    lifetimes = lifetimes_of(settings)
    maker = maker_of(settings, parts.vault, parts.keys, parts.clock, lifetimes, random_bytes=os.urandom)

    async def confirmed(sequence: int) -> bool:
        return await _unconfirmed(parts, sequence) == 0

    async def intend(before: AuthorityState, after: AuthorityState) -> None:
        await parts.journal.append(authority_records(before, after, parts.clock.unix()))

    async def changed(state: AuthorityState) -> None:
        await parts.use(state)

    return AuthorityLifecycle(
        parts.authority_store,
        parts.keys,
        maker,
        lifetimes,
        parts.clock,
        confirmed=confirmed,
        intend=intend,
        changed=changed,
    )


async def _unconfirmed(parts: Parts, sequence: int) -> int:
    """Agents confirm the sum of both sequences that make our bundle; with the present additions the answer
    is never too small."""
    additions = await parts.store.own_additions(parts.settings.trust_domain)
    return await parts.store.count_unconfirmed(sequence + additions.sequence, parts.clock.unix())


def _healthy(parts: Parts) -> bool:
    try:
        parts.authority.active()
    except Unavailable:
        return False
    return True


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(path.suffix + ".new")
    temporary.write_text(text, encoding="ascii")
    temporary.rename(path)
