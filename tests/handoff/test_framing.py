import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import ProtocolError
from agent.handoff.framing import DATAGRAM_LIMIT, MESSAGE_LIMIT, Assembler, cut
from agent.handoff.hot_restart_pb2 import HotRestartMessage, Reply, Request
from tests.handoff import handmade
from tests.handoff.handmade import block, framed, number, reply, request

counts = st.dictionaries(st.text(max_size=40), st.integers(0, 2**64 - 1), max_size=300)
requests = st.one_of(
    st.builds(
        Request.PassListenSocket,
        address=st.text(max_size=9000),
        worker_index=st.integers(0, 2**32 - 1),
        network_namespace=st.text(max_size=50),
    ).map(lambda each: Request(pass_listen_socket=each)),
    st.builds(
        Request.ForwardedUdpPacket, payload=st.binary(max_size=70_000), worker_index=st.integers(0, 2**32 - 1)
    ).map(lambda each: Request(forwarded_udp_packet=each)),
    st.just(Request(shutdown_admin=Request.ShutdownAdmin())),
)
replies = st.builds(Reply.Stats, memory_allocated=st.integers(0, 2**64 - 1), counter_deltas=counts, gauges=counts).map(
    lambda each: Reply(stats=each)
)
messages = st.one_of(
    requests.map(lambda each: HotRestartMessage(request=each)),
    replies.map(lambda each: HotRestartMessage(reply=each)),
    st.builds(HotRestartMessage, didnt_recognize_your_last_message=st.booleans()),
)


def assembled(datagrams: list[bytes], assembler: Assembler) -> HotRestartMessage | None:
    *begin, last = datagrams
    assert [assembler.feed(each) for each in begin] == [None] * len(begin)
    return assembler.feed(last)


@given(messages, messages)
def test_whatever_is_cut_is_assembled_again_message_after_message(
    first: HotRestartMessage, second: HotRestartMessage
) -> None:
    assembler = Assembler()
    assert assembled(cut(first), assembler) == first
    assert assembled(cut(second), assembler) == second


@given(messages)
def test_no_datagram_is_longer_than_4096_bytes_and_none_but_the_last_shorter(message: HotRestartMessage) -> None:
    sizes = [len(datagram) for datagram in cut(message)]
    assert all(size == DATAGRAM_LIMIT for size in sizes[:-1])
    assert 0 < sizes[-1] <= DATAGRAM_LIMIT


@given(st.lists(st.binary(max_size=64)))
def test_garbage_is_a_protocol_error_and_nothing_else(datagrams: list[bytes]) -> None:
    assembler = Assembler()
    for datagram in datagrams:
        try:
            assembler.feed(datagram)
        except ProtocolError:
            return


@given(st.binary(max_size=300))
def test_a_garbled_body_is_a_protocol_error_and_nothing_else(body: bytes) -> None:
    try:
        Assembler().feed(framed(body))
    except ProtocolError:
        return


def test_a_length_and_nothing_else_is_the_empty_message() -> None:
    assert Assembler().feed(bytes(8)) == HotRestartMessage()


@pytest.mark.parametrize(
    "datagrams",
    [
        [b""],
        [b"abc"],
        [bytes(7)],
        [b"\xff" * 8],
        [(MESSAGE_LIMIT + 1).to_bytes(8)],
        [(2).to_bytes(8) + b"abc"],
        [(5).to_bytes(8) + b"ab", b"cdef"],
        [framed(b"\x0a\xff")],
    ],
    ids=["empty", "3 bytes", "7 bytes", "2^64", "over the limit", "too much at once", "too much later", "no message"],
)
def test_what_no_honest_peer_sends_is_refused(datagrams: list[bytes]) -> None:
    assembler = Assembler()
    *begin, last = datagrams
    assert [assembler.feed(datagram) for datagram in begin] == [None] * len(begin)
    with pytest.raises(ProtocolError, match="cannot read a message"):
        assembler.feed(last)


def test_a_megabyte_may_be_announced_and_no_byte_more() -> None:
    assert Assembler().feed((1 << 20).to_bytes(8)) is None
    with pytest.raises(ProtocolError, match="it announces 1048577 bytes, the limit is 1048576"):
        Assembler().feed(((1 << 20) + 1).to_bytes(8))


