"""`make demo`: a tour of what runs: each command is shown, run, and its answer printed and checked.

It registers a new workload while everything runs, watches it get its identity, rotates the authority under
the running connections, and takes the workload's identity away again. Then it changes the policy of the shop,
which takes two people, goes back, and cuts a service off and lets it in again, each seen on the wire.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time

from deploy.demo import database, mesh, people, place, shown
from deploy.demo.cards import QUESTION
from deploy.demo.mesh import Shop
from deploy.demo.shop import fetch
from deploy.demo.up import STRANGER, DemoFailed, answer

LINES = 14
RECEIPTS = """
# METADATA
# title: The front end reads receipts
allow if {
	to("payments")
	input.source.spiffe_id == frontend
	input.request.method == "GET"
	input.request.path == "/v1/receipts"
}
"""


def tour() -> None:
    """The whole tour; every step is a command that one could have typed."""
    data = ("--data-dir", str(place.data_dir()))
    selector = f"unix:path:{place.interpreter(STRANGER).resolve()}"
    identity = place.spiffe_id(STRANGER)
    fetch = [str(place.interpreter(STRANGER)), "-m", "agent", "api", "fetch", "x509", *data]

    _say("Who is attested, and which process gets which identity?")
    _run(place.gatehouse("agent", "list", *data))
    _run(place.gatehouse("entry", "show", *data))

    _say("The stranger has no identity. Why?")
    _run(
        place.gatehouse("explain", "--selector", selector, "--parent-id", place.NODE, *data),
        accept_failure=True,
    )
    _say("Register it, and it gets one at once: changes are pushed to the agent.")
    _run(
        place.gatehouse(
            "entry",
            "create",
            "--spiffe-id",
            identity,
            "--parent-id",
            place.NODE,
            "--selector",
            selector,
            *data,
        )
    )
    _timed(fetch)

    _say("Every certificate that ever left is in the ledger.")
    _run(place.gatehouse("ledger", "list", "--limit", "5", *data))

    _say("Prepare the next signing authority: it is in the bundle before it signs.")
    _run(place.gatehouse("authority", "x509", "prepare", *data), accept_failure=True)
    _run(place.gatehouse("authority", "x509", "show", *data))

    _say("Take the stranger's identity away again.")
    found = _entry_id(identity)
    _run(place.gatehouse("entry", "delete", "--entry-id", found, *data))
    _run(fetch, accept_failure=True)

    _query()
    _change_the_policy(data)
    _cut_off(data)


def _query() -> None:
    """The card database answers the payment service, and its Envoy nobody else."""
    shop = Shop.kept()
    if not shop.database:
        return
    _say("The payment service asks the card database: PostgreSQL, behind an Envoy of its own.")
    _run(database.psql(shop.host("payments"), 9003, QUESTION))
    _say("The front end may not, whatever it says.")
    _run(database.psql(shop.host("frontend"), 9003, QUESTION), must_fail=True)


def _change_the_policy(data: tuple[str, ...]) -> None:
    """Ada lets the front end read receipts; Grace decides; it is seen on the wire, and taken back."""
    shop = Shop.kept()
    before = answer("policy", "status")["in_force"]["version"]
    changed = place.DEMO / "policy"
    shutil.copytree(mesh.POLICY, changed, dirs_exist_ok=True)
    rules = changed / "authz" / "authz.rego"
    rules.write_text(rules.read_text(encoding="utf-8") + RECEIPTS, encoding="utf-8")
    ada, grace = (("--token-file", str(people.token_of(name)), *data) for name in ("ada", "grace"))
    receipts = f"{shop.payments}/v1/receipts"

    _say("The front end may not read receipts. Ada adds a rule to a copy of the policy.")
    _expect(403, receipts)
    print(RECEIPTS, end="")
    pushed = ("push", str(changed), "--inventory", str(mesh.INVENTORY), "-m", "receipts can be read")
    _run(place.gatehouse("policy", *pushed, *ada))
    _say("What would it change, for whom, and by which line?")
    _run(place.gatehouse("policy", "plan", *ada))
    _say("Nobody approves what they wrote.")
    _run(place.gatehouse("policy", "approve", "-m", "I trust myself", *ada), must_fail=True)
    _run(place.gatehouse("policy", "approve", "-m", "asked for by the shop", *grace))
    _run(place.gatehouse("policy", "apply", *grace))
    _expect(200, receipts)
    _say("Grace takes it back: an earlier version is in force again at once.")
    _run(place.gatehouse("policy", "rollback", "--to", str(before), "-m", "not today", *grace))
    _expect(403, receipts)
    _run(place.gatehouse("policy", "history", *data))


def _cut_off(data: tuple[str, ...]) -> None:
    """The front end is cut off while the customer pays through it, and let in again."""
    frontend = mesh.spiffe_id("frontend")
    grace = ("--token-file", str(people.token_of("grace")), *data)
    _say("Cut the front end off: every Envoy refuses it, and what runs is ended.")
    _run(place.gatehouse("quarantine", frontend, "--reason", "it behaves oddly", *grace))
    _until_told("not-paid")
    _say("And let it in again.")
    _run(place.gatehouse("quarantine", "release", frontend, "--reason", "it was the tour", *grace))
    _until_told("paid")


def _expect(status: int, url: str) -> None:
    """Asks until the answer has this status, and says how long that took. Raises `DemoFailed`."""
    started = time.monotonic()
    while (found := fetch(url)[0]) != status:
        if time.monotonic() - started > 15:
            raise DemoFailed(f"{url} gives {found} after 15 s, expected {status}")
        time.sleep(0.05)
    print(f"\n$ curl {url}\n{status} (after {time.monotonic() - started:.2f} s)", flush=True)


def _until_told(event: str) -> None:
    """Waits for the customer's next word to be this one, and prints it. Raises `DemoFailed`."""
    started, log = time.monotonic(), place.log_of("shop-customer")
    while (last := log.read_text(encoding="utf-8").splitlines()[-1:]) and f'"{event}"' not in last[0]:
        if time.monotonic() - started > 15:
            raise DemoFailed(f"the customer should tell {event!r}, the last line is: {last[0]}")
        time.sleep(0.05)
    print(f"\n$ tail -1 {shown.short_text(str(log))}\n{last[0]} (after {time.monotonic() - started:.1f} s)")


