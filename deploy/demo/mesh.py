"""Three services of the shop, each behind an Envoy of its own, and the policy that stands between them.

All run on this machine, each at a loopback address of its own, so that ports are those of the inventory:
policies speak about ports. The Envoys are told apart by the path of their program, as the other workloads
are; each runs from a link of its own to the one that is installed.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.demo import place
from deploy.demo.cards import Cards

POLICY = place.ROOT / "rego" / "starter"
INVENTORY = place.ROOT / "deploy" / "demo" / "inventory.yaml"
SERVICES = ("frontend", "payments", "card-db")
APPLICATIONS = ("card-db", "payments", "frontend", "customer")
NETWORKS = range(77, 177)


@dataclass(frozen=True, slots=True)
class Shop:
    """Where everything of the shop listens: `127.<network>.0.<number of the service>`.

    `database` is the socket of PostgreSQL; without it the card database is the small TCP service.
    """

    network: int
    database: str = ""

    @classmethod
    def kept(cls) -> Shop:
        """The shop that was started last."""
        return cls.of(json.loads((place.DEMO / "ports.json").read_text(encoding="utf-8")))

    @classmethod
    def of(cls, places: Mapping[str, Any]) -> Shop:
        """The shop as `ports.json` has it."""
        return cls(places["network"], places["database"])

    def host(self, service: str) -> str:
        """The loopback address of a service and its Envoy."""
        return f"127.{self.network}.0.{SERVICES.index(service) + 1}"

    @property
    def payments(self) -> str:
        """Where the front end finds the payment service: a port of its own Envoy."""
        return f"http://{self.host('frontend')}:9001"

    @property
    def watch(self) -> tuple[str, int]:
        """Where the front end finds the payment service's gRPC."""
        return self.host("frontend"), 9002

    def cards_of(self, service: str) -> Cards:
        """The card database as a service finds it."""
        return Cards(self.host(service), 9003, bool(self.database))

    def ports(self) -> list[tuple[str, int]]:
        """Every address that has to be free."""
        own = {"frontend": (8080, 18080, 9001, 9002, 9003), "payments": (8080, 9090, 18080, 19090, 9003)}
        own["card-db"] = (5432, 15432)
        return [(self.host(service), port) for service, ports in own.items() for port in ports]

    def applications(self) -> dict[str, list[str]]:
        """What runs behind the Envoys, and the customer in front of them: the commands of APPLICATIONS."""
        cards, host, customer = (
            self.cards_of("payments"),
            self.host("payments"),
            ["--payments", self.payments],
        )
        database = ["--database", f"{cards.host}:{cards.port}", *(["--sql"] if cards.sql else [])]
        program, small = [str(place.python()), "-m"], f"{self.host('card-db')}:15432"
        shop = [*program, "deploy.demo.shop"]
        return {
            "card-db": [*program, "deploy.demo.database"]
            if cards.sql
            else [*shop, "card-db", "--listen", small],
            "payments": [
                *shop,
                "payments",
                "--listen",
                f"{host}:18080",
                "--grpc",
                f"{host}:19090",
                *database,
            ],
            "frontend": [*shop, "frontend", "--listen", f"{self.host('frontend')}:18080", *customer],
            "customer": [*shop, "customer", *customer],
        }

    def description(self, service: str) -> str:
        """The description that a service's Envoy is configured from."""
        host = self.host(service)
        inbound = {
            "frontend": [("http", 8080, 18080)],
            "payments": [("http", 8080, 18080), ("grpc", 9090, 19090)],
            "card-db": [("tcp", 5432, 15432)],
        }[service]
        cards = f"unix:{self.database}" if self.database else f"{host}:15432"
        outbound = {
            "frontend": [
                ("payments", 9001, "payments", 8080, "http"),
                ("payments-grpc", 9002, "payments", 9090, "grpc"),
                ("card-db", 9003, "card-db", 5432, "tcp"),
            ],
            "payments": [("card-db", 9003, "card-db", 5432, "tcp")],
            "card-db": [],
        }[service]
        lines = [
            f'name = "{service}"',
            f'spiffe_id = "{spiffe_id(service)}"',
            f"access_log = {json.dumps(str(access_log(service)))}",
        ]
        for protocol, port, upstream in inbound:
            lines += [
                "", "[[inbound]]", f'listen = "{host}:{port}"',
                f'upstream = "{cards if protocol == "tcp" else f"{host}:{upstream}"}"',
                f'protocol = "{protocol}"',
            ]  # fmt: skip
        for name, port, callee, at, protocol in outbound:
            lines += [
                "", "[[outbound]]", f'name = "{name}"', f'listen = "{host}:{port}"',
                f'upstream = "{self.host(callee)}:{at}"', f'spiffe_id = "{spiffe_id(callee)}"',
                f'protocol = "{protocol}"',
            ]  # fmt: skip
        return "\n".join(lines) + "\n"

    def envoy_command(self, service: str) -> list[str]:
        """What becomes the service's Envoy."""
        folder = place.data_dir() / "demo" / "envoys" / service
        description = folder / "service.toml"
        description.write_text(self.description(service), encoding="utf-8")
        return place.gatehouse_agent(
            "envoy", "run", "--service", str(description), "--run-dir", str(folder),
            "--envoy", str(program(service)), "--data-dir", str(place.data_dir()),
        )  # fmt: skip


def spiffe_id(service: str) -> str:
    """The identity of a service of the shop, as the inventory has it."""
    return f"spiffe://{place.TRUST_DOMAIN}/ns/shop/sa/{service}"


def access_log(service: str) -> Path:
    """Where the service's Envoy writes a line a request."""
    return place.DEMO / "envoys" / service / "access.log"


def program(service: str) -> Path:
    """The service's own link to Envoy, made if it isn't there: its path is what it is recognised by."""
    path = place.DEMO / "envoys" / service / "envoy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        installed = next((place.ROOT / ".venv" / "lib").glob("python3.*/site-packages/envoy/_bin/envoy"))
        try:
            os.link(installed, path)
        except OSError:
            shutil.copy2(installed, path)  # on another file system
    return path.resolve()


def free_network() -> int:
    """A loopback network on which every address of the shop is free."""
    for network in NETWORKS:
        if all(map(_is_free, Shop(network).ports())):
            return network
    raise RuntimeError("no loopback network 127.x.0.0 has the ports of the shop free")


def _is_free(at: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(at)
        except OSError:
            return False
    return True
