"""The card database: PostgreSQL where this machine has its programs, else the small TCP service of `shop`.

`prepared` makes its files once; run as a program, this becomes PostgreSQL. It listens on a unix socket alone,
so that nobody gets to it but through its Envoy. PostgreSQL doesn't run as root: then it runs as the system
user `postgres` or `nobody`, in a folder below the temporary one, since others may have no way into the clone.
GATEHOUSE_DEMO_POSTGRESQL=no makes the demo do without.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from deploy.demo import place
from deploy.demo.cards import DATABASE, USER

PROGRAMS = ("postgres", "initdb", "psql")
USERS = ("postgres", "nobody")
FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")
"""Where Debian, Red Hat and Homebrew keep them, outside PATH."""
PORT = 5432  # part of the socket's name
SECONDS = 120.0
TABLES = f"""
CREATE ROLE {USER} LOGIN;
CREATE TABLE cards (id integer PRIMARY KEY, number text NOT NULL);
INSERT INTO cards SELECT id, '4242 4242 4242 ' || (4235 + id) FROM generate_series(1, 9) AS id;
GRANT SELECT ON cards TO {USER};
"""


class NoDatabase(Exception):
    """PostgreSQL can't be used here; the message says why."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """The installed programs, the user to run them as (None: who runs this), and the folder of the data."""

    programs: Path
    user: pwd.struct_passwd | None
    folder: Path

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.folder / f".s.PGSQL.{PORT}"

    def server(self) -> list[str]:
        """What becomes the database."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "port": str(PORT),
            "shared_buffers": "16MB",
        }
        flags = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self.programs / "postgres"), "-D", str(self.folder / "data"), *flags]


def find() -> Postgres:
    """PostgreSQL on this machine. Raises NoDatabase."""
    if os.environ.get("GATEHOUSE_DEMO_POSTGRESQL") == "no":
        raise NoDatabase("GATEHOUSE_DEMO_POSTGRESQL says so")
    programs = _programs()
    if programs is None:
        raise NoDatabase(f"PostgreSQL isn't installed ({', '.join(PROGRAMS)})")
    if os.geteuid() != 0:
        return Postgres(programs, None, place.data_dir() / "demo" / "postgres")
    known = {one.pw_name: one for one in pwd.getpwall()}
    user = next((known[name] for name in USERS if name in known), None)
    if user is None:
        raise NoDatabase(f"PostgreSQL doesn't run as root, and there is no user {' or '.join(USERS)}")
    return Postgres(programs, user, place.outside("postgres"))


def prepared() -> Postgres:
    """PostgreSQL with its tables. Raises NoDatabase."""
    found = find()
    _own_folder(found)
    if not (found.folder / "ready").exists():
        data = found.folder / "data"
        shutil.rmtree(data, ignore_errors=True)  # of a start that was interrupted
        options = ("-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "--no-sync")
        _run(found, "initdb", "-D", str(data), *options)
        _run(found, "postgres", "--single", "-D", str(data), DATABASE, text=TABLES)
        (found.folder / "ready").touch()
    return found


def psql(host: str, port: int, question: str) -> list[str]:
    """The command that asks."""
    program = "psql" if shutil.which("psql") else str(find().programs / "psql")
    return [program, "-h", host, "-p", str(port), "-U", USER, DATABASE, "-c", question]


def remove() -> None:
    """Removes what lies outside the demo's own folder."""
    with contextlib.suppress(NoDatabase):
        found = find()
        if found.user is not None:
            shutil.rmtree(found.folder, ignore_errors=True)


def _programs() -> Path | None:
    """The folder with all of the programs."""
    folders = [path for pattern in FOLDERS for path in sorted(Path("/").glob(pattern[1:]), reverse=True)]
    if in_path := shutil.which("postgres"):
        folders.insert(0, Path(in_path).resolve().parent)
    return next((one for one in folders if all(os.access(one / name, os.X_OK) for name in PROGRAMS)), None)


def _own_folder(found: Postgres) -> None:
    """A folder that belongs to the user of the database and to nobody else. Raises NoDatabase."""
    wanted = found.user.pw_uid if found.user is not None else os.geteuid()
    try:
        found.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        seen = found.folder.lstat()
        if found.user is not None and seen.st_uid == 0 and stat.S_ISDIR(seen.st_mode):
            os.chown(found.folder, found.user.pw_uid, found.user.pw_gid, follow_symlinks=False)
            seen = found.folder.lstat()
    except OSError as error:
        raise NoDatabase(f"making {found.folder}: {error.strerror}") from error
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != wanted:
        raise NoDatabase(f"{found.folder} belongs to somebody else")


def _run(found: Postgres, program: str, *arguments: str, text: str = "") -> None:
    user = found.user
    finished = subprocess.run(
        [str(found.programs / program), *arguments],
        input=text, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=found.folder,
        user=user.pw_uid if user else None, group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
    )  # fmt: skip
    if finished.returncode != 0:
        last = (finished.stderr or finished.stdout).strip().splitlines()[-1:]
        raise NoDatabase(f"{program} ended with {finished.returncode}: {' '.join(last)}")


def main() -> None:
    """Becomes PostgreSQL."""
    found = find()
    os.chdir(found.folder)
    if found.user is not None:
        os.setgroups([])
        os.setgid(found.user.pw_gid)
        os.setuid(found.user.pw_uid)
    command = found.server()
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main())
