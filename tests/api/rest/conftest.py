"""The management process in this process, called over its unix socket; people come with tokens."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from control_plane.settings import load_settings
from control_plane.sql.database import prepare
from control_plane.wiring.management import manage

ISSUER = "https://login.test"
TOML = """
[roles]
local_administrators = {local}
grants = [
    "login:vera viewer", "login:audrey auditor", "login:ada author", "login:grace approver",
    "login:olga operator", "login:both author", "login:both approver",
    "login:narrow operator spiffe://example.org/ns/shop",
]
[[oidc]]
name = "login"
issuer = "https://login.test"
jwks_file = "{jwks}"
audience = "gatehouse"
"""


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass
class Api:
    """A client of the socket, as anybody could write it."""

    path: Path
    key: ECKey

    def token(self, name: str, *, key: ECKey | None = None, **claims: Any) -> str:
        all_claims = {"iss": ISSUER, "aud": "gatehouse", "sub": name, "exp": 4_000_000_000} | claims
        header = {"alg": "ES256", "kid": (key or self.key).kid}
        return jwt.encode(
            header, {name: value for name, value in all_claims.items() if value}, key or self.key
        )

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        by: str | None = None,
        token: str | None = None,
        **headers: str,
    ) -> Reply:
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        token = self.token(by) if by is not None else token
        if token is not None:
            told["authorization"] = f"Bearer {token}"
        if body is not None and not isinstance(body, bytes):
            body, told["content-type"] = json.dumps(body), "application/json"
        return await asyncio.to_thread(self._call, method, path, body, told)

    def _call(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Reply:
        connection = http.client.HTTPConnection("localhost", timeout=60)
        with contextlib.closing(connection):
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(60)
            connection.sock.connect(str(self.path))
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
            lower = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, lower, json.loads(content) if content else None)


@pytest.fixture
def rest(short_dir: Path) -> Callable[..., None]:
    """Runs a scenario against a management process of its own."""

    def run(
        scenario: Callable[[Api], Coroutine[Any, Any, None]], *, local: bool = True, more: str = ""
    ) -> None:
        key = ECKey.generate_key("P-256", {"kid": "one"}, private=True)
        jwks, toml = short_dir / "jwks.json", short_dir / "server.toml"
        jwks.write_text(json.dumps(KeySet([key]).as_dict(private=False)))
        toml.write_text(TOML.format(jwks=jwks, local=str(local).lower()) + more)
        data = short_dir / "d"
        data.mkdir(mode=0o700)

        async def main() -> None:
            settings = load_settings(
                file=toml,
                environment={},
                flags={"data_dir": str(data), "trust_domain": "example.org", "bind": "127.0.0.1:0"},
            )
            prepare(settings.database)
            stop, started = asyncio.Event(), asyncio.Event()
            process = asyncio.create_task(manage(settings, stop=stop, started=started.set))
            try:
                async with asyncio.timeout(90):
                    await started.wait()
                    while not settings.rest_socket.exists():  # noqa: ASYNC110 (a file has no event)
                        await asyncio.sleep(0.01)
                    await scenario(Api(settings.rest_socket, key))
            finally:
                stop.set()
                await process

        asyncio.run(main())

    return run
