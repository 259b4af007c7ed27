"""A small strict Vault on loopback: the part of its API that we use, held to the contract of the real one.

`tests/clients/vault` runs one suite over this, over Vault 1.21 and over OpenBao where there is one, so what
is here is what those do. What isn't here answers 404, as an unknown path does. Tests reach in for faults
that a real server can't be brought to: `faults` and `state`.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from vault_auth import AuthMount
from vault_engines import KeyValueMount, PkiMount, Refused, TransitMount, seconds

ROOT_TOKEN = "root"


@dataclass
class Token:
    """A token; `ends` of 0 is never."""

    value: str
    policies: tuple[str, ...]
    ends: float = 0.0
    ttl: int = 0
    max_ends: float = 0.0
    period: int = 0
    renewable: bool = True
    accessor: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def left(self) -> int:
        return max(0, int(self.ends - time.time())) if self.ends else 0


@dataclass
class Faults:
    """What goes wrong with the next answers; each is as good as asked until it is taken back."""

    delay_seconds: float = 0.0
    drip_seconds: float = 0.0  # one byte of the answer's head each
    html: bool = False
    large: bool = False
    cut: bool = False
    redirect_to: str = ""
    status: int = 0
    change: Callable[[str, dict[str, Any]], dict[str, Any]] | None = None  # path, answer: the answer to give


@dataclass
class State:
    """All that a server holds."""

    sealed: bool = False
    initialised: bool = True
    health_status: int = 0  # of a standby: 429, 472, 473
    unseal_key: str = "unseal"
    namespaces: set[str] = field(default_factory=set)
    mounts: dict[str, Any] = field(default_factory=dict)
    auth: dict[str, AuthMount] = field(default_factory=dict)
    policies: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    wrapped: dict[str, tuple[str, dict[str, Any], float]] = field(default_factory=dict)


class FakeVault:
    """One server. `start` and `stop`, or use it as a context."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.state = State(tokens={ROOT_TOKEN: Token(ROOT_TOKEN, ("root",), renewable=False)})
        self.faults = Faults()
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self._lock = threading.RLock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                fake._serve(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_LIST = do_PATCH = handle_any

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._tls = tls
        if tls is not None:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeVault:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    # --- one request

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers.get("Content-Length") or 0)
        raw = request.rfile.read(length) if length else b""
        path, _, query = request.path.removeprefix("/v1/").partition("?")
        method = request.command.upper()
        if method == "GET" and "list=true" in query:
            method = "LIST"
        with self._lock:
            self.requests.append((method, path))
            self.headers.append(dict(request.headers.items()))
            status, answer = self._answer(method, path, raw, request)
        self._send(request, path, status, answer)

    def _answer(
        self, method: str, path: str, raw: bytes, request: BaseHTTPRequestHandler
    ) -> tuple[int, dict[str, Any]]:
        try:
            body = json.loads(raw) if raw.strip() else {}
            answer = self._route(method, path, body, request)
        except _Health as health:
            return health.status, health.answer
        except Refused as refused:
            return refused.status, {"errors": [refused.text]}
        except (ValueError, KeyError, TypeError) as error:
            return 400, {"errors": [f"failed to parse: {error}"]}
        wrap = request.headers.get("X-Vault-Wrap-TTL")
        if wrap and answer:
            token = f"hvs.wrap-{secrets.token_hex(8)}"
            self.state.wrapped[token] = (path, answer, time.time() + seconds(wrap))
            answer = {"wrap_info": {"token": token, "ttl": seconds(wrap), "creation_path": path}}
        return (200 if answer else 204), answer

    def _send(self, request: BaseHTTPRequestHandler, path: str, status: int, answer: dict[str, Any]) -> None:
        faults = self.faults
        if faults.delay_seconds:
            time.sleep(faults.delay_seconds)
        if faults.change is not None:
            answer = faults.change(path, answer)
        content, kind = json.dumps(answer).encode() if answer else b"", "application/json"
        status = faults.status or status
        extra = {}
        if faults.html:
            content, kind = b"<html><body>Please log in</body></html>", "text/html"
        if faults.large:
            content = b'{"data": {"filler": "' + b"x" * (10 << 20) + b'"}}'
        if faults.redirect_to:
            status, extra = 307, {"Location": faults.redirect_to}
        with contextlib.suppress(OSError):  # whoever asked may have gone
            if faults.drip_seconds:
                for each in b"HTTP/1.1 200 OK\r\nX-Filler: " + b"x" * 10_000:
                    request.wfile.write(bytes((each,)))
                    request.wfile.flush()
                    time.sleep(faults.drip_seconds)
            request.send_response(status)
            request.send_header("Content-Type", kind)
            request.send_header("Content-Length", str(len(content)))
            for name, value in extra.items():
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(content[: len(content) // 2] if faults.cut else content)
        if faults.cut:
            request.close_connection = True

    # --- paths

    def _route(
        self, method: str, path: str, body: dict[str, Any], request: BaseHTTPRequestHandler
    ) -> dict[str, Any]:
        state = self.state
        namespace = request.headers.get("X-Vault-Namespace", "").strip("/")
        if path == "sys/health":
            if namespace:
                raise Refused(404, "unsupported path")  # it is the server's
            return self._health()
        if namespace and namespace not in state.namespaces:
            raise Refused(403, "permission denied")
        if path.startswith("sys/namespaces/"):
            state.namespaces.add(path.removeprefix("sys/namespaces/"))
            return {"data": {"path": path}}
        # One tree is enough: what counts is that each path names its namespace, in itself or in the header.
        first, _, rest = path.partition("/")
        path = rest if first in state.namespaces else path
        if path == "sys/unseal":
            state.sealed = state.sealed and body.get("key") != state.unseal_key
            return {"sealed": state.sealed}
        if not state.initialised:
            raise Refused(400, "Vault is not initialized")
        if state.sealed:
            raise Refused(503, "Vault is sealed")
        for mount, auth in state.auth.items():
            if path == f"auth/{mount}/login" and method in ("POST", "PUT"):
                certificate = None
                if isinstance(request.connection, ssl.SSLSocket):
                    certificate = request.connection.getpeercert(binary_form=True)
                policies, options = auth.log_in(body, certificate)
                return {"auth": self._auth(self._issue(policies, options))}
        parts = path.split("/")
        if len(parts) == 4 and parts[1] == "issuer" and parts[3] == "json" and parts[0] in state.mounts:
            return {"data": state.mounts[parts[0]].issuer_json(parts[2])}
        token = self._token(request.headers.get("X-Vault-Token", ""), path)
        self._require(token, method, path)
        if path.startswith("sys/") or path.startswith("auth/token/"):
            return self._system(method, path, body, token)
        for mount, auth in state.auth.items():
            if path.startswith(f"auth/{mount}/"):
                return auth.handle(method, path.removeprefix(f"auth/{mount}/"), body)
        for mount, engine in state.mounts.items():
            if path.startswith(f"{mount}/"):
                return engine.handle(method, path.removeprefix(f"{mount}/"), body)
        raise Refused(404, f'no handler for route "{path}". route entry not found.')

    def _health(self) -> dict[str, Any]:
        state = self.state
        status = state.health_status or (501 if not state.initialised else 503 if state.sealed else 200)
        answer = {"initialized": state.initialised, "sealed": state.sealed, "standby": status != 200}
        if status != 200:
            raise _Health(status, answer)
        return answer

    def _token(self, value: str, path: str) -> Token:
        if path == "sys/wrapping/lookup":
            return Token("", ("root",))
        if path == "sys/wrapping/unwrap" and value in self.state.wrapped:
            return Token(value, ("root",))
        token = self.state.tokens.get(value)
        if token is None or (token.ends and token.ends < time.time()):
            self.state.tokens.pop(value, None)
            raise Refused(403, "permission denied")
        return token

    def _require(self, token: Token, method: str, path: str) -> None:
        wanted = {"GET": "read", "LIST": "list", "DELETE": "delete", "PATCH": "patch"}.get(method, "update")
        found = self.capabilities(token, path)
        if "root" not in found and wanted not in found and not (wanted == "update" and "create" in found):
            raise Refused(403, "1 error occurred:\n\t* permission denied\n\n")

    def capabilities(self, token: Token, path: str) -> list[str]:
        """What a token may do with a path: `root`, `deny`, or the list of its policies."""
        if "root" in token.policies:
            return ["root"]
        if path in ("auth/token/lookup-self", "sys/capabilities-self") or path == "auth/token/renew-self":
            return ["read", "update"]
        if path.startswith(("sys/internal/ui/mounts/", "sys/wrapping/")):
            return ["read", "update"]
        found: set[str] = set()
        for name in token.policies:
            for pattern, capabilities in _rules(self.state.policies.get(name, "")):
                if _matches(pattern, path):
                    found |= set(capabilities)
        return sorted(found) or ["deny"]

    def _issue(self, policies: tuple[str, ...], options: dict[str, Any]) -> Token:
        period = seconds(options.get("token_period", 0))
        ttl = period or seconds(options.get("token_ttl", 0)) or 3600
        longest = seconds(options.get("token_max_ttl", 0))
        ttl = min(ttl, longest) if longest else ttl
        now = time.time()
        token = Token(
            f"hvs.{secrets.token_hex(12)}",
            (*policies, "default"),
            now + ttl,
            ttl,
            now + longest if longest else 0.0,
            period,
            bool(options.get("renewable", True)),
        )
        self.state.tokens[token.value] = token
        return token

    def _auth(self, token: Token) -> dict[str, Any]:
        return {
            "client_token": token.value,
            "lease_duration": token.left,
            "renewable": token.renewable,
            "token_policies": list(token.policies),
        }

    def _system(self, method: str, path: str, body: dict[str, Any], token: Token) -> dict[str, Any]:
        state = self.state
        match path.split("/"):
            case ["auth", "token", "lookup-self"]:
                return {
                    "data": {
                        "ttl": token.left, "renewable": token.renewable, "policies": list(token.policies),
                        "creation_ttl": token.ttl, "accessor": token.accessor,
                    }
                }  # fmt: skip
            case ["auth", "token", "renew-self"]:
                if not token.renewable:
                    raise Refused(400, "lease is not renewable")
                token.ends = time.time() + token.ttl
                token.ends = min(token.ends, token.max_ends) if token.max_ends else token.ends
                return {"auth": self._auth(token)}
            case ["auth", "token", "create"]:
                options = {
                    "token_ttl": body.get("ttl", 0), "token_period": body.get("period", 0),
                    "token_max_ttl": body.get("explicit_max_ttl", 0),
                    "renewable": body.get("renewable", True),
                }  # fmt: skip
                return {"auth": self._auth(self._issue(tuple(body.get("policies", ())), options))}
            case ["auth", "token", "revoke"]:
                state.tokens.pop(body["token"], None)
                return {}
            case ["auth", "token", "revoke-accessor"]:
                found = [each for each in state.tokens.values() if each.accessor == body["accessor"]]
                for each in found:
                    del state.tokens[each.value]
                return {}
            case ["sys", "seal"]:
                state.sealed = True
                return {}
            case ["sys", "wrapping", "lookup"]:
                kept = state.wrapped.get(body.get("token", ""))
                if kept is None or kept[2] < time.time():
                    raise Refused(400, "wrapping token is not valid or does not exist")
                return {"data": {"creation_path": kept[0], "creation_ttl": 60}}
            case ["sys", "wrapping", "unwrap"]:
                return state.wrapped.pop(token.value)[1]
            case ["sys", "capabilities-self"]:
                return {"data": {each: self.capabilities(token, each) for each in body["paths"]}}
            case ["sys", "policies", "acl", name] if method in ("POST", "PUT"):
                list(_rules(body["policy"]))
                state.policies[name] = body["policy"]
                return {}
            case ["sys", "policies", "acl", name] if name in state.policies:
                return {"data": {"name": name, "policy": state.policies[name]}}
            case ["sys", "auth"]:
                return {"data": {f"{name}/": {"type": auth.kind} for name, auth in state.auth.items()}}
            case ["sys", "mounts"]:
                return {"data": {f"{name}/": {"type": engine.kind} for name, engine in state.mounts.items()}}
            case ["sys", "auth", *mount] if method in ("POST", "PUT"):
                return self._enable(state.auth, "/".join(mount), lambda: AuthMount(body["type"]))
            case ["sys", "mounts", *mount] if method in ("POST", "PUT") and mount[-1] != "tune":
                return self._enable(state.mounts, "/".join(mount), lambda: _engine(body))
            case ["sys", "mounts", *mount] if mount[-1] == "tune" and "/".join(mount[:-1]) in state.mounts:
                engine = state.mounts["/".join(mount[:-1])]
                if method == "GET":
                    return {"data": {"max_lease_ttl": engine.max_ttl or 2764800}}
                engine.max_ttl = seconds(body.get("max_lease_ttl", 0))
                return {}
            case ["sys", "internal", "ui", "mounts", *place]:
                for mount, engine in state.mounts.items():
                    if f"{'/'.join(place)}/".startswith(f"{mount}/"):
                        return {"data": {"type": engine.kind, "options": engine.options, "path": f"{mount}/"}}
                raise Refused(403, "preflight capability check returned 403")
        raise Refused(404, "")

    def _enable(self, table: dict[str, Any], mount: str, make: Callable[[], Any]) -> dict[str, Any]:
        if mount in table:
            raise Refused(400, f"path is already in use at {mount}/")
        table[mount] = make()
        return {}


class _Health(Refused):
    """An answer of `sys/health` with another status than 200: no errors in it."""

    def __init__(self, status: int, answer: dict[str, Any]) -> None:
        super().__init__(status, "")
        self.answer = answer


def _engine(body: dict[str, Any]) -> Any:
    options = body.get("options") or {}
    kinds: dict[str, Callable[[], Any]] = {
        "pki": PkiMount,
        "transit": TransitMount,
        "kv": lambda: KeyValueMount(str(options.get("version", "1"))),
    }
    if body["type"] not in kinds:
        raise Refused(400, f"plugin not found in the catalog: {body['type']}")
    engine = kinds[body["type"]]()
    engine.max_ttl = seconds((body.get("config") or {}).get("max_lease_ttl", 0))
    return engine


def _rules(text: str) -> Iterator[tuple[str, list[str]]]:
    """Paths and capabilities of a policy. Raises Refused for what isn't in this small part of HCL."""
    rest = re.sub(r"#[^\n]*", "", text)
    rule = re.compile(r'\s*path\s+"([^"]+)"\s*\{\s*capabilities\s*=\s*\[([^\]]*)\]\s*\}')
    while rest.strip():
        found = rule.match(rest)
        if found is None:
            raise Refused(400, "failed to parse policy")
        yield found[1], re.findall(r'"([a-z]+)"', found[2])
        rest = rest[found.end() :]


def _matches(pattern: str, path: str) -> bool:
    expression = re.escape(pattern).replace(r"\+", "[^/]+")
    expression = expression[:-2] + ".*" if expression.endswith(r"\*") else expression
    return re.fullmatch(expression, path) is not None


def tls_context(certificate: Path, key: Path, client_ca: Path | None = None) -> ssl.SSLContext:
    """A server's context, which asks clients for a certificate if it knows whose."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context
