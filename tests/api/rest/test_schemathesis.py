"""Schemathesis calls the server over TLS by its own OpenAPI document: nothing fails, nothing is as not said.

A short run with the tests; `make fuzz` runs all phases, with more cases. Event streams are left out, since
they go on: their tests are in `test_events`. The short runs begin from one seed, so that a change is judged
by what it does and not by what was drawn beside it; `make fuzz` draws anew each time and is what finds.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SEED = ["--seed", "20260101"]
CASES = {
    "default": [*SEED, "--phases", "examples,fuzzing", "--max-examples", "2"],
    "brief": [*SEED, "--max-time", "120", "--max-examples", "20"],
    "fuzz": ["--max-time", "3000", "--max-examples", "500"],
}
TOML = """
[checks]
# Much that a schema can't say is judged by the server: cursors, SPIFFE IDs, the state of a version.
positive_data_acceptance.enabled = false
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 408, 409, 412, 413, 422, 429, 431]
"""
LIMITS = """
[api]
subject_requests_per_second = 0
address_requests_per_second = 0
"""


@pytest.mark.hypothesis
@pytest.mark.timeout(3600)
def test_schemathesis_finds_nothing(rest: Any, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(TOML)

    def run(api: Any) -> subprocess.CompletedProcess[str]:
        address = f"https://localhost:{api.port}/v1/openapi.json"
        return subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"), "run", address,
                "--tls-verify", api.data / "bundle.pem",
                "--header", f"Authorization: Bearer {api.token('all')}",
                "--exclude-path", "/v1/events",
                "--request-timeout", "60", "--generation-database", "none", "--no-color",
                *CASES[os.environ.get("HYPOTHESIS_PROFILE", "default")],
            ],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip

    async def scenario(api: Any) -> None:
        # The caller's roles let it in everywhere; who may not is what test_gate is about.
        finished = await asyncio.to_thread(run, api)
        assert finished.returncode == 0, finished.stdout[-12_000:] + finished.stderr[-2000:]

    rest(scenario, more=LIMITS, seconds=3600)
