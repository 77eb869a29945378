import errno
import fcntl
import os
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import MachineError
from agent.host.memfds import Memfds, digest_of, is_sealed


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


def test_what_is_held_is_known_with_its_inode_and_digest() -> None:
    store = Memfds()
    assert not store.holds(b"a")
    assert store.digest(b"a") == digest_of(b"a")
    descriptor = store.hold("x", b"a")
    assert store.holds(bytes(bytearray(b"a")))
    assert store.digest(b"a") == digest_of(b"a")
    assert store.inode(b"a") == os.fstat(descriptor).st_ino
    store.release(b"a")
    assert not store.holds(b"a")


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


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_close_closes_every_content_even_if_it_is_held_twice() -> None:
    store = Memfds()
    held = {store.hold("/one", b"a"), store.hold("/two", b"b"), store.hold("/three", b"a")}
    assert store.descriptors == held
    store.close()
    assert not any(is_open(each) for each in held)
    assert store.descriptors == frozenset()
    store.close()


def test_a_sealed_content_is_whole_until_close_and_not_kept() -> None:
    store = Memfds()
    one, other = store.seal("/certs/copy", b"a"), store.seal("/certs/copy", b"a")
    assert one != other
    assert {one, other} == store.descriptors
    assert not store.holds(b"a")
    assert is_sealed(one)
    assert os.pread(one, 10, 0) == b"a"
    store.close()
    assert not is_open(one)
    assert not is_open(other)
    assert not store.descriptors


def test_after_close_a_content_is_held_anew_from_the_beginning() -> None:
    store = Memfds()
    store.hold("/one", b"a")
    store.hold("/two", b"a")
    store.close()
    descriptor = store.hold("/three", b"a")
    store.release(b"a")
    assert not is_open(descriptor)
    assert not store.descriptors


def test_a_content_that_is_not_held_cannot_be_released() -> None:
    store = Memfds()
    descriptor = store.hold("/one", b"a")
    for data in (b"b", b""):
        with pytest.raises(KeyError):
            store.release(data)
    store.release(b"a")
    assert not is_open(descriptor)
    with pytest.raises(KeyError):
        store.release(b"a")


def refuse(*_: object) -> int:
    raise OSError(errno.ENFILE, "Too many open files in system")


def test_without_memory_the_file_is_named_and_nothing_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "memfd_create", refuse)
    store = Memfds()
    with pytest.raises(MachineError, match=r"/certs/tls\.key.*Too many open files"):
        store.hold("/certs/tls.key", b"secret")
    assert not store.descriptors


@pytest.mark.parametrize("step", ["write", "seal"])
def test_a_content_that_cannot_be_completed_leaves_no_descriptor(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixture of the folder compares the descriptors. The limit on files counts for memory, too."""
    store = Memfds()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patched:
        if step == "write":
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        else:
            patched.setattr(fcntl, "fcntl", refuse)
        try:
            with pytest.raises(MachineError, match=r"/certs/tls\.key"):
                store.hold("/certs/tls.key", b"x" * 100)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert not store.descriptors
    assert is_open(store.hold("/certs/tls.key", b"x" * 100))
    store.close()


def test_the_name_shows_in_proc_from_its_end() -> None:
    store = Memfds()
    short, long = store.hold("/certs/tls.key", b"a"), store.hold("/" + "x" * 300 + "/tls.key", b"b")
    assert os.readlink(f"/proc/self/fd/{short}") == "/memfd:/certs/tls.key (deleted)"  # noqa: PTH115  # a text
    shown = os.readlink(f"/proc/self/fd/{long}")  # noqa: PTH115
    assert shown == f"/memfd:{'x' * 241}/tls.key (deleted)"
    store.close()


def test_only_a_file_in_memory_with_all_seals_of_this_user_is_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Memfds()
    sealed = store.hold("x", b"a")
    assert is_sealed(sealed)
    half = os.memfd_create("half", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    fcntl.fcntl(half, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE)
    with (tmp_path / "file").open("w") as file:
        assert not is_sealed(file.fileno())
    assert not is_sealed(half)
    assert not is_sealed(-1)
    os.close(half)
    monkeypatch.setattr(os, "geteuid", lambda: 54_321)
    assert not is_sealed(sealed)
    store.close()


def test_the_digest_is_that_of_sha_256() -> None:
    assert digest_of(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
