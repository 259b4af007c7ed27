"""Patterns as Istio spells them, with a bound where it can't spell them exactly.

Istio knows exact, `abc*`, `*abc`, `*` and, for paths, `{*}` and `{**}`; a `*` elsewhere is literal text that
never matches. `Bound.INNER` asks for values that match a subset of the pattern (sound in an ALLOW),
`Bound.OUTER` for a superset (sound in a DENY, and under a `not`); None is a superset that is everything.
"""

import enum
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from policies.formula import DESTINATION_IP, HOST, PATH, PORT, SNI, SOURCE_ID, SOURCE_IP, Attribute
from policies.formula.glob import alternatives
from policies.inventory import ClaimShape, Mesh
from policies.targets.patterns import PRESENT, Pattern, Union

SPACE_DELIMITED: Final = frozenset({"scope", "permission"})
"""Claims that Istio cuts at spaces before matching (pilot's JWT filter configuration)."""
_SEGMENT: Final = re.compile(r"[a-zA-Z0-9\-._~%!$&'()+,;:@=]+")
_SCHEME: Final = "spiffe://"


Values = tuple[Iterable[str], Iterable[str] | None, str]
"""Inner values, outer values (None: everything), and why they differ ("" where they don't)."""


class Bound(enum.Enum):
    """Which side an inexact spelling may err on."""

    INNER = "inner"
    OUTER = "outer"

    def turned(self) -> "Bound":
        """The bound under a negation."""
        return Bound.OUTER if self is Bound.INNER else Bound.INNER


