"""`gatehouse-agent` as people run it: what it prints, and with which exit code it ends."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from control_plane.core.spiffe_id import TrustDomain

TD = TrustDomain("agents.test")


async def command(
    *arguments: str, text: str = "", environment: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent", *arguments,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "200", **(environment or {})},
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(text.encode()), 50)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def test_what_a_workload_sees(agent_in: Any, entry: Any, run_async: Any, short_dir: Path) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w", hint="main")) as run:
            data = ("--data-dir", str(run.settings.data_dir))
            code, out, _ = await command("api", "fetch", "x509", *data, "--output", "json")
            told = json.loads(out)
            assert code == 0 and [each["spiffe_id"] for each in told["svids"]] == [f"spiffe://{TD}/w"]
            assert told["svids"][0]["hint"] == "main" and "PRIVATE KEY" not in out
            code, out, _ = await command("api", "fetch", "x509", *data, "--write", str(short_dir / "out"))
            assert code == 0 and f"spiffe://{TD}/w" in out
            assert (short_dir / "out" / "svid.0.key").stat().st_mode & 0o777 == 0o600
            code, out, _ = await command("api", "fetch", "jwt", *data, "--audience", "a")
            assert code == 0
            code, out, _ = await command(
                "api", "validate", "jwt", *data, "--audience", "a", "--output", "json", text=out
            )
            assert code == 0 and json.loads(out)["claims"]["sub"] == f"spiffe://{TD}/w"
            code, out, err = await command(
                "api", "validate", "jwt", *data, "--audience", "a", "--svid", "x.y.z"
            )
            assert code == 1 and out == "" and "ValidateJWTSVID" in err
            code, out, err = await command("api", "fetch", "jwt", *data, "--audience", "b\udcff")
            assert (code, out) == (2, "") and err.startswith("gatehouse-agent: --audience holds bytes")
            code, out, _ = await command("api", "fetch", "bundles", *data, "--output", "json")
            assert code == 0 and set(json.loads(out)["x509"]) == {f"spiffe://{TD}"}
            endpoint = {"SPIFFE_ENDPOINT_SOCKET": f"unix://{run.settings.socket_path}"}
            code, _, _ = await command("api", "fetch", "x509", environment=endpoint)
            assert code == 0

    run_async(work())


def test_what_an_administrator_sees(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        near = entry("e2", "/near", f"unix:uid:{os.getuid()}", "unix:path:/usr/bin/crat")
        async with agent_in(entry("e1", "/w"), near) as run:
            data = ("--data-dir", str(run.settings.data_dir))
            code, out, _ = await command("explain", "--pid", str(os.getpid()), *data)
            assert code == 0
            assert f"gets spiffe://{TD}/w, its default" in out
            assert f"spiffe://{TD}/near (entry e2) misses unix:path:/usr/bin/crat" in out
            code, out, _ = await command("explain", "--pid", str(os.getpid()), *data, "--output", "json")
            told = json.loads(out)
            assert [each["missing"] for each in told["near"]] == [["unix:path:/usr/bin/crat"]]
            assert told["matches"][0]["renews_at"] < told["matches"][0]["svid_expires_at"]
            code, out, _ = await command("explain", "--selector", "docker:image_id:none", *data)
            assert code == 3 and "gets no identity" in out
            assert "--parent-id" in out, "who has nothing near is told how an entry gets here"
            code, out, _ = await command("explain", "--pid", str(2**22 - 1), *data)
            assert code == 3 and "doesn't run any more" in out
            code, _, _ = await command("explain", *data)
            assert code == 2
            code, out, _ = await command("list", *data, "--output", "json")
            assert [each["entry_id"] for each in json.loads(out)] == ["e1", "e2"]
            code, out, _ = await command("healthcheck", *data, "--output", "json")
            assert (code, json.loads(out)) == (0, {"status": "serving"})

    run_async(work())


def test_no_identity_and_no_agent(agent_in: Any, entry: Any, run_async: Any, short_dir: Path) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w", "unix:uid:99999")) as run:
            data = ("--data-dir", str(run.settings.data_dir))
            code, out, err = await command("api", "fetch", "x509", *data)
            assert code == 1 and out == "" and "no identity issued" in err and "explain --pid" in err
        code, out, err = await command(
            "healthcheck", "--data-dir", str(short_dir / "none"), "--output", "json"
        )
        assert code == 4 and json.loads(err)["error"] == "unavailable"

    run_async(work())


def test_bad_settings_are_said_in_one_line(run_async: Any, short_dir: Path) -> None:
    async def work() -> None:
        data = ("--data-dir", str(short_dir / "d"))
        code, _, err = await command("run", *data)
        assert code == 1 and "trust_domain is missing" in err and "Traceback" not in err
        code, _, err = await command("run", *data, "--trust-domain", "a.test")
        assert code == 1 and "--trust-bundle" in err
        (short_dir / "agent.toml").write_text('trust_domian = "a.test"\n')
        code, _, err = await command("run", *data, "--config", str(short_dir / "agent.toml"))
        assert code == 1 and "did you mean trust_domain" in err
        code, _, err = await command(
            "run", *data, "--trust-domain", "a.test", environment={"GATEHOUSE_AGENT_SERVER": "nonsense"}
        )
        assert code == 1 and "host:port" in err

    run_async(work())


def test_settings_are_checked_before_a_start(run_async: Any, short_dir: Path) -> None:
    async def work() -> None:
        file = short_dir / "agent.toml"
        file.write_text(
            'trust_domain = "a.test"\nserver = "central:8081"\ndata_dir = "/d"\njoin_token = "s3cret"\n'
        )
        code, out, _ = await command("check", "config", str(file), "--output", "json")
        told = json.loads(out)
        assert code == 0 and "s3cret" not in out
        assert (told["server"], told["attests_by"]) == ("central:8081", "join_token")
        assert told["socket"] == "/d/agent.sock"
        file.write_text('trust_domian = "a.test"\nsvid_cache_size = "many"\n')
        code, out, err = await command("check", "config", str(file), "--output", "json")
        said = json.loads(err)["message"]
        assert code == 1 and not out
        assert "did you mean trust_domain" in said and "svid_cache_size" in said
        file.write_text('server = "central:8081"\n')
        given = ("--trust-domain", "a.test", "--data-dir", "/e")
        code, out, err = await command("check", "config", str(file), *given, "--output", "json")
        assert code == 0, err
        assert (json.loads(out)["trust_domain"], json.loads(out)["data_dir"]) == ("a.test", "/e")

    run_async(work())


def test_commands_that_become_a_process_tell_errors_as_json_too(run_async: Any, short_dir: Path) -> None:
    async def work() -> None:
        missing = str(short_dir / "none.toml")
        for expected, kind, *words in (
            (1, "invalid-input", "run", "--data-dir", str(short_dir), "--trust-domain", "NO"),
            (3, "not-found", "envoy", "bootstrap", "--service", missing),
            (3, "not-found", "envoy", "run", "--service", missing, "--run-dir", str(short_dir)),
            (3, "not-found", "envoy", "files", "--service", missing, "--out", str(short_dir)),
            (1, "invalid-input", "envoy", "stop", "--admin", "nonsense"),
        ):
            code, out, err = await command(*map(str, words), "--output", "json")
            assert (code, out, json.loads(err)["error"]) == (expected, "", kind), words

    run_async(work())


def test_help_is_there_at_once(run_async: Any) -> None:
    async def work() -> None:
        began = time.monotonic()
        code, out, _ = await command("--help")
        assert code == 0 and "explain" in out
        assert time.monotonic() - began < 3

    run_async(work())


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['x', '--help']\n"
        "try:\n from agent.cli import main; main()\nexcept SystemExit: pass\n"
        "heavy = {'cryptography', 'grpclib', 'google.protobuf', 'structlog', 'asyncio', 'rich.console'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
