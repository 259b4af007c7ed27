"""Servers and agents as processes: ours, and SPIRE's own, side by side on loopback.

Each is started with what it needs and nothing else, in a short folder of its own (socket paths are bounded),
waits until it serves, and is ended by its id. When a wait runs out, the end of the log is in the message.
Loaded by `tests/conftest.py`, which hands the classes out as the fixture `running`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

TRUST_DOMAIN = "interop.test"
DEADLINE_SECONDS = 40.0
START_SECONDS = 100.0  # processes that start beside many others, on few cores
BIN = Path(sys.executable).parent


def free_port() -> int:
    """A loopback port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(
    condition: Callable[[], Any], what: str, *, seconds: float = DEADLINE_SECONDS, log: Path | None = None
) -> Any:
    """Waits until `condition` gives something true, and gives it back."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            told = "" if log is None else f"; the end of {log}:\n{tail(log)}"
            raise AssertionError(f"waited {seconds:g} s for {what}{told}")
        time.sleep(0.05)


def tail(log: Path, lines: int = 25) -> str:
    """The end of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def run(command: Sequence[str | Path], *, timeout: float = DEADLINE_SECONDS, check: bool = True) -> str:
    """Runs a program to its end and gives its standard output; what it said on error is in the assertion."""
    finished = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=timeout
    )
    if check:
        assert finished.returncode == 0, (
            f"{command} ended with {finished.returncode}: {finished.stdout}{finished.stderr}"
        )
    return finished.stdout


def succeeds(command: Sequence[str | Path]) -> bool:
    """Whether a program ends well; what it says is not kept."""
    return subprocess.run([str(part) for part in command], capture_output=True).returncode == 0


def command_line(module: str, *arguments: str | Path) -> tuple[int, str, str]:
    """One command of ours in this process: its exit code, standard output and error.

    An interpreter's start costs half a second of CPU, and the suite gives hundreds of commands. The scripts
    themselves are run by `tests/system/test_cli.py` and the tests of the demo. Where this process can't run a
    command (threads, beside a loop), it is a process of its own.
    """
    given = [str(part) for part in arguments]
    if threading.current_thread() is not threading.main_thread() or _beside_a_loop():
        script = BIN / ("gatehouse" if module == "control_plane.cli.root" else "gatehouse-agent")
        finished = subprocess.run(
            [str(script), *given], capture_output=True, text=True, timeout=DEADLINE_SECONDS
        )
        return finished.returncode, finished.stdout, finished.stderr
    app = importlib.import_module(module).app
    done = CliRunner().invoke(app, given)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def _beside_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def accepts(path: Path) -> bool:
    """Whether somebody listens on a unix socket: asked first, since each healthcheck that comes too early
    starts an interpreter beside the processes that are waited for."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def lines(text: str) -> list[dict[str, Any]]:
    """JSON lines."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def held_up_seconds(pid: int) -> float:
    """How long a process, all its threads together, was ready to run and others ran (proc(5), schedstat): to
    be taken from what is measured on a machine that has much else to do. 0 where the kernel doesn't say."""
    total = 0
    for schedule in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            total += int(schedule.read_text().split()[1])
    return total / 1e9


