"""The model of Envoy's RBAC against Envoy itself: random policies, random requests, the same answers.

Needs an `envoy` (see `tests/fakes/real_envoy.py`); skipped with one line without. Plain text only: what
depends on the caller's certificate is compared elsewhere, on server names in test_server_names.py.
"""

import random
import socket
from types import ModuleType

import yaml

from policies import formula as f
from policies.formula import Decision, Disjunct, Question
from policies.inventory_file import inventory_from_document
from policies.proof.dimensions import Dimensions
from policies.proof.guards import Guards
from policies.proof.manifests import read_manifests
from policies.proof.probes import ABSENT
from policies.proof.space import FALSE, Space
from policies.targets.emission import Options
from policies.targets.envoy_rbac import emit_workload
from policies.targets.manifest import files

LISTENERS, REQUESTS = 60, 40
PATHS = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/admin", "/adminx", "/A", "/a*", "/a.b", "/b/b/", "/x-b"]
HOSTS = ["shop.test", "a.test", "test", "x"]
WORDS = ["", "x", "xy", "evil", "y.x"]


def random_formula(dice: random.Random, depth: int = 3) -> f.Formula:
    if depth and dice.random() < 0.6:
        parts = [random_formula(dice, depth - 1) for _ in range(dice.randint(2, 3))]
        return dice.choice([f.all_of, f.any_of])(*parts)
    place, words = dice.choice(
        [(f.PATH, PATHS), (f.HOST, HOSTS), (f.header("x-team"), WORDS), (f.METHOD, ["GET", "PUT"])]
    )
    word = dice.choice(words)
    found = dice.choice([
        lambda: f.equals(place, word), lambda: f.differs(place, word), lambda: f.present(place),
        lambda: f.starts_with(place, word), lambda: f.ends_with(place, word), lambda: f.contains(place, word),
        lambda: f.matches_glob(f.PATH, dice.choice(["/a/*", "/*/b/**", "/{a,x-}*", "/?"]), ("/",)),
        lambda: f.matches(f.PATH, dice.choice(["^/[a-b]/", "b$", "^/a[*.]?b?$", "d+m"])),
        lambda: f.in_network(f.SOURCE_IP, dice.choice(["127.0.0.0/8", "10.0.0.0/8", "0.0.0.0/0", "::/0"])),
        lambda: f.present(f.SOURCE_ID),
    ])()  # fmt: skip
    return f.negate(found) if dice.random() < 0.3 else found


def ask(port: int, method: str, path: str, host: str, team: str | None) -> bool:
    header = "" if team is None else f"x-team: {team}\r\n"
    request = (
        f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n{header}content-length: 0\r\nconnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request.encode())
        status = connection.makefile("rb").readline().split()[1]
    assert status in (b"200", b"403"), status
    return status == b"200"


def http_manager(types: str, filters: list[object]) -> dict[str, object]:
    routes = [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": types + "http.router.v3.Router"}}
    manager = {
        "@type": types + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [*filters, router],
    }
    return {"name": "http", "typed_config": manager}


def test_envoy_and_the_model_answer_alike(envoy: ModuleType) -> None:
    dice = random.Random(4)
    ports = envoy.free_ports(LISTENERS)
    workloads = [
        {"name": f"w{port}", "namespace": "n", "mode": "envoy", "labels": {"app": f"w{port}"},
         "services": [{"name": "s", "ports": [{"port": port, "protocol": "http"}]}]}
        for port in ports
    ]  # fmt: skip
    inventory = inventory_from_document({"mesh": {"trust_domain": "example.org"}, "workloads": workloads})
    guards, listeners = {}, []
    for port in ports:
        allow = Decision.of(*(Disjunct(random_formula(dice)) for _ in range(2)))
        question = Question(allow, Decision.of(Disjunct(random_formula(dice, 1))))
        workload = inventory.by_key[f"n/w{port}"]
        rendered = files(emit_workload(question, workload, inventory, "x", Options()).manifests)
        space, dimensions = Space(), Dimensions.of(strict=True)
        guard = Guards(space, dimensions, inventory, read_manifests(rendered), FALSE).envoy(workload)
        guards[port] = (space, dimensions, guard, question)
        document = next(
            one for text in rendered.values() if (one := yaml.safe_load(text))["kind"] == "EnvoyRbac"
        )
        listeners.append(envoy.listener(port, [http_manager(envoy.TYPES, document["http"])]))
    with envoy.running(listeners, ports[-1:]):
        compare(guards, dice)


def compare(guards: dict[int, tuple[Space, Dimensions, int, Question]], dice: random.Random) -> None:
    answers = set()
    for port, (space, dimensions, guard, question) in guards.items():
        for _ in range(REQUESTS):
            method, path = dice.choice(["GET", "PUT", "POST"]), dice.choice([*PATHS, "/zz"])
            host, team = dice.choice(HOSTS), dice.choice([None, *WORDS])
            values = {
                dimensions.port: port, dimensions.source_ip: "127.0.0.1", dimensions.method: method,
                dimensions.path: path, dimensions.host: host,
                dimensions.header("x-team"): ABSENT if team is None else team,
            }  # fmt: skip
            modelled = space.holds(guard, {place: one for place, one in values.items() if one is not ABSENT})
            sent_path = path + dice.choice(["", "?q=/admin", "?"])
            sent_host = dice.choice([host, host.upper()])
            answer = ask(port, method, sent_path, sent_host, team)
            assert answer == modelled, (question, method, sent_path, sent_host, team)
            answers.add(answer)
    assert answers == {True, False}
