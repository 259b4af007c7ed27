"""The policy of the shop, brought into force as people do it: Ada pushes, Grace approves and applies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deploy.demo import people, shown
from deploy.demo.mesh import INVENTORY, POLICY

Ask = Callable[..., Any]
"""Runs one `gatehouse` command and gives its JSON answer."""


def bring_into_force(ask: Ask) -> None:
    """Goes on where an earlier start was interrupted. Does nothing where some policy is in force already: it
    may be one's own by now."""
    status = ask("policy", "status")
    if status["in_force"]:
        return
    ada, grace = (("--token-file", str(people.token_of(name))) for name in ("ada", "grace"))
    version = next(iter(status["waiting"]), None)
    if version is None:
        inventory = ("--inventory", str(INVENTORY))
        version = ask("policy", "push", str(POLICY), *inventory, "-m", "the shop opens", *ada)
    number, state = str(version["version"]), version["state"]
    shown.step("policy", f"ada pushed version {number} of {shown.short_text(str(POLICY))}: proved for Envoy")
    if state == "proved":
        planned = ask("policy", "plan", number, *ada)["steps"][-1]
        shown.step("policy", f"the plan: {planned['gains']} pairs gain access, {planned['loses']} lose it")
    if state in ("proved", "planned"):
        ask("policy", "approve", number, "-m", "read and understood", *grace)
    ask("policy", "apply", number, *grace)
    shown.step("policy", f"grace approved version {number} and brought it into force")
