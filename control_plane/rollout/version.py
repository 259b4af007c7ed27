"""A policy version: Rego, data and inventory as they were pushed, with who and why. It never changes.

The sources travel and are kept as a `PolicyBundle` without an assignment, packed by zlib. A version's record
is signed by the policy key when it is stored, over all that makes it: whoever changes the database can't
change a policy. Reading folders and checking Rego is done elsewhere.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import DecodeError

from control_plane.core.errors import Corrupt, InvalidInput, ResourceExhausted, shown
from control_plane.proto.gatehouse.node.v1.node_pb2 import PolicyBundle, PolicyFile
from policies.files import DATA_FILES, digest_of, is_test

MAX_FILES: Final = 10_000
MAX_CONTENT_BYTES: Final = 16 << 20
MAX_REASON_CHARACTERS: Final = 1000
MAX_AUTHOR_CHARACTERS: Final = 512

_PATH: Final = re.compile(r"[^/\x00-\x1f\x7f\\]{1,255}(/[^/\x00-\x1f\x7f\\]{1,255}){0,30}")


@dataclass(frozen=True, slots=True)
class PolicySource:
    """What an author pushes: files by relative name, tests among them, and the inventory as a file."""

    files: Mapping[str, str] = field(repr=False)
    inventory: str = field(repr=False)

    @classmethod
    def of(cls, files: Mapping[str, str], inventory: str) -> "PolicySource":
        """Checks names and sizes, never the Rego. Raises InvalidInput, ResourceExhausted."""
        if len(files) > MAX_FILES:
            raise ResourceExhausted(f"taking a policy: {len(files)} files came, at most {MAX_FILES} may")
        for path in files:
            name = path.rpartition("/")[2]
            if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
                raise InvalidInput(f"taking a policy: {shown(path)} isn't a relative file name")
            if not name.endswith(".rego") and name not in DATA_FILES:
                raise InvalidInput(
                    f"taking a policy: {shown(path)} is neither Rego nor data",
                    hint=f"send .rego files and {', '.join(DATA_FILES)}",
                )
        size = len(inventory.encode()) + sum(len(text.encode()) for text in files.values())
        if size > MAX_CONTENT_BYTES:
            raise ResourceExhausted(
                f"taking a policy: {size} bytes of files and inventory, at most {MAX_CONTENT_BYTES} may come"
            )
        return cls(dict(sorted(files.items())), inventory)

    @property
    def digest(self) -> str:
        """`sha256:…` of Rego and data without the tests: the same that `gatehouse policy compile` shows."""
        return digest_of(self.files)

    @property
    def content_digest(self) -> str:
        """SHA-256, hex, of everything: files, tests and inventory."""
        hashed = hashlib.sha256()
        for part in (self.inventory, *(part for item in sorted(self.files.items()) for part in item)):
            hashed.update(len(part.encode()).to_bytes(8, "big") + part.encode())
        return hashed.hexdigest()

    def without_tests(self) -> "PolicySource":
        """What is enforced: agents have no use for tests."""
        kept = {path: text for path, text in self.files.items() if not is_test(path)}
        return PolicySource(kept, self.inventory)

    def pack(self) -> bytes:
        """As it is stored."""
        files = [PolicyFile(path=path, content=text.encode()) for path, text in self.files.items()]
        bundle = PolicyBundle(files=files, inventory=self.inventory.encode())
        return zlib.compress(bundle.SerializeToString(deterministic=True), 6)

    @classmethod
    def unpack(cls, packed: bytes) -> "PolicySource":
        """Reads what `pack` wrote. Raises Corrupt."""
        try:
            bundle = PolicyBundle.FromString(zlib.decompress(packed))
            files = {file.path: file.content.decode() for file in bundle.files}
            return cls(files, bundle.inventory.decode())
        except (zlib.error, DecodeError, ValueError) as error:
            raise Corrupt(f"reading a stored policy of {len(packed)} bytes: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyVersion:
    """The record of one version. `digest` names what is enforced, `content_digest` everything that came."""

    number: int
    digest: str
    content_digest: str
    author: str
    reason: str
    created_at: int

    def signed_text(self) -> bytes:
        """What the policy key signs: all fields, in one spelling."""
        fields = [self.number, self.digest, self.content_digest, self.author, self.reason, self.created_at]
        return b"gatehouse policy version v1\n" + json.dumps(fields).encode("ascii")


@dataclass(frozen=True, slots=True)
class SignedVersion:
    """A version with the signature over `signed_text` by the policy key `key_id`."""

    version: PolicyVersion
    signature: bytes = field(repr=False)
    key_id: str


def checked_reason(reason: str) -> str:
    """Why something is done: a sentence or two, on one line. Raises InvalidInput."""
    tidy = " ".join(reason.split())
    if not tidy or len(tidy) > MAX_REASON_CHARACTERS:
        raise InvalidInput(
            f"reason: {len(tidy)} characters came, 1 to {MAX_REASON_CHARACTERS} are expected",
            hint="say why in a sentence: it is what others see in the history",
        )
    return tidy
