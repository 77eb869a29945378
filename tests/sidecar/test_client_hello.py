"""ClientHellos: real ones, in pieces, damaged, and first bytes of other protocols."""

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sidecar.client_hello import RAW, Hello, hello_of


def client_hello(name: str | None = "a.example", protocols: tuple[str, ...] = ()) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


HELLO = client_hello(protocols=("h2",))


def test_the_name_and_the_protocols_are_found() -> None:
    hello = hello_of(client_hello("A.Example", ("h2", "http/1.1")))
    assert hello == Hello(is_tls=True, server_name="a.example", protocols=("h2", "http/1.1"))


def test_a_client_may_say_neither() -> None:
    assert hello_of(client_hello(None)) == Hello(is_tls=True)


def test_every_part_of_a_hello_wants_more() -> None:
    assert all(hello_of(HELLO[:size]) is None for size in range(len(HELLO)))


def test_what_follows_the_hello_does_not_matter() -> None:
    assert hello_of(HELLO + b"\x17\x03\x03") == hello_of(HELLO)


def test_a_hello_in_several_records_is_put_together() -> None:
    body = HELLO[5:]
    parts = [body[at : at + 50] for at in range(0, len(body), 50)]
    split = b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)
    assert hello_of(split) == hello_of(HELLO)
    assert all(hello_of(split[:size]) is None for size in range(len(split)))


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"\x15\x03\x01", b"\x16\x02", b"\x16\x03\x01\x00\x04\x02\0\0\0"]
)
def test_other_protocols_are_recognised_at_once(data: bytes) -> None:
    assert hello_of(data) == RAW


def test_a_message_that_claims_to_be_endless_is_none() -> None:
    assert hello_of(b"\x16\x03\x01\x00\x04\x01\xff\xff\xff") == RAW


@given(st.integers(5, len(HELLO) - 1), st.binary(min_size=1, max_size=8))
def test_a_damaged_hello_is_read_or_refused_or_awaited(at: int, noise: bytes) -> None:
    damaged = HELLO[:at] + noise + HELLO[at + len(noise) :]
    assert isinstance(hello_of(damaged), Hello | None)


@given(st.binary(max_size=200))
def test_noise_never_raises(noise: bytes) -> None:
    assert isinstance(hello_of(b"\x16\x03\x01" + noise), Hello | None)
