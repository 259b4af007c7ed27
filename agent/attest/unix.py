"""The `unix` workload attestor: what the kernel says about a process, as selectors.

    unix:uid:1000                 unix:user:cart              effective user
    unix:gid:1000                 unix:group:cart             effective group
    unix:supplementary_gid:27     unix:supplementary_group:sudo
    unix:path:/usr/bin/cart       unix:sha256:9f86d0…         the running executable

Names as in SPIRE, so that entries move over. A path says which file is run, not which script: an
interpreter's path is shared by all its scripts. A deleted executable keeps its digest (that is what runs)
and loses its path (that names something else now), with one exception: a process that was attested with
the path before, and still runs the very same file, keeps it; else upgrading a package would cut off every
process that hasn't been restarted yet.

Blocking (/proc, hashing, the name service): runs in a worker thread.
"""

import grp
import pwd
from dataclasses import dataclass

from agent.attest.digests import DigestCache, ExecutableChanged, ExecutableTooLarge
from agent.attest.process import AnchoredProcess, Executable, open_executable, read_credentials
from control_plane.core.errors import InvalidInput, Unavailable
from control_plane.core.selectors import Selector, Selectors

TYPE = "unix"


@dataclass(frozen=True, slots=True)
class Attestation:
    """What was found out about a process, and what couldn't be (for `explain`).

    `uncertain`: it couldn't for a reason that may pass, so who isn't recognised now may still be somebody.
    """

    selectors: Selectors
    problems: tuple[str, ...] = ()
    executable: Executable | None = None
    uncertain: bool = False


class UnixAttestor:
    """Attests one anchored process at a time; thread-safe."""

    def __init__(self, digests: DigestCache) -> None:
        self._digests = digests

    def attest(self, process: AnchoredProcess, before: Attestation | None = None) -> Attestation:
        """Looks at the process. `before` is the last attestation of the same process, if there is one.
        Raises ProcessEnded, and Unavailable if not even the credentials could be read."""
        values: list[str] = []
        problems: list[str] = []
        executable: Executable | None = None
        uncertain = False
        with process.reading() as directory:
            try:
                credentials = read_credentials(directory)
            except (FileNotFoundError, ProcessLookupError):
                raise
            except (OSError, ValueError) as error:
                raise Unavailable(
                    f"attesting process {process.pid}: its status is unreadable: {error}"
                ) from error
            values += _names(f"uid:{credentials.uid}", "user", _user_name(credentials.uid))
            values += _names(f"gid:{credentials.gid}", "group", _group_name(credentials.gid))
            for group in credentials.groups:
                values += _names(f"supplementary_gid:{group}", "supplementary_group", _group_name(group))
            try:
                with open_executable(directory) as (descriptor, executable):
                    values += self._path(executable, before, problems)
                    values.append(f"sha256:{self._digests.sha256(descriptor, executable.file)}")
            except PermissionError:
                problems.append(
                    "unix:path and unix:sha256 unknown: the agent may not look at /proc/PID/exe of another "
                    "user's process; run it as root or with CAP_SYS_PTRACE"
                )
            except (ExecutableTooLarge, ExecutableChanged) as error:
                problems.append(f"unix:sha256 unknown: {error}")
                uncertain = isinstance(error, ExecutableChanged)
            except OSError as error:
                problems.append(f"unix:path and unix:sha256 unknown: {error}")
                uncertain = True
        selectors = set()
        for value in values:
            try:
                selectors.add(Selector(TYPE, value))
            except InvalidInput as error:
                problems.append(str(error))  # a path with control characters, for instance
        return Attestation(frozenset(selectors), tuple(problems), executable, uncertain)

    def _path(self, executable: Executable, before: Attestation | None, problems: list[str]) -> list[str]:
        if not executable.deleted:
            return [f"path:{executable.path}"]
        known = before.executable if before is not None else None
        same = known is not None and (known.file.device, known.file.inode, known.path) == (
            executable.file.device,
            executable.file.inode,
            executable.path,
        )
        if same and before is not None and Selector(TYPE, f"path:{executable.path}") in before.selectors:
            return [f"path:{executable.path}"]
        problems.append(
            f"unix:path withheld: the executable {executable.path} was deleted or replaced since the process "
            "started; restart the process"
        )
        return []


def _names(number: str, kind: str, name: str | None) -> list[str]:
    return [number] if name is None else [number, f"{kind}:{name}"]


def _user_name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return None  # containers run users that the host never heard of


def _group_name(gid: int) -> str | None:
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OverflowError):
        return None
