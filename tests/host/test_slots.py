"""Slots: a new content goes where the process does not read, and the one in use stays whole."""

import errno
import os
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import MachineError
from agent.host.slots import Slots

CHAIN, KEY = "/c/tls.crt", "/c/tls.key"
FIRST = {CHAIN: 1001, KEY: 1002}
"""The immutable descriptors of a process that is imagined: they are never opened here."""


@contextmanager
def slots(first: Mapping[str, int] | None = None) -> Iterator[Slots]:
    made = Slots.make(FIRST if first is None else first)
    try:
        yield made
    finally:
        made.close()


def content(descriptor: int) -> bytes:
    """Read what a process reads that opens the descriptor by its path."""
    with open(f"/dev/fd/{descriptor}", "rb") as file:  # noqa: PTH123  # as the proxy does
        return file.read()


def contents(made: Slots, path: str) -> list[bytes]:
    return [content(descriptor) for descriptor in made.of(path)]


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_at_first_the_immutable_files_are_used_and_offered() -> None:
    with slots() as made:
        assert made.offered == FIRST
        assert made.used == {CHAIN: 0, KEY: 0}
        assert contents(made, CHAIN) == [b"", b""]


def test_each_file_has_two_slots_that_a_process_inherits_only_on_purpose() -> None:
    with slots() as made:
        own = [*made.of(CHAIN), *made.of(KEY)]
        assert made.descriptors == frozenset(own)
        assert len(made.descriptors) == 4
        assert not any(os.get_inheritable(each) for each in own)
        assert os.readlink(f"/proc/self/fd/{own[0]}") == f"/memfd:{CHAIN} (deleted)"  # noqa: PTH115  # a text


def test_each_descriptor_of_the_process_is_known_by_its_path() -> None:
    with slots() as made:
        chain, key = made.of(CHAIN), made.of(KEY)
        assert made.paths == dict.fromkeys((1001, *chain), CHAIN) | dict.fromkeys((1002, *key), KEY)


def test_a_new_content_is_offered_and_used_once_it_is_committed() -> None:
    with slots() as made:
        made.write({CHAIN: b"one"})
        assert made.offered == {CHAIN: made.of(CHAIN)[0], KEY: 1002}
        assert content(made.offered[CHAIN]) == b"one"
        assert made.used == {CHAIN: 0, KEY: 0}
        made.commit()
        assert made.used == {CHAIN: 1, KEY: 0}
        assert made.offered == {CHAIN: made.of(CHAIN)[0], KEY: 1002}


def test_the_slot_in_use_is_never_written() -> None:
    with slots() as made:
        made.write({CHAIN: b"1"})
        made.commit()
        for data, used in ((b"2", 2), (b"3", 1), (b"4", 2)):
            in_use = made.offered[CHAIN]
            before = content(in_use)
            made.write({CHAIN: data})
            assert made.offered[CHAIN] != in_use
            assert content(in_use) == before
            made.commit()
            assert made.used[CHAIN] == used
        assert contents(made, CHAIN) == [b"3", b"4"]


def test_what_is_not_written_stays_as_it_is() -> None:
    with slots() as made:
        made.write({CHAIN: b"1", KEY: b"k"})
        made.commit()
        made.write({CHAIN: b"2"})
        made.commit()
        assert made.used == {CHAIN: 2, KEY: 1}


def test_restore_offers_what_is_used() -> None:
    with slots() as made:
        made.write({CHAIN: b"1"})
        made.restore()
        assert made.offered == FIRST
        made.write({CHAIN: b"2"})
        made.commit()
        made.write({CHAIN: b"3", KEY: b"k"})
        made.restore()
        made.commit()
        assert made.used == {CHAIN: 1, KEY: 0}
        assert content(made.offered[CHAIN]) == b"2"


def test_a_write_begins_from_what_is_used() -> None:
    """What an earlier write offered, and nobody committed, is no longer offered."""
    with slots() as made:
        made.write({CHAIN: b"1"})
        made.write({KEY: b"k"})
        assert made.offered == {CHAIN: 1001, KEY: made.of(KEY)[0]}


