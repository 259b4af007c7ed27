"""Formulas and policy sets as JSON, both ways.

A formula is `true`, `false`, `{"and": [...]}`, `{"or": [...]}`, or a literal
`{"atom": "prefix", "on": ["request.path"], "args": ["/a/"], "not": true}`. Reading rebuilds through the same
checks as any other builder, so what is read is canonical even where the text was not.
"""

from collections.abc import Mapping
from typing import Final

from control_plane.core.errors import InvalidInput, shown
from policies.formula.atoms import (
    Atom,
    Between,
    Cidr,
    Contains,
    Equal,
    Glob,
    In,
    Member,
    Opaque,
    Prefix,
    Present,
    Regex,
    Suffix,
    canonical_network,
    check_expression,
)
from policies.formula.attributes import Attribute
from policies.formula.decision import Decision, Disjunct, Origin, PolicySet, Question, WorkloadPolicy
from policies.formula.expression import ATOM_CLASSES, FALSE, MAX_DEPTH, TRUE, Formula, all_of, any_of, literal
from policies.formula.glob import alternatives

Json = object
_NAMES: Final = {kind: kind.__name__.lower() for kind in ATOM_CLASSES}
_CLASSES: Final = {name: kind for kind, name in _NAMES.items()}


def formula_to_json(formula: Formula) -> Json:
    """The JSON form; equal formulas give equal documents."""
    if formula.atom is None:
        if formula.kind in ("and", "or"):
            return {formula.kind: [formula_to_json(child) for child in formula.children]}
        return formula is TRUE
    atom = formula.atom
    document: dict[str, Json] = {
        "atom": _NAMES[type(atom)],
        "on": [atom.attribute.name, *atom.attribute.path],
    }
    if isinstance(atom, Opaque):
        document |= {"digest": atom.digest, "span": atom.span, "reason": atom.reason}
        document["reads"] = [[one.name, *one.path] for one in atom.reads]
    elif atom.parts():
        document["args"] = list(atom.parts())
    return document | ({"not": True} if formula.negated else {})


def formula_from_json(document: Json, depth: int = 0) -> Formula:
    """Read the JSON form; raises InvalidInput where it isn't one."""
    if depth > MAX_DEPTH:
        raise InvalidInput(f"reading a formula: it nests deeper than {MAX_DEPTH}")
    if isinstance(document, bool):
        return TRUE if document else FALSE
    if not isinstance(document, dict):
        raise InvalidInput(f"reading a formula: {shown(document)} came, an object is expected")
    for key, join in (("and", all_of), ("or", any_of)):
        if key in document:
            return join(*(formula_from_json(child, depth + 1) for child in _list(document, key)))
    return literal(_atom(document), document.get("not") is True)


def policy_set_to_json(policies: PolicySet) -> Json:
    """A policy set as one document."""
    return {
        "bundle_digest": policies.bundle_digest,
        "workloads": {
            policy.workload: {
                name: _question_to_json(question)
                for name, question in (("authz", policy.authz), ("segmentation", policy.segmentation))
                if question is not None
            }
            for policy in policies.policies
        },
    }


def policy_set_from_json(document: Json) -> PolicySet:
    """Read a policy set; raises InvalidInput where it isn't one."""
    if not isinstance(document, dict) or not isinstance(document.get("workloads"), dict):
        raise InvalidInput("reading a policy set: an object with `bundle_digest` and `workloads` is expected")
    policies = []
    for workload, questions in document["workloads"].items():
        if not isinstance(questions, dict):
            raise InvalidInput(f"reading the policy of {shown(workload)}: an object is expected")
        read = {
            name: _question_from_json(questions[name])
            for name in ("authz", "segmentation")
            if name in questions
        }
        policies.append(WorkloadPolicy(str(workload), read.get("authz"), read.get("segmentation")))
    return PolicySet.of(str(document.get("bundle_digest", "")), *policies)


def _question_to_json(question: Question) -> Json:
    return {
        name: [
            {
                "formula": formula_to_json(one.formula),
                "origins": [[o.file, o.line, o.rule] for o in one.origins],
            }
            for one in decision.disjuncts
        ]
        for name, decision in (("allow", question.allow), ("deny", question.deny))
    }


def _question_from_json(document: Json) -> Question:
    if not isinstance(document, dict):
        raise InvalidInput("reading a question: an object with `allow` and `deny` is expected")
    return Question(*(_decision_from_json(_list(document, name)) for name in ("allow", "deny")))


def _decision_from_json(rules: list[Json]) -> Decision:
    disjuncts = []
    for rule in rules:
        if not isinstance(rule, dict):
            raise InvalidInput("reading a rule: an object with `formula` and `origins` is expected")
        origins = []
        for origin in _list(rule, "origins"):
            if not isinstance(origin, list) or len(origin) != 3 or not isinstance(origin[1], int):
                raise InvalidInput(f"reading an origin: {shown(origin)} came, not [file, line, rule]")
            origins.append(Origin(str(origin[0]), origin[1], str(origin[2])))
        disjuncts.append(Disjunct(formula_from_json(rule.get("formula")), tuple(sorted(origins))))
    return Decision.of(*disjuncts)


def _atom(document: Mapping[str, object]) -> Atom:
    kind = _CLASSES.get(str(document.get("atom")))
    if kind is None:
        raise InvalidInput(
            f"reading an atom: kind {shown(document.get('atom'))} is not one of {', '.join(sorted(_CLASSES))}"
        )
    attribute = _attribute(document.get("on"))
    arguments = _list(document, "args") if "args" in document else []
    if kind is Opaque:
        digest, span, reason = (str(document.get(name, "")) for name in ("digest", "span", "reason"))
        return Opaque(attribute, digest, span, reason, tuple(map(_attribute, _list(document, "reads"))))
    if kind is Present:
        return Present(attribute)
    if kind is Between and len(arguments) == 2 and all(type(one) is int for one in arguments):
        return Between(attribute, *(one for one in arguments if isinstance(one, int)))
    if kind is Equal and len(arguments) == 1 and isinstance(arguments[0], str | int):
        return Equal(attribute, arguments[0])
    if kind is In:
        return In(attribute, tuple(one for one in arguments if isinstance(one, str | int)))
    texts = [one for one in arguments if isinstance(one, str)]
    if len(texts) == len(arguments) and texts:
        words = [str(text) for text in texts]
        if kind is Member:
            return Member(attribute, tuple(sorted(set(words))))
        if kind is Glob:
            alternatives(words[0], tuple(words[1:]))
            return Glob(attribute, words[0], tuple(words[1:]))
        if len(words) == 1 and kind is Cidr:
            return Cidr(attribute, canonical_network(words[0]))
        if len(words) == 1 and kind is Regex:
            return Regex(attribute, check_expression(words[0]))
        for plain in (Prefix, Suffix, Contains):
            if len(words) == 1 and kind is plain:
                return plain(attribute, words[0])
    raise InvalidInput(f"reading atom {_NAMES[kind]}: arguments {shown(arguments)} don't fit")


def _attribute(document: object) -> Attribute:
    if not isinstance(document, list) or not document or not all(isinstance(step, str) for step in document):
        raise InvalidInput(f"reading an attribute: {shown(document)} came, a list of texts is expected")
    return Attribute.of(*document)


def _list(document: Mapping[str, object], key: str) -> list[object]:
    found = document.get(key, [])
    if not isinstance(found, list):
        raise InvalidInput(f"reading `{key}`: a list is expected")
    return found
