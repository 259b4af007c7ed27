"""Workloads that stand on the `spiffe` package, which others wrote, as processes of their own.

Two of them run from two copies of the interpreter, registered by `unix:path`: one user, two identities.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from control_plane.core.spiffe_id import TrustDomain

TD = TrustDomain("agents.test")

FETCH = """
import json, sys
from spiffe import WorkloadApiClient
with WorkloadApiClient(sys.argv[1]) as client:
    svid = client.fetch_x509_svid()
    token = client.fetch_jwt_svid(audience={"db"})
    context = client.fetch_x509_context()
    print(json.dumps({
        "spiffe_id": str(svid.spiffe_id),
        "all": [str(each.spiffe_id) for each in client.fetch_x509_svids()],
        "token_id": str(token.spiffe_id),
        "validated": str(client.validate_jwt_svid(token.token, "db").spiffe_id),
        "x509_domains": [str(each.trust_domain) for each in client.fetch_x509_bundles().bundles],
        "jwt_domains": [str(each.trust_domain) for each in client.fetch_jwt_bundles().bundles],
        "default": str(context.default_svid.spiffe_id),
    }))
"""

SOURCE = """
import sys, threading
from spiffe import X509Source
news = threading.Event()
with X509Source(socket_path=sys.argv[1], timeout_in_seconds=20) as source:
    print(source.svid.leaf.serial_number, flush=True)
    source.subscribe_for_updates(news.set)
    for _ in range(2):
        assert news.wait(20)
        news.clear()
        print(source.svid.leaf.serial_number, flush=True)
"""

REFUSED = """
import sys
from spiffe import WorkloadApiClient
try:
    with WorkloadApiClient(sys.argv[1]) as client:
        client.fetch_x509_svid()
except Exception as error:
    print(type(error).__name__, error)
"""


async def run_python(script: str, socket: Path, python: str = sys.executable) -> str:
    """The output of a workload."""
    process = await asyncio.create_subprocess_exec(
        python, "-c", script, f"unix://{socket}", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 50)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, err.decode()[-2000:]
    return out.decode().strip()


def test_a_foreign_client_gets_everything(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w", created_at=1), entry("e2", "/v", created_at=2)) as run:
            found = json.loads(await run_python(FETCH, run.settings.socket_path))
            assert found == {
                "spiffe_id": f"spiffe://{TD}/w",
                "all": [f"spiffe://{TD}/w", f"spiffe://{TD}/v"],
                "token_id": f"spiffe://{TD}/w",
                "validated": f"spiffe://{TD}/w",
                "x509_domains": [TD.name],
                "jwt_domains": [TD.name],
                "default": f"spiffe://{TD}/w",
            }

    run_async(work())


def test_a_foreign_source_follows_renewals(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w", x509_svid_ttl_seconds=12)) as run:
            serials = (await run_python(SOURCE, run.settings.socket_path)).splitlines()
            assert len(set(serials)) == 3

    run_async(work())


def test_a_foreign_client_hears_that_it_has_no_identity(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w", "unix:uid:99999")) as run:
            assert "no identity issued" in await run_python(REFUSED, run.settings.socket_path)

    run_async(work())


@pytest.fixture
def interpreters(short_dir: Path) -> list[Path]:
    """Two copies of the interpreter that know the packages of this one."""
    base = Path(os.path.realpath(sys.executable))
    paths = []
    for name in ("one", "two"):
        copy = short_dir / name / "bin" / "python"
        copy.parent.mkdir(parents=True)
        shutil.copy2(base, copy)
        (short_dir / name / "pyvenv.cfg").write_text(f"home = {base.parent}\n")
        packages = (
            short_dir / name / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        )
        packages.mkdir(parents=True)
        purelib = sysconfig.get_paths()["purelib"]
        (packages / "borrowed.pth").write_text(f"import site; site.addsitedir({purelib!r})\n")
        paths.append(copy)
    return paths


def test_two_interpreters_are_two_identities(
    agent_in: Any, entry: Any, run_async: Any, interpreters: list[Path]
) -> None:
    async def work() -> None:
        entries = [
            entry(f"e{number}", f"/{path.parent.parent.name}", f"unix:path:{path}")
            for number, path in enumerate(interpreters)
        ]
        async with agent_in(*entries) as run:
            for path in interpreters:
                found = json.loads(await run_python(FETCH, run.settings.socket_path, str(path)))
                assert found["all"] == [f"spiffe://{TD}/{path.parent.parent.name}"]
            refused = await run_python(REFUSED, run.settings.socket_path)
            assert "no identity issued" in refused, "the interpreter that was copied is nobody"

    run_async(work())