@dataclass(slots=True)
class Spelling:
    """The values for a union, and why they aren't exact where they aren't."""

    values: set[str] = field(default_factory=set)
    everything: bool = False
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Speaker:
    """Spells unions for one kind of Istio proxy.

    `visible` are the attributes that the proxy can match on; `claims` the shapes that every issuer promises;
    `why` the reasons of conditions that can't be said; `ports` what the proxy calls a listening port, where
    that is another number.
    """

    mesh: Mesh
    visible: Callable[[Attribute], bool]
    claims: Mapping[tuple[str, ...], ClaimShape] = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def spell(self, place: Attribute, union: Union, bound: Bound) -> Spelling:
        """Values for a union of patterns; `everything` only for OUTER."""
        result = Spelling()
        aliased: list[str] = []
        for pattern in sorted(union):
            if not self.visible(place):
                spelled: Values = ([], None, f"{place} isn't visible to this proxy")
            elif place == SOURCE_ID and (name := self._aliased(pattern)):
                everywhere = all(twin in union for twin in self._twins(pattern))
                spelled = ([name] if everywhere else [], [name], "")
                aliased += [] if everywhere else [name]
            else:
                spelled = self._pattern(place, pattern)
            inner, outer, reason = spelled
            if reason:
                result.reasons.append(reason)
            if bound is Bound.INNER:
                result.values.update(inner)
            elif outer is None:
                result.everything = True
            else:
                result.values.update(outer)
        if aliased:
            result.reasons.append(_told_of_aliases(aliased, self.mesh))
        if "*" in result.values:
            result.values = {"*"}
        return result

    def _aliased(self, pattern: Pattern) -> str:
        """The principal of a pattern that Istio takes for the same name in each trust domain of the mesh."""
        if not self.mesh.trust_domain_aliases or pattern.kind not in ("exact", "prefix"):
            return ""
        domain, *rest = pattern.text.removeprefix(_SCHEME).split("/")
        deep = len(rest) == 4 if pattern.kind == "exact" else len(rest) >= 4
        own = pattern.kind == "prefix" or domain in (self.mesh.trust_domain, *self.mesh.trust_domain_aliases)
        if not pattern.text.startswith(_SCHEME) or not deep or not own:
            return ""
        return pattern.text.removeprefix(_SCHEME) + ("*" if pattern.kind == "prefix" else "")

    def _twins(self, pattern: Pattern) -> Iterable[Pattern]:
        """A pattern of callers in each trust domain of the mesh."""
        _, _, rest = pattern.text.removeprefix(_SCHEME).partition("/")
        for domain in (self.mesh.trust_domain, *self.mesh.trust_domain_aliases):
            yield Pattern(pattern.kind, f"{_SCHEME}{domain}/{rest}")

    def _pattern(self, place: Attribute, pattern: Pattern) -> Values:
        if pattern.kind == "other":
            return [], None, self.why.get(pattern.text, f"{pattern.text} on {place}")
        if place == PORT:
            ports = self.ports.get(int(pattern.text), ()) if self.ports else (pattern.text,)
            return ports, ports, ""
        if place in (SOURCE_IP, DESTINATION_IP):
            blocks = ["0.0.0.0/0", "::/0"] if pattern == PRESENT else [pattern.text]
            return blocks, blocks, ""
        if place == SOURCE_ID:
            return self._principal(pattern)
        if place.name == "jwt.claims":
            return self._claim(place, pattern)
        if place == PATH:
            return _path(pattern)
        if place in (HOST, SNI):
            return _lowered(pattern)
        return _text(pattern, place)

    def _principal(self, pattern: Pattern) -> Values:
        if pattern.kind == "exact":
            if not pattern.text.startswith(_SCHEME):
                return [], [], ""
            name = pattern.text.removeprefix(_SCHEME)
            domain, *rest = name.split("/")
            own = (self.mesh.trust_domain, *self.mesh.trust_domain_aliases)
            if len(rest) == 4 and domain == "cluster.local" and domain not in own:
                return [], None, f"Istio reads cluster.local in {name} as the mesh's own trust domain"
            return _star_free([name], name)
        if pattern.kind == "prefix":
            if _SCHEME.startswith(pattern.text):
                return ["*"], ["*"], ""
            if not pattern.text.startswith(_SCHEME):
                return [], [], ""
            name = pattern.text.removeprefix(_SCHEME)
            return _star_free([name + "*"], name)
        if pattern.kind == "suffix":
            return self._principal_suffix(pattern.text)
        return _text(pattern, SOURCE_ID)

    def _principal_suffix(self, tail: str) -> Values:
        """`*tail` ends the name behind the scheme; a tail that reaches into the scheme is a whole name."""
        names = [tail[size:] for size in range(1, len(_SCHEME) + 1) if tail.startswith(_SCHEME[-size:])]
        whole = [name for name in names if name[:1] not in ("", "/") and _in_name(name)]
        found = [self._principal(Pattern("exact", _SCHEME + name)) for name in whole]
        if _in_name(tail):
            found.append(_text(Pattern("suffix", tail), SOURCE_ID))
        inner = [value for values, _, _ in found for value in values]
        outer: list[str] | None = []
        for _, values, _ in found:
            outer = None if values is None or outer is None else [*outer, *values]
        return inner, outer, next((reason for _, _, reason in found if reason), "")

    def _claim(self, place: Attribute, pattern: Pattern) -> Values:
        """A claim value matches a text and a list element alike, so the issuer's promise decides."""
        if place.path[-1] in SPACE_DELIMITED and len(place.path) == 1:
            return [], None, f"Istio cuts {place} at spaces before it matches"
        shape = self.claims.get(place.path)
        if pattern == PRESENT:
            return ["*"], None, f"Istio's `*` on {place} leaves out empty and non-text values"
        on_list = pattern.kind == "member"
        inner, outer, reason = _text(Pattern("exact", pattern.text) if on_list else pattern, place)
        if shape is (ClaimShape.LIST if on_list else ClaimShape.STRING):
            return inner, outer, reason
        if shape is not None:
            return [], [], ""
        promise = "say in the inventory whether the issuer writes a string or a list"
        return [], outer, reason or f"Istio can't tell a text from a list of one in {place}: {promise}"


def _in_name(text: str) -> bool:
    """Whether a SPIFFE ID can have this text behind its scheme."""
    return ":" not in text and "//" not in text