class Process:
    """A program that runs until it is stopped."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str | Path], **environment: str) -> None:
        """Starts it; the log is appended to."""
        with self.log.open("ab") as sink:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def await_serving(self, serves: Callable[[], bool], what: str) -> None:
        """Waits until it serves; fails at once when it ends instead."""

        def condition() -> bool:
            assert self.is_alive, f"{what} ended instead of serving:\n{tail(self.log)}"
            return serves()

        until(condition, f"{what} to serve", seconds=START_SECONDS, log=self.log)

    def wait(self) -> int:
        """Waits for its end; the exit code."""
        assert self._process is not None
        return self._process.wait(DEADLINE_SECONDS)

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not end it."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()

    def family(self) -> list[int]:
        """Its id and those of all its descendants."""
        parents: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                    parents.setdefault(int(fields[1]), []).append(int(entry.name))
        found = [self.pid]
        for each in found:
            found.extend(parents.get(each, []))
        return found

    def cpu_seconds(self) -> float:
        """CPU time of the whole family so far, user and system."""
        ticks = 0
        for pid in self.family():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def resident_mib(self) -> float:
        """Resident memory of the whole family, in MiB."""
        pages = 0
        for pid in self.family():
            with contextlib.suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class GatehouseServer(Process):
    """`gatehouse server run`, with its command line as `cli`."""

    def __init__(self, folder: Path, *, trust_domain: str = TRUST_DOMAIN, extra: Sequence[str] = ()) -> None:
        super().__init__(folder, "server")
        self.trust_domain = trust_domain
        self.data = folder / "s"
        self.port = free_port()
        self.extra = list(extra)

    @property
    def socket(self) -> Path:
        """The admin socket."""
        return self.data / "server.sock"

    def run(self) -> GatehouseServer:
        """Starts and waits until it serves."""
        self.launch()
        self.await_healthy()
        return self

    def launch(self) -> None:
        """Starts it."""
        flags: list[str | Path] = [
            "--data-dir",
            self.data,
            "--trust-domain",
            self.trust_domain,
            "--bind",
            f"127.0.0.1:{self.port}",
        ]
        self.start([BIN / "gatehouse", "server", "run", *flags, *self.extra])

    def await_healthy(self) -> None:
        """Waits until it serves: it, and not what is left of one that was killed before."""
        self.await_serving(
            lambda: self._has_started() and accepts(self.socket) and self._is_healthy(), "the server"
        )

    def _has_started(self) -> bool:
        try:
            return bool(json.loads((self.data / "server.json").read_text())["pid"] == self.pid)
        except OSError:
            return False

    def cli(self, *arguments: str, check: bool = True) -> Any:
        """The JSON answer of one command. Unless `check`, None from one that failed: it answers nothing."""
        code, text, said = command_line(
            "control_plane.cli.root", *arguments, "--data-dir", self.data, "--output", "json"
        )
        if check:
            assert code == 0, f"gatehouse {arguments} ended with {code}: {text}{said}"
        return json.loads(text) if text or check else None

    def _is_healthy(self) -> bool:
        flags = ("--data-dir", self.data, "--timeout", "3")
        return command_line("control_plane.cli.root", "healthcheck", *flags)[0] == 0

    def bundle_file(self) -> Path:
        """The trust bundle as a PEM file."""
        path = self.folder / "bundle.pem"
        deadline = time.monotonic() + 60
        while True:
            try:
                path.write_text(self.cli("bundle", "show")["pem"])
            except AssertionError:  # the management process may be on its way back from a kill
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.3)
            else:
                return path

    def token(self) -> str:
        """A join token."""
        return str(self.cli("token", "generate")["token"])

    def register(self, name: str, parent: str, *selectors: str, **flags: str) -> str:
        """An entry for `spiffe://trust-domain/name`; gives its ID."""
        given = [part for each in selectors for part in ("--selector", each)]
        given += [part for key, value in flags.items() for part in (f"--{key.replace('_', '-')}", value)]
        identity = f"spiffe://{self.trust_domain}/{name}"
        answer = self.cli("entry", "create", "--spiffe-id", identity, "--parent-id", parent, *given)
        return str(answer["results"][0]["entry"]["id"])

    def register_all(self, parent: str, selectors: dict[str, str]) -> None:
        """An entry for each name, with one selector, in one command."""
        entries = [
            {
                "spiffe_id": f"spiffe://{self.trust_domain}/{name}",
                "parent_id": parent,
                "selectors": [selector],
            }
            for name, selector in selectors.items()
        ]
        path = self.folder / "entries.json"
        path.write_text(json.dumps(entries))
        self.cli("entry", "create", "--data", str(path))


class GatehouseAgent(Process):
    """`gatehouse-agent run`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "agent")
        self.data = folder / "a"

    @property
    def api(self) -> str:
        """Address of the Workload API."""
        return f"unix://{self.data / 'agent.sock'}"

    def run(
        self, server: str, trust_domain: str, bundle: Path, token: str = "", extra: Sequence[str] = ()
    ) -> GatehouseAgent:
        """Starts and waits until it serves."""
        flags: list[str | Path] = [
            "--data-dir",
            self.data,
            "--trust-domain",
            trust_domain,
            "--server",
            server,
        ]
        flags += ["--trust-bundle", bundle, *(["--join-token", token] if token else []), *extra]
        self.start([BIN / "gatehouse-agent", "run", *flags])
        self.await_serving(
            lambda: accepts(self.data / "agent-admin.sock") and self._is_healthy(), "the agent"
        )
        return self

    def _is_healthy(self) -> bool:
        return command_line("agent.cli", "healthcheck", "--data-dir", self.data)[0] == 0


