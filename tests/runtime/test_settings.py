"""Settings from file, environment and flags: who wins, and that all problems are told at once."""

import enum
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from control_plane.core.errors import InvalidInput
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import TrustDomain
from control_plane.runtime.settings import SettingsError, load


class Level(enum.StrEnum):
    INFO = "info"
    DEBUG = "debug"


@dataclass(frozen=True)
class Tls:
    allow_tls12: bool = False
    renew_seconds: float = field(default=60.0, metadata={"minimum": 1, "maximum": 86_400})


@dataclass(frozen=True)
class Issuer:
    name: str
    keys: Path = Path("keys.json")


@dataclass(frozen=True)
class Example:
    trust_domain: TrustDomain
    data_dir: Path = Path("data")
    port: int = field(default=8081, metadata={"minimum": 0, "maximum": 65_535})
    level: Level = Level.INFO
    admins: tuple[str, ...] = ()
    passphrase: Secret[str] | None = None
    tls: Tls = Tls()
    issuers: tuple[Issuer, ...] = ()

    def __post_init__(self) -> None:
        if self.port == 666:
            raise InvalidInput("port 666 is not for us")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "server.toml"


def problems(**arguments: object) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as error:
        load(Example, **arguments)  # type: ignore[arg-type]
    return error.value.problems


def test_later_sources_win(file: Path) -> None:
    file.write_text(
        'trust_domain = "a.org"\nport = 1\nlevel = "debug"\nadmins = ["x", "y"]\n'
        '[tls]\nrenew_seconds = "1h30m"\n'
    )
    environment = {
        "GATEHOUSE_PORT": "2",
        "GATEHOUSE_TLS_ALLOW_TLS12": "yes",
        "PATH": "/bin",
        "GATEHOUSE_AGENT_X": "1",
    }
    flags = {"trust-domain": "c.org", "port": None, "data_dir": Path("/d")}
    found = load(Example, file=file, environment=environment, ignore=["GATEHOUSE_AGENT_"], flags=flags)
    expected = Example(
        TrustDomain.parse("c.org"), Path("/d"), 2, Level.DEBUG, ("x", "y"), None, Tls(True, 5400.0)
    )
    assert found == expected


def test_secrets_stay_secret(file: Path) -> None:
    found = load(Example, environment={"GATEHOUSE_PASSPHRASE": "hunter2", "GATEHOUSE_TRUST_DOMAIN": "a.org"})
    assert found.passphrase is not None and found.passphrase.reveal() == "hunter2"
    assert "hunter2" not in repr(found)


def test_a_key_that_is_only_a_little_alike_gets_the_nearest_name_too(file: Path) -> None:
    file.write_text('trust_domain = "a.org"\ntru = "a.org"\n')
    assert problems(file=file) == (f"{file}: unknown key 'tru', did you mean trust_domain?",)


def test_every_problem_is_told_at_once_with_its_source(file: Path) -> None:
    file.write_text('trust_domian = "a.org"\nport = 70000\nlevel = "loud"\n[tls]\nallow_tls21 = true\n')
    told = problems(
        file=file, environment={"GATEHOUSE_DATADIR": "x"}, flags={"tls.renew-seconds": "soon", "prot": 1}
    )
    assert told == (
        f"{file}: unknown key 'trust_domian', did you mean trust_domain?",
        f"{file}: unknown key 'tls.allow_tls21', did you mean tls.allow_tls12?",
        "unknown environment variable 'GATEHOUSE_DATADIR', did you mean GATEHOUSE_DATA_DIR?",
        "unknown flag 'prot', did you mean port?",
        "trust_domain is required and wasn't given",
        f"{file}: port: is 70000, must be at least 0 and at most 65535",
        f"{file}: level: is 'loud', expected one of info, debug",
        "--tls.renew-seconds: tls.renew_seconds: is 'soon', "
        "expected a number of seconds or a text such as 90s or 1h30m",
    )


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("port = 1.5", "expected a number"),
        ("port = true", "expected a number"),
        ("port = 666", "not for us"),
        ("admins = 3", "expected a list"),
        ("tls = 1", "expected a table"),
        ("data_dir = 3", "expected a text"),
        ("[tls]\nallow_tls12 = 1", "expected true or false"),
        ("[tls]\nrenew_seconds = '0s'", "at least 1"),
        ("[tls]\nrenew_seconds = '5m\\n'", "expected a number of seconds"),
        ("port = ", "is no TOML"),
        ("port = 1\nport = 2", "is no TOML"),
    ],
)
def test_wrong_values(file: Path, text: str, word: str) -> None:
    file.write_text('trust_domain = "a.org"\n' + text.replace("'", '"'))
    told = (
        problems(file=file)
        if "is no TOML" not in word
        else problems(file=file, flags={"trust_domain": "a.org"})
    )
    assert len(told) == 1 and word in told[0]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    told = problems(file=tmp_path / "absent.toml", flags={"trust_domain": "a.org"})
    assert "can't be read (No such file" in told[0]
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    assert "is no TOML" in problems(file=tmp_path / "binary.toml", flags={"trust_domain": "a.org"})[0]


def test_arrays_of_tables(file: Path) -> None:
    file.write_text(
        'trust_domain = "example.org"\n[[issuers]]\nname = "a"\n[[issuers]]\nname = "b"\nkeys = "b.json"\n'
    )
    assert load(Example, file=file).issuers == (Issuer("a"), Issuer("b", Path("b.json")))


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ('issuers = "a"', "expected an array of tables"),
        ("[issuers]\nname = 'a'", "expected an array of tables"),
        ("[[issuers]]", "number"),
        ("[[issuers]]\nname = 'a'\nkey = 'x'", "did you mean keys?"),
        ("[[issuers]]\nname = 1", "expected a text"),
    ],
)
def test_arrays_of_tables_that_are_wrong(file: Path, written: str, words: str) -> None:
    file.write_text('trust_domain = "example.org"\n' + written)
    [problem] = problems(file=file)
    assert words in problem or "required" in problem
