"""`make demo AUTHORITY=vault`: the whole demo on leaves that a Vault signs, and then that Vault is sealed.

Starts a Vault or OpenBao in its development mode (everything in memory), has `gatehouse authority vault
setup` make it ready, gives the server a token with the least policy, and goes on as the demo does. The data
folder is one of its own; when Vault is started anew the folder is emptied, since that Vault has forgotten
its root.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from deploy.demo import mesh, place, processes, shown
from deploy.demo.__main__ import down
from deploy.demo.tour import _run, _say, tour
from deploy.demo.up import DemoFailed, _start, _until, answer, up

ROOT_TOKEN = "demo-root"  # of a Vault that holds nothing and listens on loopback alone
NAME = "vault"


def main() -> int:
    """Does what the first argument names; 1 with one clear message if it fails."""
    try:
        match sys.argv[1:]:
            case ["up" | "tour" as what]:
                _vault_up()
                up()
                if what == "tour":
                    tour()
                    _tour()
            case ["down"]:
                down()
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except DemoFailed as error:
        print(f"make up: {error}", file=sys.stderr)
        return 1
    return 0


def _vault_up() -> None:
    """Starts Vault if it doesn't run, and points the server at it by its environment."""
    path = place.DEMO / "vault.json"
    alive = {each.name: each for each in processes.load(place.STATE) if each.is_alive}
    if NAME not in alive:
        if alive:
            raise DemoFailed(
                "something of this demo runs without its Vault: `make down AUTHORITY=vault` first"
            )
        shutil.rmtree(place.DATA, ignore_errors=True)
        place.DEMO.mkdir(parents=True)
        port = place.free_port()
        listen, token = f"-dev-listen-address=127.0.0.1:{port}", f"-dev-root-token-id={ROOT_TOKEN}"
        _start({}, NAME, [str(_program()), "server", "-dev", "-dev-no-store-token", listen, token])
        path.write_text(json.dumps({"address": f"http://127.0.0.1:{port}"}), encoding="ascii")
    address = json.loads(path.read_text(encoding="ascii"))["address"]
    token_file = place.DEMO / "vault.token"
    os.environ |= {
        "GATEHOUSE_AUTHORITY_KIND": "vault",
        "GATEHOUSE_VAULT_ADDRESS": address,
        "GATEHOUSE_VAULT_TOKEN_FILE": str(token_file),
        # Only loopback is called; a proxy of the environment knows nothing of it.
        "no_proxy": "127.0.0.1",
    }
    if NAME not in alive:
        _until(lambda: _answers(address), NAME, "Vault to answer")
        _set_up(address, token_file)
        shown.step("vault", f"{address}, each leaf is signed there")


def _set_up(address: str, token_file: Path) -> None:
    """What is needed in Vault, by the command that an operator would use; then a token of that policy."""
    token_file.touch(0o600)
    token_file.write_text(ROOT_TOKEN, encoding="ascii")
    config = place.DEMO / "vault.toml"
    config.write_text(
        f'data_dir = {json.dumps(str(place.data_dir()))}\ntrust_domain = "{place.TRUST_DOMAIN}"\n',
        encoding="utf-8",
    )
    command = place.gatehouse(
        "authority", "vault", "setup", str(config), "--token-file", str(token_file), "--yes"
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise DemoFailed(f"`gatehouse authority vault setup` failed: {done.stdout}{done.stderr}")
    wanted = {"policies": ["gatehouse"], "period": "1h", "no_parent": True}
    made = _ask(address, "POST", "auth/token/create", wanted)
    token_file.write_text(made["auth"]["client_token"], encoding="ascii")


def _tour() -> None:
    """Who signed, a rotation under traffic, and another one without Vault."""
    data = ("--data-dir", str(place.data_dir()))
    address = os.environ["GATEHOUSE_VAULT_ADDRESS"]
    payments = mesh.spiffe_id("payments")
    _say("Who signs, and how long could issuing go on without Vault?")
    _run(place.gatehouse("authority", "status", *data))
    _say("The certificate of payments is replaced while the customer pays through it.")
    _rotate(payments)
    _run(place.gatehouse("ledger", "list", "--spiffe-id", payments, "--limit", "2", *data))
    _say("Vault is sealed. The next certificate is signed all the same, by the standby.")
    _ask(address, "PUT", "sys/seal", {})
    _rotate(payments)
    _run(place.gatehouse("ledger", "list", "--spiffe-id", payments, "--limit", "2", *data))
    _until(lambda: answer("authority", "status")["signer"] == "standby", NAME, "all processes to know it")
    _run(place.gatehouse("authority", "status", *data))
    _say("Vault is unsealed, and signs again.")
    keys = re.findall(r"Unseal Key: (\S+)", place.log_of(NAME).read_text(encoding="utf-8"))
    _ask(address, "PUT", "sys/unseal", {"key": keys[-1]})
    _until(lambda: answer("authority", "status")["signer"] == "vault", NAME, "Vault to sign again")
    _run(place.gatehouse("authority", "status", *data))


def _rotate(identity: str) -> None:
    """Has a new certificate signed by asking for another life of it, and watches the customer meanwhile."""
    (entry,) = answer("entry", "show", "--spiffe-id", identity)["entries"]
    before = _serials(identity)
    told = _customers_words()
    ttl = 86_000 - len(before)
    answer(
        "entry", "update", "--entry-id", entry["id"], "--spiffe-id", identity, "--parent-id", place.NODE,
        *(flag for one in entry["selectors"] for flag in ("--selector", one)), "--x509-svid-ttl", str(ttl),
    )  # fmt: skip
    _until(lambda: _serials(identity) != before, NAME, f"a new certificate of {identity}")
    time.sleep(2)  # for the customer to pay some more
    since = _customers_words()[len(told) :]
    if failed := [line for line in since if '"paid"' not in line]:
        raise DemoFailed(f"a request failed while the certificate was replaced: {failed[0]}")
    print(f"\nthe customer paid {len(since)} times meanwhile, and not once in vain", flush=True)


def _serials(identity: str) -> list[str]:
    found = answer("ledger", "list", "--spiffe-id", identity, "--kind", "x509")["records"]
    return [str(record["serial"]) for record in found]


def _customers_words() -> list[str]:
    return place.log_of("shop-customer").read_text(encoding="utf-8").splitlines()


def _program() -> Path:
    """Vault as `make peers` builds it, or Vault or OpenBao on PATH."""
    spec = importlib.util.spec_from_file_location("peers", place.ROOT / "tests" / "interop" / "peers.py")
    assert spec is not None and spec.loader is not None
    peers = importlib.util.module_from_spec(spec)
    sys.modules["peers"] = peers
    spec.loader.exec_module(peers)
    found = peers.find("vault") or peers.find("bao")
    if found is None:
        raise DemoFailed("there is no vault and no bao on PATH; `make peers` builds Vault")
    return Path(found)


def _answers(address: str) -> bool:
    try:
        _ask(address, "GET", "sys/health", None)
    except OSError:
        return False
    return True


def _ask(address: str, method: str, path: str, body: dict[str, Any] | None) -> Any:
    request = urllib.request.Request(
        f"{address}/v1/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"X-Vault-Token": ROOT_TOKEN},
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        text = reply.read()
    return json.loads(text) if text else None


if __name__ == "__main__":
    sys.exit(main())