class SpireServer(Process):
    """The real spire-server, limits off."""

    def __init__(self, folder: Path, binary: Path, *, trust_domain: str = TRUST_DOMAIN) -> None:
        super().__init__(folder, "spire-server")
        self.binary = binary
        self.trust_domain = trust_domain
        self.port = free_port()
        self.socket = folder / "spire-server.sock"

    def run(self) -> SpireServer:
        """Writes its configuration, starts it and waits until it serves."""
        configuration = self.folder / "server.conf"
        configuration.write_text(f"""
server {{
    bind_address = "127.0.0.1"
    bind_port = "{self.port}"
    socket_path = "{self.socket}"
    trust_domain = "{self.trust_domain}"
    data_dir = "{self.folder}"
    log_level = "WARN"
    ca_ttl = "168h"
    default_x509_svid_ttl = "24h"
    ratelimit {{
        attestation = false
        signing = false
    }}
}}
plugins {{
    DataStore "sql" {{
        plugin_data {{
            database_type = "sqlite3"
            connection_string = "{self.folder}/datastore.sqlite3"
        }}
    }}
    KeyManager "memory" {{
        plugin_data {{}}
    }}
    NodeAttestor "join_token" {{
        plugin_data {{}}
    }}
}}
""")
        self.start([self.binary, "run", "-config", configuration])
        check = [str(self.binary), "healthcheck", "-socketPath", str(self.socket)]
        self.await_serving(lambda: succeeds(check), "spire-server")
        return self

    def cli(self, *arguments: str) -> Any:
        """The JSON answer of one command."""
        return json.loads(run([self.binary, *arguments, "-socketPath", self.socket, "-output", "json"]))

    def bundle_file(self) -> Path:
        """The trust bundle as a PEM file."""
        path = self.folder / "bundle.pem"
        path.write_text(run([self.binary, "bundle", "show", "-socketPath", self.socket]))
        return path

    def token(self) -> str:
        """A join token."""
        return str(self.cli("token", "generate")["value"])

    def register(self, name: str, parent: str, *selectors: str) -> str:
        """An entry for `spiffe://trust-domain/name`; gives its ID."""
        given = [part for each in selectors for part in ("-selector", each)]
        identity = f"spiffe://{self.trust_domain}/{name}"
        answer = self.cli("entry", "create", "-spiffeID", identity, "-parentID", parent, *given)
        return str(answer["results"][0]["entry"]["id"])

    def register_all(self, parent: str, selectors: dict[str, str]) -> None:
        """An entry for each name, with one selector, in one command."""
        entries = [
            {
                "spiffe_id": f"spiffe://{self.trust_domain}/{name}",
                "parent_id": parent,
                "selectors": [dict(zip(("type", "value"), selector.split(":", 1), strict=True))],
            }
            for name, selector in selectors.items()
        ]
        path = self.folder / "entries.json"
        path.write_text(json.dumps({"entries": entries}))
        self.cli("entry", "create", "-data", str(path))


class SpireAgent(Process):
    """The real spire-agent."""

    def __init__(self, folder: Path, binary: Path) -> None:
        super().__init__(folder, "spire-agent")
        self.binary = binary
        self.socket = folder / "spire-agent.sock"

    @property
    def api(self) -> str:
        """Address of the Workload API."""
        return f"unix://{self.socket}"

    def run(self, port: int, trust_domain: str, bundle: Path, *, attestor: str) -> SpireAgent:
        """Starts it with one node attestor (its block of configuration) and waits until it serves."""
        configuration = self.folder / "agent.conf"
        data = self.folder / "spire-agent"
        data.mkdir(exist_ok=True)
        token = f'join_token = "{attestor}"' if "{" not in attestor else ""
        block = attestor if "{" in attestor else 'NodeAttestor "join_token" { plugin_data {} }'
        configuration.write_text(f"""
agent {{
    data_dir = "{data}"
    log_level = "DEBUG"
    server_address = "127.0.0.1"
    server_port = "{port}"
    socket_path = "{self.socket}"
    trust_domain = "{trust_domain}"
    trust_bundle_path = "{bundle}"
    {token}
}}
plugins {{
    {block}
    KeyManager "memory" {{
        plugin_data {{}}
    }}
    WorkloadAttestor "unix" {{
        plugin_data {{
            discover_workload_path = true
        }}
    }}
}}
""")
        self.start([self.binary, "run", "-config", configuration])
        check = [str(self.binary), "healthcheck", "-socketPath", str(self.socket)]
        self.await_serving(lambda: succeeds(check), "spire-agent")
        return self


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short path, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="gh"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def stopping(*processes: Process) -> Iterator[None]:
    """Stops processes at the end, the last one first."""
    try:
        yield
    finally:
        for each in reversed(processes):
            each.stop()
