import fcntl
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.host.memfds import Memfds, digest_of


def test_a_content_can_be_read_by_path_as_often_as_one_likes() -> None:
    store = Memfds()
    descriptor = store.hold("/certs/tls.key", b"secret")
    for _ in range(2):
        with open(f"/dev/fd/{descriptor}", "rb") as file:  # noqa: PTH123  # as the proxy does
            assert file.read() == b"secret"
    store.release(b"secret")


def test_it_cannot_be_changed() -> None:
    store = Memfds()
    descriptor = store.hold("x", b"secret")
    for attempt in (
        lambda: os.pwrite(descriptor, b"X", 0),
        lambda: os.ftruncate(descriptor, 0),
        lambda: os.ftruncate(descriptor, 100),
        lambda: fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
    ):
        with pytest.raises(PermissionError):
            attempt()
    store.release(b"secret")


def test_no_child_inherits_it_by_accident() -> None:
    store = Memfds()
    assert not os.get_inheritable(store.hold("x", b"a"))
    store.release(b"a")


def test_one_content_has_one_descriptor_until_the_last_release() -> None:
    store = Memfds()
    first, second = store.hold("/one", b"a"), store.hold("/two", b"a")
    assert first == second
    assert store.hold("/three", b"b") != first
    store.release(b"b")
    store.release(b"a")
    assert os.pread(first, 10, 0) == b"a"
    store.release(b"a")
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(first)


def test_a_content_that_comes_again_is_kept_again() -> None:
    store = Memfds()
    for _ in range(3):
        assert os.pread(store.hold("x", b"a"), 10, 0) == b"a"
        store.release(b"a")


@given(st.binary(max_size=5000))
def test_any_content_is_kept_as_it_is(data: bytes) -> None:
    store = Memfds()
    assert os.pread(store.hold("x", data), 10_000, 0) == data
    store.release(data)
    assert len(digest_of(data)) == 64


@pytest.mark.parametrize("name", ["", "/" + "x" * 4000, "/certs/" + "ж" * 120, "/certs/a\nb"], ids=len)
def test_whatever_the_file_is_called(name: str) -> None:
    store = Memfds()
    store.hold(name, b"a")
    store.release(b"a")


def test_a_large_content_is_written_whole() -> None:
    store = Memfds()
    data = os.urandom(3 << 20)
    assert os.fstat(store.hold("x", data)).st_size == len(data)
    store.release(data)
