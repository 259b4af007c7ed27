"""What earlier runs proved, so that only what changed is proved again.

A claim is the digest of everything that a proof of one workload depends on: the compiler's own sources,
target, options, inventory, the formulas of the question, and the text of every manifest that could select it.
Under a claim stand the verdicts, if all of them were accepted, with a seal: the digest of claim and verdicts.
Text that was damaged, cut, or written by another version has no claim that is asked for, or a broken seal,
and counts for nothing. The seal guards against accidents; whoever may write it must be trusted (see the CLI).

Positions in Rego are no part of a claim, since an edit above moves them; a verdict names its rules by their
place in the question.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from control_plane.core.errors import InvalidInput
from policies.formula import Attribute, Formula, Origin, Question, Request, Value
from policies.formula.codec import formula_to_json
from policies.inventory import Inventory
from policies.proof.verdict import Outcome, Verdict
from policies.targets.emission import Options

FORMAT: Final = "gatehouse kept proofs 1"
MAX_CHARACTERS: Final = 64 << 20


@dataclass(slots=True)
class KeptProofs:
    """Proofs of earlier runs, and those of this one. `compiler` is a digest of the compiler's sources."""

    compiler: str
    _earlier: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    _current: dict[str, Mapping[str, object]] = field(default_factory=dict)
    _digests: dict[Formula, str] = field(default_factory=dict)
    reused: int = 0
    """How many workloads were taken over."""

    @staticmethod
    def read(compiler: str, text: str) -> KeptProofs:
        """What a text of `written` holds; nothing where it is something else."""
        if len(text) > MAX_CHARACTERS:
            return KeptProofs(compiler)
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            return KeptProofs(compiler)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            return KeptProofs(compiler)
        proofs = document.get("proofs")
        return KeptProofs(compiler, proofs if isinstance(proofs, dict) else {})

    def written(self) -> str:
        """The proofs that this run used or made; what it didn't ask for is forgotten."""
        return json.dumps({"format": FORMAT, "proofs": self._current}, sort_keys=True)

    def basis(self, target: str, options: Options, inventory: Inventory) -> str:
        """What all claims of one compilation share. Inventories are values, and their parts print in full."""
        return _digest(self.compiler, target, repr(options), repr(inventory))

    def claim(self, basis: str, workload: str, question: Question, near: Iterable[str]) -> str:
        """The digest under which the proof of one workload is kept; `near` are digests of manifests."""
        formulas = [
            "|".join(self._formula(one.formula) for one in decision.disjuncts)
            for decision in (question.allow, question.deny)
        ]
        return _digest(basis, workload, *formulas, *sorted(near))

    def find(self, claim: str, workload: str, question: Question) -> tuple[Verdict, ...] | None:
        """The verdicts of a claim; None where it wasn't proved, or what was kept isn't whole."""
        kept = self._earlier.get(claim)
        if not isinstance(kept, dict):
            return None
        seal, verdicts = kept.get("seal"), kept.get("verdicts")
        if not isinstance(seal, str) or not isinstance(verdicts, list) or not verdicts:
            return None
        if not hmac.compare_digest(seal.encode(), _seal(claim, verdicts).encode()):
            return None
        try:
            found = tuple(_verdict(one, workload, question) for one in verdicts)
        except (InvalidInput, KeyError, TypeError, ValueError, IndexError):
            return None
        if not all(one.accepted for one in found):
            return None
        self._current[claim] = kept
        self.reused += 1
        return found

    def keep(self, claim: str, question: Question, verdicts: tuple[Verdict, ...]) -> None:
        """Keeps what was proved just now; a workload that was refused is asked again next time."""
        if not verdicts or not all(one.accepted for one in verdicts):
            return
        documents = [_document(one, question) for one in verdicts]
        if all(document is not None for document in documents):
            self._current[claim] = {"verdicts": documents, "seal": _seal(claim, documents)}

    def _formula(self, formula: Formula) -> str:
        known = self._digests.get(formula)
        if known is None:
            text = json.dumps(formula_to_json(formula), sort_keys=True)
            known = self._digests[formula] = _digest(text)
        return known


def text_digest(text: str, bundle_digest: str) -> str:
    """The digest of a manifest's text without the name of the version that wrote it last.

    That name is in an annotation that no proof looks at; a digest can't occur in what it is the digest of.
    """
    if bundle_digest.startswith("sha256:") and len(bundle_digest) == 71:
        text = text.replace(bundle_digest, "")
    return _digest(text)


def _digest(*parts: str) -> str:
    # Lengths stand before the parts, so that no two lists of parts run together to the same bytes.
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def _seal(claim: str, verdicts: object) -> str:
    return _digest(claim, json.dumps(verdicts, sort_keys=True))


def _document(verdict: Verdict, question: Question) -> dict[str, object] | None:
    """A verdict without positions; None where its origins aren't those of whole rules."""
    named = set(verdict.origins)
    rules = [
        position
        for position, one in enumerate(question.allow.disjuncts)
        if one.origins and set(one.origins) <= named
    ]
    if _origins(rules, question) != verdict.origins:
        return None
    document: dict[str, object] = {
        "layer": verdict.layer, "outcome": str(verdict.outcome), "reason": verdict.reason,
        "assumptions": list(verdict.assumptions), "rules": rules,
    }  # fmt: skip
    if verdict.witness is not None:
        document["witness"] = [
            [[attribute.name, *attribute.path], value] for attribute, value in verdict.witness.values.items()
        ]
    return document


def _verdict(document: Mapping[str, object], workload: str, question: Question) -> Verdict:
    """Raises what reading something else raises."""
    rules, witness, assumptions = document["rules"], document.get("witness"), document["assumptions"]
    if not isinstance(rules, list) or not isinstance(assumptions, list):
        raise InvalidInput("reading a kept proof: lists are expected")
    return Verdict(
        workload,
        str(document["layer"]),
        Outcome(str(document["outcome"])),
        _request(witness) if isinstance(witness, list) else None,
        _origins(rules, question),
        str(document["reason"]),
        tuple(map(str, assumptions)),
    )


def _request(entries: list[list[object]]) -> Request:
    values: dict[Attribute, Value] = {}
    for name, value in entries:
        if not isinstance(name, list) or not isinstance(value, str | int | list):
            raise InvalidInput("reading a kept proof: a witness has names and values")
        values[Attribute.of(*map(str, name))] = tuple(map(str, value)) if isinstance(value, list) else value
    return Request.of(values)


def _origins(rules: Iterable[int], question: Question) -> tuple[Origin, ...]:
    disjuncts = question.allow.disjuncts
    return tuple(sorted({origin for position in rules for origin in disjuncts[position].origins}))
