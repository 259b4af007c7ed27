"""Both our evaluators against a real OPA: the same policies, the same inputs, the same answers.

OPA's concrete answer is the authority. One server holds many policies; each is asked about hundreds of inputs
in a call. A conflict of one input fails a whole call, so such calls are halved until the input is found. The
concrete evaluator must give the same value, the formula of the symbolic one the same truth. A policy that the
symbolic evaluator refuses takes no part in the second comparison; nine tenths must be accepted.

Inputs with values that the schema does not allow are compared with the concrete evaluator alone.

A part runs by default; with `GATEHOUSE_REQUIRE_PEERS=1` it is 500 policies and over 200,000 inputs.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from policies.inventory_file import parse_inventory
from policies.language.concrete.evaluate import Evaluator
from policies.language.diagnostics import Diagnostics
from policies.questions import destination_document, inventory_document

FULL = os.environ.get("GATEHOUSE_REQUIRE_PEERS") == "1"
POLICIES = 500 if FULL else 60
INPUTS = 420 if FULL else 60
POOLS = 25 if FULL else 6
ODD = 100 if FULL else 20
ODD_INPUTS = 200 if FULL else 40
STARTER_INPUTS = 600 if FULL else 100
STARTERS = ("authz", "segmentation", "invariants")
DOCUMENTS = ("authz.allow", "authz.deny", "segmentation.allow", "segmentation.deny", "invariants.never")
ROOT = Path(__file__).parents[3]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("opa", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Opa:
    """A server that holds policies and `data`; `oracle` packages ask them about many inputs at once."""

    def __init__(self, address: Path) -> None:
        self.address = address

    def values(self, package: str, texts: Sequence[str]) -> list[list[Any] | None]:
        """For each input the values of what the package asks for: `[value]`, or `[]` where undefined.

        An input on which two values conflict has None in place of the values.
        """
        connection = UnixConnection(self.address)
        body = '{"input": {"cases": [' + ",".join(texts) + "]}}"
        connection.request(
            "POST", f"/v1/data/oracle/{package}/rows", body, {"content-type": "application/json"}
        )
        answer = connection.getresponse()
        said = json.loads(answer.read())
        connection.close()
        if answer.status == 200:
            rows: list[list[Any] | None] = said["result"]
            assert len(rows) == len(texts)
            return rows
        assert "eval_conflict_error" in json.dumps(said), said
        if len(texts) == 1:
            return [None]
        middle = len(texts) // 2
        return self.values(package, texts[:middle]) + self.values(package, texts[middle:])


def oracle(name: str, documents: Sequence[str]) -> str:
    """The module that asks for the values of documents on each input."""
    asked = ", ".join(f"[v | v := {document} with input as c]" for document in documents)
    return f"package oracle.{name}\n\nrows := [row | some c in input.cases; row := [{asked}]]\n"


@pytest.fixture
def serve(
    peer: Callable[[str], Path], short_dir: Path, tmp_path: Path
) -> Iterator[Callable[[Mapping[str, str], object], Opa]]:
    """Starts OPA with policies and data; it ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(policies: Mapping[str, str], data: object) -> Opa:
        binary = peer("opa")
        for name, text in policies.items():
            (tmp_path / f"{name}.rego").write_text(text)
        (tmp_path / "data.json").write_text(json.dumps(data))
        address = short_dir / "opa"
        command = [binary, "run", "--server", "--addr", f"unix://{address}", "--log-level", "error"]
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [*map(str, command), "--skip-version-check", str(tmp_path)], stdout=log, stderr=log, text=True
            )
        started.append(process)
        until = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < until:
            try:
                UnixConnection(address).connect()
                return Opa(address)
            except OSError:
                time.sleep(0.05)
        raise AssertionError(f"OPA did not start: {(tmp_path / 'log').read_text()[:4000]}")

    yield start
    for process in started:
        process.terminate()
        process.wait(30)


class Subject:
    """One policy in both our evaluators: documents by path, formulas where they are not refused."""

    def __init__(
        self, made: ModuleType, modules: Any, data: Any, paths: Sequence[tuple[str, ...]], known: Any
    ) -> None:
        self.made, self.data, self.paths = made, data, paths
        self.concrete = Evaluator(modules)
        self.formulas: list[Any] = []
        self.refusals: list[str] = []
        for path in paths:
            try:
                self.formulas.append(made.Symbolic(modules, path, data, known))
            except Diagnostics as error:
                self.formulas.append(None)
                self.refusals.append(error.diagnostics[0].message)

    def differences(self, case: Any, theirs: list[list[Any]] | None) -> Iterator[str]:
        """What one input shows; `theirs` is None where OPA finds a conflict in some document."""
        made = self.made
        ours = [made.concrete_answer(self.concrete, path, case, self.data) for path in self.paths]
        if theirs is None:
            if made.CONFLICTING not in ours:
                yield f"{case.text}: OPA finds a conflict, our concrete evaluator {ours}"
            if None not in self.formulas:
                yield f"{case.text}: OPA finds a conflict, our formulas were not refused"
            return
        for path, found, answer, formula in zip(self.paths, theirs, ours, self.formulas, strict=True):
            expected = found[0] if found else made.NOTHING
            if answer != expected:
                yield f"{path} on {case.text}: OPA says {expected}, our concrete evaluator {answer}"
            if formula is None:
                continue
            wanted = expected if formula.is_set else expected not in (made.NOTHING, False)
            if formula.answer(case) != wanted:
                yield f"{path} on {case.text}: OPA says {expected}, our formula {formula.answer(case)}"