def test_a_shorter_content_leaves_nothing_of_a_longer_one() -> None:
    with slots() as made:
        made.write({KEY: b"a long secret"})
        made.write({KEY: b"short"})
        assert contents(made, KEY) == [b"short", b""]


@given(st.binary(max_size=10_000))
def test_any_content_is_written_whole(data: bytes) -> None:
    with slots() as made:
        made.write({KEY: data})
        assert content(made.offered[KEY]) == data


def test_a_content_that_is_written_in_parts_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: write(descriptor, data[:3], offset))
    with slots() as made:
        made.write({KEY: b"0123456789"})
        assert content(made.offered[KEY]) == b"0123456789"


def test_without_files_there_are_no_slots() -> None:
    with slots({}) as made:
        made.write({})
        assert (made.descriptors, made.offered, made.used, made.paths) == (frozenset(), {}, {}, {})


@pytest.mark.parametrize("name", ["/" + "x" * 4000, "/certs/" + "\u0436" * 130], ids=["long", "not ASCII"])
def test_whatever_the_file_is_called(name: str) -> None:
    with slots({name: 1001}) as made:
        made.write({name: b"a"})
        assert content(made.offered[name]) == b"a"
        shown = os.readlink(f"/proc/self/fd/{made.of(name)[0]}")  # noqa: PTH115  # a text
        assert (
            shown.removeprefix("/memfd:").removesuffix(" (deleted)").encode("utf-8", "surrogateescape")
            == (name.encode()[-249:])
        )


# Failures


@pytest.mark.parametrize("failing", [CHAIN, KEY])
def test_a_write_that_fails_offers_nothing_of_it(failing: str) -> None:
    """The limit on files counts for memory, too."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with slots() as made:
        made.write({CHAIN: b"1", KEY: b"1"})
        made.commit()
        before = made.offered
        new = {CHAIN: b"2", KEY: b"2"} | {failing: b"x" * 100}
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        try:
            with pytest.raises(MachineError, match=f"cannot store {failing} in memory: File too large"):
                made.write(new)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert made.offered == before
        assert [content(number) for number in made.offered.values()] == [b"1", b"1"]
        made.write(new)
        assert {path: content(number) for path, number in made.offered.items()} == new


@pytest.mark.parametrize("made_before", range(4))
def test_slots_that_cannot_all_be_made_leave_no_descriptor(made_before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixture of the folder compares the descriptors."""
    make, made = os.memfd_create, list[int]()

    def limited(name: str, flags: int) -> int:
        if len(made) == made_before:
            raise OSError(errno.EMFILE, "Too many open files")
        made.append(make(name, flags))
        return made[-1]

    monkeypatch.setattr(os, "memfd_create", limited)
    with pytest.raises(MachineError, match="cannot make memory for 2 files that may be pushed: Too many open files"):
        Slots.make(FIRST)
    assert len(made) == made_before
    assert not any(map(is_open, made))


def test_close_closes_every_slot_once() -> None:
    made = Slots.make(FIRST)
    own = made.descriptors
    made.close()
    assert not any(map(is_open, own))
    assert made.descriptors == frozenset()
    made.close()


# An earlier agent's


@pytest.mark.parametrize(("used", "written"), [(0, 1), (1, 2), (2, 1)])
def test_an_earlier_agents_slots_are_used_on(used: int, written: int) -> None:
    """The numbers in the process are not ours."""
    own = (os.memfd_create("one"), os.memfd_create("two"))
    made = Slots.regain({CHAIN: ((501, 502, 503), own, used)})
    try:
        assert (made.used, made.offered, made.of(CHAIN)) == ({CHAIN: used}, {CHAIN: 501 + used}, own)
        assert made.paths == {501: CHAIN, 502: CHAIN, 503: CHAIN}
        assert made.descriptors == frozenset(own)
        made.write({CHAIN: b"new"})
        assert made.offered == {CHAIN: 501 + written}
        assert content(own[written - 1]) == b"new"
        made.commit()
        assert made.used == {CHAIN: written}
    finally:
        made.close()
