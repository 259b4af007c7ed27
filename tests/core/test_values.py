"""Errors, secrets, selectors, DNS names and registration entries."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core import errors
from control_plane.core.dns_name import check_dns_name
from control_plane.core.entry import Entry, default_order
from control_plane.core.errors import (
    Code,
    DenialReason,
    GatehouseError,
    InvalidInput,
    PermissionDenied,
    shown,
)
from control_plane.core.secret import Secret
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import TrustDomain

DOMAIN = TrustDomain("example.org")


def entry(**changes: object) -> Entry:
    fields: dict[str, object] = {
        "spiffe_id": "spiffe://example.org/ns/shop/sa/cart",
        "parent_id": "spiffe://example.org/spire/agent/join_token/abc",
        "selectors": ["unix:uid:1000"],
    }
    return Entry.parse(**{**fields, **changes})  # type: ignore[arg-type]


def leaves(root: type[GatehouseError]) -> list[type[GatehouseError]]:
    """Leaves of the kernel's own tree, whatever other packages have hung below it."""
    children = [each for each in root.__subclasses__() if each.__module__ == root.__module__]
    return [leaf for child in children for leaf in (leaves(child) or [child])]


def test_every_error_names_its_kind_and_code() -> None:
    kinds = {leaf.kind: leaf.code for leaf in leaves(GatehouseError)}
    assert kinds["invalid-input"] is Code.INVALID_ARGUMENT
    assert kinds["deadline-exceeded"] is Code.DEADLINE_EXCEEDED
    assert kinds["corrupt"] is Code.DATA_LOSS
    assert Code.OK not in kinds.values() and Code.UNKNOWN not in kinds.values()


def test_the_hint_follows_the_message() -> None:
    assert str(InvalidInput("it broke", hint="mend it")) == "it broke — mend it"
    assert str(InvalidInput("it broke")) == "it broke"


def test_a_denial_carries_its_reason() -> None:
    assert PermissionDenied("no").reason is DenialReason.UNKNOWN
    assert PermissionDenied("no", reason=DenialReason.AGENT_BANNED).reason == 4


@given(st.one_of(st.text(), st.binary(), st.integers(), st.none(), st.lists(st.text())))
def test_shown_text_is_short_and_printable(value: object) -> None:
    text = shown(value, 40)
    assert len(text) < 500
    assert text.isprintable()


def test_what_python_cannot_write_is_shown_by_its_kind() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert shown(1 << 20_000).startswith("(int, ")
    assert shown([1 << 20_000]).startswith("(list, ")
    assert shown(nested).startswith("(list, ")


def test_secrets_do_not_show() -> None:
    secret = Secret("hunter2")
    for text in (
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r:>20}",
        repr([secret]),
        repr({"a": secret}),
    ):
        assert "hunter2" not in text
    assert secret.reveal() == "hunter2"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        hash(secret)


def test_secrets_compare_by_value_and_type() -> None:
    assert Secret("a") == Secret("a") and Secret("a") != Secret("b")
    assert Secret(b"a") == Secret(b"a") and Secret(b"a") != Secret("a")
    assert Secret("é") != Secret("e") and Secret("a") != "a"
    assert Secret(7) == Secret(7)


def test_selectors_split_at_the_first_colon() -> None:
    assert Selector.parse("unix:uid:1000") == Selector("unix", "uid:1000")
    assert str(Selector.parse("k8s:pod-label:a:b")) == "k8s:pod-label:a:b"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix",
        "unix:",
        ":uid",
        ":",
        "unix:a\nb",
        "unix:\x00",
        "unix:\ud800",
        "u\tnix:a",
        "unix:" + "a" * 8193,
    ],
)
def test_bad_selectors_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Selector.parse(text)


def test_selectors_have_an_order() -> None:
    assert sorted([Selector("b", "1"), Selector("a", "2"), Selector("a", "1")])[0] == Selector("a", "1")


