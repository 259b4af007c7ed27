"""The gRPC format around messages: round trips, and refusals of what isn't one."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.errors import InvalidInput, ResourceExhausted, Unimplemented
from control_plane.runtime.transport import messages


@given(st.binary(max_size=2000))
def test_a_frame_announces_its_payload(payload: bytes) -> None:
    framed = messages.frame(payload)
    prefix, rest = framed[: messages.PREFIX_BYTES], framed[messages.PREFIX_BYTES :]
    assert messages.payload_length(prefix, 2000) == len(rest) == len(payload)
    assert rest == payload


def test_compressed_and_oversized_messages_are_refused() -> None:
    with pytest.raises(Unimplemented):
        messages.payload_length(b"\x01\0\0\0\x05", 100)
    with pytest.raises(ResourceExhausted, match="4294967295"):
        messages.payload_length(b"\0\xff\xff\xff\xff", 100)


@given(st.floats(min_value=1e-9, max_value=99_999_999, allow_nan=False))
def test_a_timeout_is_never_lengthened_and_hardly_shortened(seconds: float) -> None:
    text = messages.format_timeout(seconds)
    read = messages.parse_timeout(text)
    assert read <= seconds * (1 + 1e-12) or read == pytest.approx(1e-9)
    assert math.isclose(read, seconds, rel_tol=1e-3, abs_tol=1e-9) or seconds - read < 1


@pytest.mark.parametrize(
    "text",
    ["", "5", "S", "-1S", "+1S", " 1S", "1S ", "1S\n", "1.5S", "123456789S", "1s", "1SS", "١S", "0x1S"],
)
def test_what_is_no_timeout_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="grpc-timeout"):
        messages.parse_timeout(text)


@given(st.text(max_size=300).filter(lambda text: not any(0xD800 <= ord(c) <= 0xDFFF for c in text)))
def test_messages_survive_percent_encoding(text: str) -> None:
    encoded = messages.encode_message(text)
    assert all(" " <= character <= "~" for character in encoded)
    assert messages.decode_message(encoded) == text


@given(st.text())
def test_decoding_a_message_never_raises(text: str) -> None:
    assert isinstance(messages.decode_message(text), str)


def test_the_percent_sign_is_encoded_and_a_broken_one_is_left() -> None:
    assert messages.encode_message("100%\n") == "100%25%0A"
    assert messages.decode_message("50%!") == "50%!"


@given(st.binary(max_size=200))
def test_binary_metadata_with_and_without_padding(value: bytes) -> None:
    text = messages.encode_binary(value)
    assert "=" not in text
    assert messages.decode_binary(text) == value
    assert messages.decode_binary(text + "=" * (-len(text) % 4)) == value


def test_broken_binary_metadata_is_refused() -> None:
    with pytest.raises(InvalidInput):
        messages.decode_binary("a")
    with pytest.raises(InvalidInput):
        messages.decode_binary("%%%%")


def test_metadata_keeps_repetitions_and_leaves_out_what_is_not_the_callers() -> None:
    headers = [
        (":path", "/a"),
        ("te", "trailers"),
        ("grpc-timeout", "1S"),
        ("x", "1"),
        ("x", "2"),
        ("y-bin", "AA"),
    ]
    assert messages.read_metadata(headers) == {"x": ["1", "2"], "y-bin": ["AA"]}


@pytest.mark.parametrize("key", ["", "X", "a b", "grpc-x", "te", "content-type", ":path", "a\n"])
def test_reserved_and_malformed_keys_are_refused(key: str) -> None:
    with pytest.raises(InvalidInput):
        messages.write_metadata({key: "v"})