def _star_free(values: list[str], text: str) -> Values:
    """`values` for a text that has to stand for itself; an outer star widens it."""
    if not text:
        return [], None, "Istio refuses empty values"
    if text.startswith("*"):
        return [], None, f"a literal * at the start of {text!r} can't be said"
    if values[0] == text and text.endswith("*"):
        return [], [text], f"a literal * at the end of {text!r} can't be said"
    return values, values, ""


def _text(pattern: Pattern, place: Attribute) -> Values:
    text = pattern.text
    if pattern == PRESENT:
        return ["*"], ["*"], ""
    if pattern.kind == "exact":
        return _star_free([text], text)
    if pattern.kind == "prefix":
        return _star_free([text + "*"], text)
    # Whatever matches is present, which is the widest that `*` says, save for claims (see _claim).
    outer = None if place.name == "jwt.claims" else ["*"]
    if pattern.kind == "suffix":
        if not text or text.endswith("*"):
            return [], outer, f"the suffix {text!r} can't be said"
        return ["*" + text], ["*" + text], ""
    return [], outer, f"Istio has no {pattern.kind} match ({text!r} on {place})"


def _lowered(pattern: Pattern) -> Values:
    """Hosts and server names are lower case in the input; a constant with capitals never matches there.

    Istio folds case, so that emitting such a constant would match what Rego doesn't.
    """
    if pattern.kind in ("exact", "prefix", "suffix") and pattern.text != pattern.text.lower():
        return [], [], ""
    return _text(pattern, HOST)


def _path(pattern: Pattern) -> Values:
    text = pattern.text
    if pattern.kind == "exact" and (not text.startswith("/") or "?" in text or "#" in text):
        return [], [], ""  # input.request.path has neither query nor fragment: it never holds
    if pattern.kind in ("exact", "prefix", "suffix") and ("{" in text or "}" in text):
        outer = _hull(text.partition("{")[0]) if pattern.kind != "suffix" else ["*"]
        return [], outer, f"braces in {text!r} would be read as a path template"
    if pattern.kind == "glob":
        return _glob_path(pattern)
    return _text(pattern, PATH)


def _glob_path(pattern: Pattern) -> Values:
    """A glob as templates where its wildcards are whole segments; else only its literal head bounds it."""
    inner: list[str] = []
    outer: list[str] = []
    exact = True
    for pieces in alternatives(pattern.text, pattern.more):
        head = pieces[0][1] if pieces and pieces[0][0] == "text" else ""
        if all(kind == "text" for kind, _ in pieces):
            inner += _path(Pattern("exact", head))[0]
            outer += _hull(head)
            continue
        exact = False
        outer += _hull(head)
        words = {"star": "{*}", "stars": "{**}"}
        # What no template can say, a `?` or a class, is spelled as a character that no template has.
        spelled = "".join(text if kind == "text" else words.get(kind, "[") for kind, text in pieces)
        if pattern.more == ("/",) and _is_template(spelled):
            inner.append(spelled)
        if [kind for kind, _ in pieces] == ["text", "star"] and head.endswith("/"):
            inner.append(head)  # a glob's star may be empty, a template's segment may not
    if exact:
        return inner, inner, ""
    return inner, outer, f"the glob {pattern.text!r} matches segments that Istio's path templates don't"


def _is_template(spelled: str) -> bool:
    """Whether every segment is a wildcard or literal characters of a path, `{**}` last."""
    segments = spelled.split("/")
    if segments[0] or len(segments) < 2 or "{" not in spelled or "{**}" in segments[:-1]:
        return False
    return all(one in ("{*}", "{**}") or not one or _SEGMENT.fullmatch(one) for one in segments[1:])


def _hull(head: str) -> list[str]:
    """Paths that start so."""
    return [head + "*"] if head and not head.startswith("*") and "{" not in head else ["*"]


def _told_of_aliases(names: Sequence[str], mesh: Mesh) -> str:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    domains = ", ".join(mesh.trust_domain_aliases)
    return (
        f"Istio admits {shown} under each trust domain of the mesh ({mesh.trust_domain}, {domains}): "
        "let the policy name them all, or leave the aliases out of the inventory"
    )