def test_more_than_was_announced_is_refused_though_it_is_a_message() -> None:
    twice = len(handmade.STATS).to_bytes(8) + 2 * handmade.STATS
    with pytest.raises(ProtocolError, match=f"{2 * len(handmade.STATS)} bytes arrived, but {len(handmade.STATS)} were"):
        Assembler().feed(twice)


def test_eighty_kilobytes_are_twenty_datagrams() -> None:
    """80,135 bytes, as measured, including the length."""
    message = HotRestartMessage(request=Request(forwarded_udp_packet=Request.ForwardedUdpPacket(payload=b"")))
    while message.ByteSize() < 80_135 - 8:
        missing = 80_135 - 8 - message.ByteSize()
        message.request.forwarded_udp_packet.payload += bytes(max(1, missing - 12))
    assert len(b"".join(cut(message))) == 80_135
    assert len(cut(message)) == 20


@pytest.mark.parametrize(
    ("message", "body"),
    [
        (
            HotRestartMessage(
                request=Request(
                    pass_listen_socket=Request.PassListenSocket(
                        address="tcp://127.0.0.1:80", worker_index=3, network_namespace="/run/netns/a"
                    )
                )
            ),
            handmade.pass_listen_socket("tcp://127.0.0.1:80", 3, "/run/netns/a"),
        ),
        (HotRestartMessage(request=Request(shutdown_admin=Request.ShutdownAdmin())), handmade.SHUTDOWN_ADMIN),
        (HotRestartMessage(request=Request(stats=Request.Stats())), handmade.STATS),
        (HotRestartMessage(request=Request(drain_listeners=Request.DrainListeners())), handmade.DRAIN_LISTENERS),
        (HotRestartMessage(request=Request(terminate=Request.Terminate())), handmade.TERMINATE),
        (HotRestartMessage(request=Request(test_connection=Request.TestConnection())), handmade.TEST_CONNECTION),
        (
            HotRestartMessage(
                request=Request(
                    forwarded_udp_packet=Request.ForwardedUdpPacket(
                        local_addr="a",
                        peer_addr="b",
                        receive_time_epoch_microseconds=300,
                        payload=b"\0\xff",
                        worker_index=1,
                        listener_addr="c",
                        network_namespace="d",
                    )
                )
            ),
            request(
                6,
                block(1, "a")
                + block(2, "b")
                + number(3, 300)
                + block(4, b"\0\xff")
                + number(5, 1)
                + block(6, "c")
                + block(7, "d"),
            ),
        ),
        (
            HotRestartMessage(reply=Reply(pass_listen_socket=Reply.PassListenSocket(fd=-1))),
            handmade.NO_SOCKET_REPLY,
        ),
        (HotRestartMessage(reply=Reply(pass_listen_socket=Reply.PassListenSocket(fd=5))), handmade.SOCKET_REPLY),
        (
            HotRestartMessage(
                reply=Reply(
                    shutdown_admin=Reply.ShutdownAdmin(
                        original_start_time_unix_seconds=1_700_000_000, enable_reuse_port_default=True
                    )
                )
            ),
            reply(2, number(1, 1_700_000_000) + number(2, 1)),
        ),
        (
            HotRestartMessage(
                reply=Reply(
                    stats=Reply.Stats(memory_allocated=7, num_connections=8, counter_deltas={"x": 1}, gauges={"y": 2})
                )
            ),
            reply(
                3,
                number(1, 7)
                + number(2, 8)
                + block(3, block(1, "x") + number(2, 1))
                + block(4, block(1, "y") + number(2, 2)),
            ),
        ),
        (HotRestartMessage(didnt_recognize_your_last_message=True), handmade.NOT_UNDERSTOOD),
    ],
    ids=lambda each: each.hex()[:16] if isinstance(each, bytes) else "",
)
def test_the_bytes_on_the_wire_are_those_of_envoys_descriptor(message: HotRestartMessage, body: bytes) -> None:
    assert cut(message) == [framed(body)]
    assert Assembler().feed(framed(body)) == message


def test_fields_of_a_newer_envoy_do_no_harm() -> None:
    """The proto grew from 1.36 to 1.40 without a new version: stats got `dynamics` and tags (fields 5 to 7)."""
    body = reply(3, number(1, 7) + block(5, b"\0") + block(6, block(1, "k")) + block(7) + block(99, "later"))
    message = Assembler().feed(framed(body))
    assert message is not None
    assert message.reply.stats.memory_allocated == 7
