"""A call to Vault is a span of the trace that it is made in."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from control_plane.clients.vault.answers import Answer
from control_plane.clients.vault.door import VaultDoor
from control_plane.clients.vault.tokens import Login
from control_plane.runtime import tracing
from control_plane.runtime.tracing import FinishedSpan, Kind, Span

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Vault:
    """Answers everything well."""

    def send(self, method: str, path: str, body: Mapping[str, object] | None = None, **_: Any) -> Answer:
        return Answer(200, {}, None)

    def close(self) -> None:
        pass


class Nobody:
    name = "nobody"


def test_a_call_is_a_span_of_the_trace_that_it_is_made_in() -> None:
    told: list[FinishedSpan] = []

    async def main() -> None:
        door = VaultDoor(Vault(), cast(Login, Nobody()), random=lambda: 0.0)
        await door.ask("get", "pki/ca", what="outside of a trace", anonymous=True)
        with Span("work", PARENT):
            await door.ask("post", "pki/issuer/x/sign/leaf", {}, what="signing", anonymous=True)
        door.close()

    tracing.install(told.append)
    try:
        asyncio.run(main())
    finally:
        tracing.install(None)
    call, work = told
    assert (call.name, call.kind) == ("vault post pki/issuer/x/sign/leaf", Kind.CLIENT)
    assert call.parent_id == work.context.span_id and not call.error
