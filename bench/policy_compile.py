"""Emit and prove a large policy: time, memory and size against the project's limits.

1,000 services with 20,000 callers' edges, paths, headers, networks and tokens mixed; then one changed line,
the difference of the two versions, and a workload with 10,000 rules. Formulas are built here directly; the
Rego front end is measured elsewhere. Prints each figure with its ratio to the limit; exits 1 beyond one.

    python -m bench.policy_compile [--services 1000] [--callers 20] [--rules 10000]
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from policies import formula as f
from policies.diff import compare_policies
from policies.formula import Decision, Disjunct, Origin, PolicySet, Question, WorkloadPolicy
from policies.inventory import Inventory
from policies.inventory_file import inventory_from_document
from policies.pipeline import Compilation, compile_policies
from policies.targets.emission import Options
from policies.targets.istio_sidecar import emit_workload

ISSUER = {
    "name": "staff",
    "issuer": "https://login",
    "jwks_uri": "https://login/keys",
    "claims": {"role": "string"},
}


@dataclass(frozen=True)
class Figure:
    """A measured value beside its limit, both in `unit`."""

    name: str
    value: float
    limit: float
    unit: str

    def __str__(self) -> str:
        ratio = self.value / self.limit
        return f"{self.name:<44} {self.value:10.3f} {self.unit:<5} limit {self.limit:g}  ratio {ratio:.3f}"


def inventory(services: int) -> Inventory:
    """Services over 50 namespaces, each with an HTTP and a TCP port."""
    ports = [{"port": 80, "target_port": 8080, "protocol": "http"}, {"port": 9000, "protocol": "tcp"}]
    workloads = [
        {
            "name": f"service-{index}",
            "namespace": f"team-{index % 50}",
            "service_account": f"service-{index}",
            "labels": {"app": f"service-{index}"},
            "services": [{"name": f"service-{index}", "ports": ports}],
        }
        for index in range(services)
    ]
    return inventory_from_document(
        {"mesh": {"trust_domain": "example.org"}, "issuers": [ISSUER], "workloads": workloads}
    )


def identity(index: int) -> str:
    """The SPIFFE ID of a service."""
    return f"spiffe://example.org/ns/team-{index % 50}/sa/service-{index}"


def question(index: int, services: int, callers: int, extra: str = "") -> Question:
    """One rule for each caller, as Rego evaluated for a destination yields them; two of five shapes."""
    shapes = [
        f.starts_with(f.PATH, f"/api/{index}/{extra}") & f.one_of(f.METHOD, ["GET", "HEAD"]),
        f.one_of(f.PATH, [f"/v1/{index}/{part}" for part in ("list", "get", "put")])
        & f.equals(f.METHOD, "POST"),
        f.matches_glob(f.PATH, f"/items/{index}/*", ("/",)) & f.differs(f.header("x-env"), "test"),
        f.in_network(f.SOURCE_IP, f"10.{index % 200}.0.0/16") & f.equals(f.PORT, 9000),
        f.equals(f.claim("role"), "admin") & f.ends_with(f.PATH, "/admin"),
    ]
    rules = []
    for number in range(callers):
        caller = f.equals(f.SOURCE_ID, identity((index * 7 + number * 13 + 1) % services))
        shape = (index + number % 2) % len(shapes)
        rules.append(Disjunct(caller & shapes[shape], (Origin("authz.rego", 10 + shape),)))
    outside = f.negate(f.equals(f.NAMESPACE, "team-0"))
    deny = Disjunct(f.starts_with(f.PATH, "/internal/") & outside, (Origin("authz.rego", 40),))
    return Question(Decision.of(*rules), Decision.of(deny))


def stress(rules: int) -> Question:
    """Rules that share nothing: every one with its own caller and path."""
    found = []
    for number in range(rules):
        formula = f.equals(f.SOURCE_ID, identity(number)) & f.starts_with(f.PATH, f"/tenants/{number}/")
        found.append(Disjunct(formula, (Origin("stress.rego", number + 1),)))
    return Question(Decision.of(*found))


def policy_set(services: int, callers: int, changed: int | None = None) -> PolicySet:
    """Every service governed; `changed` has another prefix in its first rule."""
    policies = []
    for index in range(services):
        asked = question(index, services, callers, "new/" if index == changed else "")
        policies.append(WorkloadPolicy(f"team-{index % 50}/service-{index}", asked))
    return PolicySet.of(f"sha256:{'0' if changed is None else '1'}", *policies)


def naive_size(policies: PolicySet, known: Inventory, options: Options) -> tuple[int, int]:
    """Rules and characters when each caller gets a rule of its own: every disjunct emitted by itself."""
    rules = characters = 0
    for policy in policies.policies[:20]:
        assert policy.authz is not None
        for disjunct in policy.authz.allow.disjuncts:
            alone = Question(Decision((disjunct,)))
            emission = emit_workload(alone, known.by_key[policy.workload], known, "x", options)
            for one in emission.manifests:
                if "-allow-" in one.name:
                    rules += max(1, len(one.origins))
                    characters += len(one.text())
    share = len(policies.policies) / 20
    return round(rules * share), round(characters * share)


def timed(work: Callable[[], object]) -> float:
    """Seconds of processor time that `work` takes: what else the machine does isn't our figure."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--callers", type=int, default=20)
    parser.add_argument("--rules", type=int, default=10_000)
    arguments = parser.parse_args()
    options = Options()
    known = inventory(arguments.services)
    old = policy_set(arguments.services, arguments.callers)
    new = policy_set(arguments.services, arguments.callers, arguments.services // 2)
    figures: list[Figure] = []
    results: list[Compilation] = []

    def compile_first() -> None:
        results.append(compile_policies(old, known, "istio-sidecar", options))

    figures.append(Figure("emit and prove", timed(compile_first), 10, "s"))
    outcomes = sorted({verdict.outcome.value for verdict in results[0].verdicts})
    assert all(verdict.accepted for verdict in results[0].verdicts), outcomes

    def compile_again() -> None:
        results.append(compile_policies(new, known, "istio-sidecar", options, results[0]))

    figures.append(Figure("emit and prove after one changed line", timed(compile_again), 1, "s"))
    changes = []
    compared = timed(lambda: changes.extend(compare_policies(old, new, known)))
    figures.append(Figure("difference of the two versions", compared, 2, "s"))
    assert changes, "the changed line was not found"
    policies = [one for one in results[0].emission.manifests if "-allow-" in one.name]
    rules, characters = (
        sum(max(1, len(one.origins)) for one in policies),
        sum(len(one.text()) for one in policies),
    )
    naive_rules, naive_characters = naive_size(old, known, options)
    figures.append(Figure("rules, of one rule a pair", rules / naive_rules, 0.1, ""))

    big = PolicySet.of("sha256:2", WorkloadPolicy("team-0/service-0", stress(arguments.rules)))
    spent = timed(lambda: results.append(compile_policies(big, known, "istio-sidecar", options)))
    figures.append(Figure(f"{arguments.rules} rules on one workload", spent, 60, "s"))
    assert all(verdict.accepted for verdict in results[-1].verdicts)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures.append(Figure("peak memory", peak, 1024, "MiB"))
    for figure in figures:
        print(figure)
    print(
        f"verdicts: {', '.join(outcomes)}; {len(policies)} policies, "
        f"{characters} characters, {characters / naive_characters:.3f} of one policy a pair"
    )
    return 0 if all(figure.value <= figure.limit for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
