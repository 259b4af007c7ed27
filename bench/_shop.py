"""The shop of `make up` in a folder of its own: real server, agent and Envoys, to be driven and disturbed.

Its two people act over REST on the server's socket, so that what is measured is not a command's start. Its
processes can be killed and started again just as they were; all of them end with the block.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from control_plane.cli.policy_files import read_project
from deploy.demo import mesh, processes

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_SECONDS = 60.0
START_SECONDS = 240.0  # of the whole shop, on a machine that does much else
FRONTEND, PAYMENTS, CARD_DB = (f"spiffe://gatehouse.test/ns/shop/sa/{name}" for name in mesh.SERVICES)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=DEADLINE_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Shop:
    """The running shop; `at` tells its addresses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.at = mesh.Shop.of(json.loads((folder / "demo" / "ports.json").read_text()))
        self._state = folder / "demo" / "processes.json"
        self._commands = {one.name: _command(one.pid) for one in processes.load(self._state)}

    def log(self, name: str) -> Path:
        """What a process said."""
        return self.folder / "demo" / f"{name}.log"

    def rest(self, person: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """POST as `ada` or `grace`, GET without a body. Raises RuntimeError with the server's words."""
        token = (self.folder / "demo" / "people" / f"{person}.token").read_text()
        connection = _UnixConnection(self.folder / "api.sock")
        try:
            connection.request(
                "GET" if body is None else "POST",
                f"/v1/{path}",
                body=None if body is None else json.dumps(body),
                headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
            )
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status >= 400:
            raise RuntimeError(f"{path}: {response.status} {answer}")
        return answer

    def approved(self, changes: Mapping[str, Callable[[str], str]]) -> int:
        """A version of the starter policy with some files changed, ready to be applied."""
        files = read_project(mesh.POLICY)
        for name, change in changes.items():
            files[name] = change(files[name])
        return self.approved_files(files, mesh.INVENTORY.read_text())

    def approved_files(self, files: Mapping[str, str], inventory: str) -> int:
        """A version of these files over this inventory, ready to be applied."""
        pushed = self.rest(
            "ada",
            "policy/versions",
            {"files": files, "inventory": inventory, "reason": "a try", "wait_seconds": 60},
        )
        if pushed["state"] != "proved":
            raise RuntimeError(f"the policy was not proved: {pushed}")
        version = int(pushed["version"])
        self.rest("ada", f"policy/versions/{version}/plan", {})
        self.rest("grace", f"policy/versions/{version}/approve", {"reason": "a try"})
        return version

    def apply(self, version: int) -> None:
        """Brings an approved version into force."""
        self.rest("grace", f"policy/versions/{version}/apply", {"reason": "a try", "percent": 100})

    def roll_back(self, version: int) -> None:
        """Brings a version into force that was before."""
        self.rest("grace", "policy/rollback", {"reason": "a try", "to": version})

    def cut_off(self, spiffe_id: str) -> None:
        """Quarantine."""
        self.rest("grace", "quarantine", {"spiffe_id": spiffe_id, "reason": "a try"})

    def let_in(self, spiffe_id: str) -> None:
        """The end of quarantine."""
        self.rest("grace", "quarantine/release", {"spiffe_id": spiffe_id, "reason": "a try"})

    def status(self, path: str = "/v1/charges", method: str = "GET") -> int:
        """Of one request from the front end to the payment service; 0 where there is no answer."""
        connection = http.client.HTTPConnection(self.at.host("frontend"), 9001, timeout=5)
        try:
            connection.request(method, path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def until_status(self, wanted: Callable[[int], bool], path: str = "/v1/charges") -> float:
        """Asks until the answer is as wanted; the moment of that by the monotonic clock."""
        until(lambda: wanted(self.status(path)), f"another answer to {path}", pause=0.002)
        return time.monotonic()

    def enforced(self) -> Any:
        """What `gatehouse-agent policy` says."""
        command = [
            *(str(Path(sys.executable).parent / "gatehouse-agent"), "policy"),
            *("--data-dir", str(self.folder), "--output", "json"),
        ]
        return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)

    def process(self, name: str) -> processes.Started:
        """One of `server`, `agent`, `envoy-payments`, …"""
        return next(one for one in processes.load(self._state) if one.name == name)

    def end(self, name: str, by: signal.Signals = signal.SIGKILL) -> None:
        """Ends one process and waits until it is gone."""
        process = self.process(name)
        os.kill(process.pid, by)
        until(lambda: not process.is_alive, f"the end of {name}")

    def start(self, name: str) -> None:
        """Starts it as it was started first."""
        log = self.log(name)
        started = processes.start(name, self._commands[name], log=log, folder=ROOT, environment={})
        others = [one for one in processes.load(self._state) if one.name != name]
        processes.save(self._state, [*others, started])

    def agent_program(self, *command: str) -> list[str]:
        """A command line for the interpreter that no entry knows yet."""
        return [str(self.folder / "demo" / "interpreters" / "stranger" / "bin" / "python"), *command]

    def register_all(self, programs: Mapping[str, Path]) -> None:
        """More entries on the node at once: the identities of programs, by their path."""
        entries = [
            {
                "spiffe_id": spiffe_id,
                "parent_id": "spiffe://gatehouse.test/node/this-machine",
                "selectors": [f"unix:path:{program.resolve()}"],
            }
            for spiffe_id, program in programs.items()
        ]
        data = self.folder / "entries.json"
        data.write_text(json.dumps(entries))
        command = [str(Path(sys.executable).parent / "gatehouse"), "entry", "create", "--data", str(data)]
        subprocess.run(
            [*command, "--data-dir", str(self.folder)], check=True, capture_output=True, timeout=60
        )

    def register(self, spiffe_id: str, *selectors: str) -> None:
        """One more entry on the node."""
        flags = [part for one in selectors for part in ("--selector", one)]
        command = [
            *(str(Path(sys.executable).parent / "gatehouse"), "entry", "create", "--spiffe-id", spiffe_id),
            *("--parent-id", "spiffe://gatehouse.test/node/this-machine", *flags),
            *("--data-dir", str(self.folder)),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=60)


@contextlib.contextmanager
def shop() -> Iterator[Shop]:
    """The shop, running, with the starter policy in force."""
    folder = Path(tempfile.mkdtemp(prefix="gh"))
    try:
        _demo("up", folder)
        yield Shop(folder)
    finally:
        _demo("down", folder)
        shutil.rmtree(folder, ignore_errors=True)


def until(condition: Callable[[], object], what: str, *, pause: float = 0.02) -> None:
    """Waits for a condition. Raises RuntimeError when it doesn't come true."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {DEADLINE_SECONDS:.0f} s for {what}")
        time.sleep(pause)


def _demo(action: str, folder: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "deploy.demo", action],
        cwd=ROOT, env={**os.environ, "GATEHOUSE_DEMO_DIR": str(folder)},
        capture_output=True, text=True, timeout=START_SECONDS, check=False,
    )  # fmt: skip
    if finished.returncode != 0:
        raise RuntimeError(f"`make {action}` failed: {finished.stdout[-2000:]}{finished.stderr[-2000:]}")


def _command(pid: int) -> list[str]:
    """How a process was started, without the token that counted once."""
    words = [word.decode() for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]]
    if "--join-token" in words:
        place = words.index("--join-token")
        del words[place : place + 2]
    return words