@pytest.mark.parametrize(
    "name", ["a", "a.b", "db-1.example.org", "_sip.example.org", "*.example.org", "1.2.3.4", "A.b"]
)
def test_dns_names_that_fit(name: str) -> None:
    assert check_dns_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "-a",
        "a-",
        "*",
        "*.a",
        "a.*.b.c",
        "*a.b.c",
        "a b",
        "a\n",
        "ä.org",
        "a" * 64,
        "a/b",
        "a:b",
        "a@b",
        ".".join(["a" * 60] * 5),
    ],
)
def test_dns_names_that_do_not(name: str) -> None:
    with pytest.raises(InvalidInput):
        check_dns_name(name)


def test_an_entry_reads_from_text() -> None:
    parsed = entry(
        federates_with=["spiffe://other.org", "other.org"],
        dns_names=["a.b"],
        hint="x",
        priority=3,
        admin=True,
    )
    assert parsed.federates_with == (TrustDomain("other.org"),)
    assert parsed.selectors == {Selector("unix", "uid:1000")}
    assert (parsed.priority, parsed.admin, parsed.hint) == (3, True, "x")
    assert parsed.check(DOMAIN) is parsed


@pytest.mark.parametrize(
    ("changes", "needle"),
    [
        ({"selectors": []}, "no selector"),
        ({"id": "a b"}, "ID"),
        ({"id": "a" * 256}, "ID"),
        ({"id": "a\n"}, "ID"),
        ({"id": "éntry"}, "ID"),
        ({"hint": "x" * 1025}, "hint"),
        ({"hint": "ä" * 513}, "hint of 1026 bytes"),
        ({"dns_names": ["a b"]}, "DNS"),
        ({"x509_svid_ttl_seconds": -1}, "x509_svid_ttl_seconds"),
        ({"jwt_svid_ttl_seconds": 2**31}, "jwt_svid_ttl_seconds"),
        ({"expires_at": -1}, "expires_at"),
        ({"store_svid": True, "selectors": ["a:1", "b:2"]}, "same type"),
        ({"store_svid": True, "disable_x509_svid_prefetch": True}, "exclude each other"),
        ({"selectors": [f"unix:uid:{i}" for i in range(257)]}, "selectors"),
        ({"priority": True}, "priority"),
        ({"hint": 3}, "hint"),
        ({"prioritty": 3}, "prioritty"),
        ({"spiffe_id": "spiffe://Example.org/a"}, "lower case"),
    ],
)
def test_bad_entries_are_refused(changes: dict[str, object], needle: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        entry(**changes)
    assert needle in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "needle"),
    [
        ({"spiffe_id": "spiffe://other.org/a"}, "not a member"),
        ({"parent_id": "spiffe://other.org/a"}, "not a member"),
        ({"spiffe_id": "spiffe://example.org"}, "no path"),
        ({"parent_id": "spiffe://example.org"}, "no path"),
        ({"spiffe_id": "spiffe://example.org/spire/agent/x"}, "reserved"),
        ({"spiffe_id": "spiffe://example.org/spire"}, "reserved"),
    ],
)
def test_entries_belong_to_the_trust_domain(changes: dict[str, object], needle: str) -> None:
    with pytest.raises(InvalidInput, match=needle):
        entry(**changes).check(DOMAIN)


def test_the_identity_of_an_entry_is_id_parent_and_selector_set() -> None:
    one = entry(selectors=["a:1", "b:2"], hint="x", id="one")
    two = entry(selectors=["b:2", "a:1", "b:2"], priority=9, id="two")
    assert one.key == two.key
    assert one.key != entry(selectors=["a:1"]).key


def test_the_default_entry_is_the_most_important_then_the_oldest() -> None:
    old, young = entry(id="z", created_at=1), entry(id="a", created_at=2)
    important = entry(id="m", created_at=9, priority=1)
    assert [e.id for e in default_order([young, important, old])] == ["m", "z", "a"]


def test_the_tree_of_errors_is_drawn_completely() -> None:
    for leaf in leaves(GatehouseError):
        if leaf.__module__ == errors.__name__:
            assert leaf.__name__ in (errors.__doc__ or "")
