"""One resource type on one discovery stream: what the client asked for, what it was sent, what is due.

Two dialects of the same protocol (xDS protocol, "Variants of the xDS Transport Protocol"): the state of the
world, where a request lists all names and a response all resources, and delta, where both list differences.
A resource's version is a digest of its content, so that a client that comes back is told nothing twice. What
a client rejects is not sent again until it is another, or until somebody wants it to be tried (`again`).

Pure: values in, values out; neither messages nor streams nor what a resource means are known here.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from control_plane.core.errors import ResourceExhausted

MAX_NAMES: Final = 1024  # per type and stream; an Envoy asks for a handful
WILDCARD: Final = "*"


@dataclass(frozen=True, slots=True)
class Kind:
    """A resource type. `wildcard`: asking for no name means all of them. `complete`: a response in the state
    of the world lists all there is, and what is missing in it is gone. `tells_absence`: who asks for a name
    that isn't there is told so (delta); otherwise it waits until there is one."""

    type_url: str
    wildcard: bool
    complete: bool
    tells_absence: bool


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource as it goes out: `body` is the serialised message of its kind."""

    name: str
    version: str
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, of either dialect. `names` are all names (state of the world) or those to add (delta),
    `dropped` those to remove, `known` what the client holds from an earlier stream, by name. `rejected` is
    what the client says about the response that it couldn't use."""

    type_url: str
    names: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    known: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    rejected: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One response; `removed` is for delta only."""

    type_url: str
    version: str
    nonce: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...] = ()


class Subscription(Protocol):
    """One type on one stream."""

    @property
    def asked(self) -> Collection[str]:
        """The names that are asked for, without the wildcard."""
        ...

    def take(self, ask: Ask) -> bool:
        """Takes a request; False if it answers an older response than the last and was left aside.
        Raises ResourceExhausted when too many names are asked for."""
        ...

    def due(self, resources: Mapping[str, Resource]) -> Answer | None:
        """What the client has to be sent now, given all resources there are; None if it is up to date.
        What is returned counts as sent."""
        ...

    def again(self) -> None:
        """Has all of it sent once more: the client runs something else than it was sent."""
        ...


class StateOfTheWorld:
    """The dialect of DiscoveryRequest and DiscoveryResponse."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._names: tuple[str, ...] | None = None
        self._everything = False
        self._sent: dict[str, str] = {}
        self._answers = 0

    @property
    def asked(self) -> Collection[str]:
        """See Subscription."""
        return self._names or ()

    def take(self, ask: Ask) -> bool:
        """See Subscription."""
        if self._names is not None and ask.nonce != self._nonce:
            return False
        names = tuple(dict.fromkeys(ask.names))
        _bound(len(names))
        if self._names is None:
            self._everything = self._kind.wildcard and not names
        if WILDCARD in names:
            self._everything = self._kind.wildcard
        elif names:
            self._everything = False
        self._names = names
        if not self._everything:
            # A name that is dropped and asked for again is to be answered again.
            self._sent = {name: version for name, version in self._sent.items() if name in names}
        return True

    def due(self, resources: Mapping[str, Resource]) -> Answer | None:
        """See Subscription."""
        if self._names is None:
            return None
        names = sorted(resources) if self._everything else self._names
        found = [resource for name in names if (resource := resources.get(name)) is not None]
        versions = {resource.name: resource.version for resource in found}
        news = any(self._sent.get(name) != version for name, version in versions.items())
        if self._kind.complete:
            news = news or not self._answers or versions.keys() != self._sent.keys()
        if not news:
            return None
        self._sent = versions
        self._answers += 1
        return Answer(self._kind.type_url, combined_version(versions), self._nonce, tuple(found))

    def again(self) -> None:
        """See Subscription. Nothing is forgotten, so that what is to be removed still is."""
        self._sent = dict.fromkeys(self._sent, "")

    @property
    def _nonce(self) -> str:
        return str(self._answers) if self._answers else ""


class Delta:
    """The dialect of DeltaDiscoveryRequest and DeltaDiscoveryResponse."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._asked = False
        self._everything = False
        self._names: dict[str, None] = {}
        self._sent: dict[str, str] = {}
        self._absent: set[str] = set()
        self._answers = 0

    @property
    def asked(self) -> Collection[str]:
        """See Subscription."""
        return self._names.keys()

    def take(self, ask: Ask) -> bool:
        """See Subscription. Differences count whichever response they come with."""
        _bound(len(self._names.keys() | set(ask.names)))
        _bound(len(ask.known))
        if not self._asked:
            self._everything = self._kind.wildcard and not ask.names
            self._sent.update(ask.known)
        self._asked = True
        for name in ask.names:
            if name == WILDCARD:
                self._everything = self._kind.wildcard
                continue
            self._names[name] = None
            self._absent.discard(name)
            if name not in ask.known:
                self._sent.pop(name, None)  # whoever asks anew wants an answer
        for name in ask.dropped:
            if name == WILDCARD:
                self._everything = False
            self._names.pop(name, None)
            self._sent.pop(name, None)
            self._absent.discard(name)
        return True

    def due(self, resources: Mapping[str, Resource]) -> Answer | None:
        """See Subscription."""
        if not self._asked:
            return None
        names = sorted(resources) if self._everything else self._names
        changed = [
            resource
            for name in names
            if (resource := resources.get(name)) is not None and self._sent.get(name) != resource.version
        ]
        gone = self._gone(resources)
        if not changed and not gone and not (self._kind.complete and not self._answers):
            return None
        for name in gone:
            self._sent.pop(name, None)
        self._absent.update(gone)
        for resource in changed:
            self._sent[resource.name] = resource.version
            self._absent.discard(resource.name)
        self._answers += 1
        version = combined_version(self._sent)
        return Answer(self._kind.type_url, version, str(self._answers), tuple(changed), gone)

    def again(self) -> None:
        """See Subscription."""
        self._sent = dict.fromkeys(self._sent, "")

    def _gone(self, resources: Mapping[str, Resource]) -> tuple[str, ...]:
        if not self._kind.tells_absence:
            return ()
        concerned = self._sent.keys() | self._names.keys()
        return tuple(sorted(name for name in concerned - self._absent if resources.get(name) is None))


def combined_version(versions: Mapping[str, str]) -> str:
    """One version for several resources: their own if there is one, else a digest of all."""
    if len(versions) == 1:
        return next(iter(versions.values()))
    text = "\n".join(f"{name}\t{version}" for name, version in sorted(versions.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _bound(count: int) -> None:
    if count > MAX_NAMES:
        raise ResourceExhausted(
            f"a discovery request names {count} resources of one type, at most {MAX_NAMES} are taken"
        )