def test_random_policies(serve: Callable[[Mapping[str, str], object], Opa], made: ModuleType) -> None:
    randomness = random.Random(4)
    texts = {f"p{index}": made.policy(random.Random(index), f"p{index}") for index in range(POLICIES)}
    rules = ("allow", "deny")
    asked = {f"ask_{name}": oracle(name, [f"data.{name}.{rule}" for rule in rules]) for name in texts}
    opa = serve(texts | asked, made.DATA)
    data = made.as_data(made.DATA)
    # Every other pool of inputs is whole, in the others whole roots are missing.
    pools = [made.cases(randomness, INPUTS, whole=index % 2 == 0) for index in range(POOLS)]
    known = [
        made.partial_input({"destination": made.DESTINATION}, whole=index % 2 == 0) for index in range(POOLS)
    ]
    refusals: Counter[str] = Counter()
    refused = compared = conflicts = 0
    found: list[str] = []
    with ThreadPoolExecutor(1) as ahead:
        answers = [
            ahead.submit(opa.values, name, [case.text for case in pools[index % POOLS]])
            for index, name in enumerate(texts)
        ]
        for index, (name, text) in enumerate(texts.items()):
            paths = [(name, rule) for rule in rules]
            subject = Subject(made, made.compiled(text), data, paths, known[index % POOLS])
            refused += bool(subject.refusals)
            refusals.update(subject.refusals)
            for case, theirs in zip(pools[index % POOLS], answers[index].result(), strict=True):
                compared += 1
                conflicts += theirs is None
                found.extend(f"{said}\n{text}" for said in subject.differences(case, theirs))
    print(
        f"{POLICIES} policies, {compared} inputs, {conflicts} conflicts, {refused} refused: {dict(refusals)}"
    )
    assert not found, f"{len(found)} differences\n" + "\n".join(found[:5])
    assert refused <= POLICIES // 10, refusals


def test_inputs_of_any_type(serve: Callable[[Mapping[str, str], object], Opa], made: ModuleType) -> None:
    """Values that the schema doesn't allow: only the concrete evaluator speaks of them."""
    randomness = random.Random(5)
    texts = {f"p{index}": made.policy(random.Random(1000 + index), f"p{index}") for index in range(ODD)}
    documents = ("allow", "deny", "level", "chain", "names", "table", "limits", "deep", "other", "inner")
    asked = {f"ask_{name}": oracle(name, [f"data.{name}.{rule}" for rule in documents]) for name in texts}
    opa = serve(texts | asked, made.DATA)
    data = made.as_data(made.DATA)
    found: list[str] = []
    for name, text in texts.items():
        concrete = Evaluator(made.compiled(text))
        cases = made.cases(randomness, ODD_INPUTS, whole=False, values=made.ODD_VALUES)
        for case, theirs in zip(cases, opa.values(name, [case.text for case in cases]), strict=True):
            ours = [made.concrete_answer(concrete, (name, rule), case, data) for rule in documents]
            if theirs is None:
                same = made.CONFLICTING in ours
            else:
                same = ours == [one[0] if one else made.NOTHING for one in theirs]
            if not same:
                found.append(f"{case.text}\nOPA says {theirs}, our concrete evaluator {ours}\n{text}")
    assert not found, f"{len(found)} differences\n" + "\n".join(found[:3])


def test_starter_policies(serve: Callable[[Mapping[str, str], object], Opa], made: ModuleType) -> None:
    inventory = parse_inventory((ROOT / "deploy/demo/inventory.yaml").read_text())
    files = [
        ROOT / "rego/lib/spiffe.rego",
        *(ROOT / "rego/starter" / f"{name}/{name}.rego" for name in STARTERS),
    ]
    texts = {file.stem: file.read_text() for file in files}
    document = {"inventory": inventory_document(inventory)}
    paths = [("gatehouse", *path.split(".")) for path in DOCUMENTS]
    asked = oracle("starter", [f"data.gatehouse.{path}" for path in DOCUMENTS])
    opa = serve({**texts, "ask": asked}, document)
    modules, data = made.compiled(*texts.values()), made.as_data(document)
    answered: Counter[object] = Counter()
    found: list[str] = []
    randomness = random.Random(7)
    for workload in inventory.workloads:
        for service in (None, *(service.name for service in workload.services)):
            known = {"destination": destination_document(workload, service)}
            for whole in (True, False):
                subject = Subject(made, modules, data, paths, made.partial_input(known, whole=whole))
                assert subject.refusals == []
                cases = made.cases(
                    randomness, STARTER_INPUTS, whole=whole, known=known, values=made.STARTER_VALUES
                )
                for case, theirs in zip(
                    cases, opa.values("starter", [case.text for case in cases]), strict=True
                ):
                    assert theirs is not None
                    answered.update(
                        f"{path}: {answer}" for path, answer in zip(DOCUMENTS, theirs, strict=True)
                    )
                    found.extend(subject.differences(case, theirs))
    print(dict(answered))
    assert found == []
    assert all(answered[f"{path}: [True]"] for path in DOCUMENTS if not path.endswith("never"))
