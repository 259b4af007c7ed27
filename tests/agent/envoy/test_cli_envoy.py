"""`gatehouse-agent envoy` as people run it, and Envoy as it comes out of it."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.envoy.program import find_envoy
from control_plane.core.errors import NotFound

WEB, PAY = "spiffe://agents.test/web", "spiffe://agents.test/pay"
SERVICE = """
name = "pay"
spiffe_id = "spiffe://agents.test/pay"

[[inbound]]
name = "http"
listen = "127.0.0.1:{port}"
upstream = "127.0.0.1:1"
protocol = "grpc"

[[outbound]]
name = "db"
listen = "unix:{folder}/db.sock"
upstream = "db.test:9432"
spiffe_id = "spiffe://agents.test/db"
protocol = "tcp"
"""


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent", "envoy", *arguments,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


async def command(*arguments: str, text: str = "") -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    process = await start(*arguments)
    out, err = await asyncio.wait_for(process.communicate(text.encode()), 50)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def described(folder: Path, port: int = 8443) -> str:
    path = folder / "pay.toml"
    path.write_text(SERVICE.format(port=port, folder=folder))
    return str(path)


def test_what_is_written_is_complete_and_envoy_takes_it(short_dir: Path, run_async: Any) -> None:
    out = short_dir / "envoy.json"

    async def work() -> None:
        for dialect in ((), ("--sotw",)):
            code, printed, told = await command(
                "bootstrap",
                "--service",
                described(short_dir),
                "--out",
                str(out),
                "--data-dir",
                str(short_dir),
                *dialect,
            )
            assert (code, printed) == (0, "") and "--drain-time-s 1" in told
            document = json.loads(out.read_text())
            assert (
                document["node"]["metadata"]["gatehouse"]["service"]["spiffe_id"]
                == "spiffe://agents.test/pay"
            )
            assert document["admin"]["address"]["pipe"] == {
                "path": f"{short_dir}/pay.admin.sock",
                "mode": 0o600,
            }
            assert str(short_dir / "agent.sock") in out.read_text()
            assert ("DELTA_GRPC" in out.read_text()) != bool(dialect)
            assert "PRIVATE KEY" not in out.read_text()
            try:
                binary = find_envoy()
            except NotFound as error:
                pytest.skip(str(error))
            check = await asyncio.create_subprocess_exec(
                binary, "--mode", "validate", "-c", str(out), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            answer, _ = await asyncio.wait_for(check.communicate(), 50)
            assert check.returncode == 0 and b"warning" not in answer, answer.decode()

    run_async(work())


def test_the_description_may_come_on_standard_input(run_async: Any) -> None:
    async def work() -> None:
        text = SERVICE.format(port=8443, folder="/run")
        code, printed, _ = await command(
            "bootstrap",
            "--service",
            "-",
            "--admin",
            "127.0.0.1:9901",
            "--socket-path",
            "/run/agent.sock",
            text=text,
        )
        address = json.loads(printed)["admin"]["address"]["socket_address"]
        assert code == 0 and address == {"address": "127.0.0.1", "port_value": 9901}

    run_async(work())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("listen =", "lisen ="), "reading inbound 1: listen is missing"),
        (('protocol = "grpc"', 'protocol = "grcp"'), "isn't a protocol: one of http, http2, grpc, tcp"),
        (('name = "pay"', 'name = "pay"\nport = "1"'), "there is no 'port'"),
        (("[[inbound]]", "[[inbound]"), "reading the service description"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(
    short_dir: Path, run_async: Any, change: tuple[str, str], told: str
) -> None:
    path = Path(described(short_dir))
    path.write_text(path.read_text().replace(*change, 1))

    async def work() -> None:
        code, printed, errors = await command("bootstrap", "--service", str(path))
        assert (code, printed) == (1, "") and told in errors and "Traceback" not in errors
        assert errors.startswith(f"gatehouse-agent: {path}: ") or "reading the service description" in errors

    run_async(work())


def test_a_socket_that_envoy_can_not_reach_is_named(short_dir: Path, run_async: Any) -> None:
    async def work() -> None:
        socket = f"/{'x' * 120}/agent.sock"
        code, _, errors = await command(
            "bootstrap", "--service", described(short_dir), "--socket-path", socket
        )
        assert code == 1 and "isn't a unix socket" in errors and "107 bytes" in errors

    run_async(work())


def test_run_becomes_envoy(lab: Any, entry: Any, run_async: Any, short_dir: Path) -> None:
    async def work() -> None:
        async with lab(entry("e1", "/pay")) as it:
            folder = short_dir / "run"
            process = await start(
                "run",
                "--service",
                described(short_dir, free_port()),
                "--run-dir",
                str(folder),
                "--socket-path",
                str(it.socket),
            )
            try:
                await it.run.until(lambda: len(it.parts.fleet) == 1, "Envoy asks", 20)
                assert (Path("/proc") / str(process.pid) / "exe").readlink().name == "envoy"
                admin = folder / "pay.admin.sock"
                assert stat.S_IMODE(admin.stat().st_mode) == 0o600
            finally:
                process.terminate()
                await asyncio.wait_for(process.wait(), 20)

    def free_port() -> int:
        import socket

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    run_async(work())


def test_stop_lets_what_runs_finish(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any
) -> None:
    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            pay, _ = await it.pair()
            it.enforcement.put(enforcing(admitting(PAY, WEB)))
            await it.until_status(200)
            slow = asyncio.create_task(it.status("/slow"))
            await asyncio.sleep(0.1)
            code, printed, told = await command("stop", "--admin", f"unix:{pay.admin}")
            assert (code, printed, told) == (0, "", "")
            assert await slow == 200
            await it.run.until(lambda: pay.process.poll() is not None, "Envoy has ended")
            assert pay.process.returncode == 0
            code, _, told = await command("stop", "--admin", f"unix:{pay.admin}")
            assert code == 1 and "is it running?" in told

    run_async(work())


def test_stop_cuts_what_does_not_end_and_says_so(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any
) -> None:
    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            pay, _ = await it.pair()
            it.enforcement.put(enforcing(admitting(PAY, WEB)))
            await it.until_status(200)
            reader, writer = await asyncio.open_connection("127.0.0.1", it.ports["tcp"])
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            code, _, told = await command("stop", "--admin", f"unix:{pay.admin}", "--seconds", "0.2")
            assert code == 0 and "1 requests or connections were still open after 0.2 s" in told
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()

    run_async(work())


def test_files_are_the_second_way(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any, short_dir: Path, free_port: Any
) -> None:
    """The policy reaches an Envoy that holds no discovery stream, and a new one as well."""

    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            _, web = await it.pair()
            it.envoys[0].stop()  # another takes the place of pay's, from files
            folder, description = short_dir / "files", it.described["pay"]
            (short_dir / "pay.yaml").write_text(json.dumps(description))
            given = (
                "--service",
                str(short_dir / "pay.yaml"),
                "--out",
                str(folder),
                "--socket-path",
                str(it.socket),
            )
            it.enforcement.put(enforcing(admitting(PAY)))
            code, _, told = await command("files", *given, "--once")
            assert (code, told) == (0, "")
            assert "PRIVATE KEY" not in "".join(one.read_text() for one in folder.iterdir())
            envoy = it.started("files", json.loads((folder / "envoy.json").read_text()))
            await envoy.live("http", "tcp")
            assert await it.status() == 403
            writer = await start("files", *given)
            try:
                for sequence, callers, status in ((2, (WEB,), 200), (3, (), 403)):
                    it.enforcement.put(enforcing(admitting(PAY, *callers), sequence=sequence))
                    await it.until_status(status, 20)
            finally:
                writer.terminate()
                await asyncio.wait_for(writer.wait(), 20)
            assert await envoy.stat(r".*update_rejected") == 0
            assert await web.stat(r".*update_rejected") == 0

    run_async(work())


def test_a_program_that_is_not_there_is_named(short_dir: Path, run_async: Any) -> None:
    async def work() -> None:
        code, _, errors = await command(
            "run", "--service", described(short_dir), "--run-dir", str(short_dir), "--envoy", "no-such-envoy"
        )
        assert code == 3 and "no-such-envoy isn't a program" in errors

    run_async(work())
