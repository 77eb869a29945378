import socket
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.host.listen_counters import ListenCounters, read

TEXT = """TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPHPHits
TcpExt: 1 22 333 4
IpExt: InNoRoutes ListenOverflows ListenDrops
IpExt: 5 6 7
"""
WORDS = st.sampled_from(
    ["TcpExt:", "ListenOverflows", "ListenDrops", "\n", "7", "-1", "٣", "²", "9" * 5000, "IpExt:", ""]
)


def machine(directory: Path, text: str) -> Path:
    """Create a directory as /proc with only these contents."""
    (directory / "net").mkdir(exist_ok=True)
    (directory / "net/netstat").write_text(text)
    return directory


def test_the_two_are_found_by_their_names(tmp_path: Path) -> None:
    assert read(proc=machine(tmp_path, TEXT)) == ListenCounters(22, 333)


def test_what_was_counted_between_two_looks_is_their_difference() -> None:
    assert ListenCounters(22, 333) - ListenCounters(20, 300) == ListenCounters(2, 33)


@pytest.mark.parametrize(
    "text",
    ["", TEXT.replace("ListenDrops", "Other"), TEXT.replace("333 4", ""), TEXT.replace("22", "-22"), TEXT * 2],
    ids=["empty", "without a name", "cut", "negative", "twice"],
)
def test_without_kernel_counters_the_result_is_none(tmp_path: Path, text: str) -> None:
    assert read(proc=machine(tmp_path, text)) is None


def test_no_file_gives_none(tmp_path: Path) -> None:
    assert read(proc=tmp_path) is None


@given(words=st.lists(WORDS, max_size=12), noise=st.text(max_size=40))
def test_whatever_stands_there_is_read_or_not_but_never_raises(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], noise: str
) -> None:
    text = " ".join(words) + noise
    found = read(proc=machine(tmp_path_factory.getbasetemp(), text))
    assert found is None or min(found.overflows, found.drops) >= 0


def test_the_kernel_counts_a_client_that_comes_to_a_full_queue() -> None:
    before = read()
    assert before is not None
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        clients = [socket.socket() for _ in range(3)]
        deadline = time.monotonic() + 10
        try:
            for client in clients:
                client.setblocking(False)
                client.connect_ex(full.getsockname())
            while (now := read()) is not None and not (now - before).overflows and time.monotonic() < deadline:
                pass
        finally:
            for client in clients:
                client.close()
    assert now is not None
    assert (now - before).overflows >= 1
    assert (now - before).drops >= (now - before).overflows