def _entry_id(identity: str) -> str:
    """The ID of the entry that gives an identity."""
    entries = answer("entry", "show", "--spiffe-id", identity)["entries"]
    if not entries:
        raise DemoFailed(f"the entry of {identity} is gone")
    return str(entries[0]["id"])


def _say(text: str) -> None:
    print(f"\n── {text}", flush=True)


def _run(command: list[str], *, accept_failure: bool = False, must_fail: bool = False) -> None:
    """Shows and runs one command. Raises `DemoFailed` when it fails and should not, or the reverse."""
    typed = " ".join(shlex.quote(shown.short_text(part)) for part in command)
    print(f"\n$ {typed}", flush=True)
    finished = subprocess.run(
        command, cwd=place.ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    lines = (finished.stdout + finished.stderr).rstrip().splitlines()
    print("\n".join(lines[:LINES] + (["…"] if len(lines) > LINES else [])), flush=True)
    if (finished.returncode != 0 and not (accept_failure or must_fail)) or (
        must_fail and not finished.returncode
    ):
        raise DemoFailed(f"`{typed}` ended with {finished.returncode}")


def _timed(command: list[str]) -> None:
    """Runs a command until it succeeds, and says how long that took."""
    started = time.monotonic()
    while (
        subprocess.run(command, cwd=place.ROOT, capture_output=True, timeout=60, check=False).returncode != 0
    ):
        if time.monotonic() - started > 15:
            raise DemoFailed("the new entry did not reach the workload within 15 s")
    _run(command)
    print(f"({time.monotonic() - started:.1f} s after the entry, two starts of Python included)")
