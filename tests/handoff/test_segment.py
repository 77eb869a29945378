import os
import stat
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import AgentError, BadInput, MachineError
from agent.handoff.segment import HotRestartVersion, Segment
from tests.host.conftest import NOBODY

VERSION = HotRestartVersion(11, 104)


def mutex() -> bytes:
    """40 bytes of a glibc mutex: process-shared and robust, unlocked."""
    return bytes(16) + struct.pack("<I", 0x90) + bytes(20)


def test_the_image_of_11_104_is_the_one_envoy_makes_byte_by_byte() -> None:
    flags = bytes(8)
    assert VERSION.image() == struct.pack("<QQ", 104, 11) + mutex() + mutex() + flags
    assert VERSION.image()[96:] == flags


def test_the_image_of_another_machine_follows_from_its_size() -> None:
    """11.120 on arm64: mutexes of 48 bytes, by calculation."""
    wider = mutex() + bytes(8)
    assert HotRestartVersion(11, 120).image() == struct.pack("<QQ", 120, 11) + wider + wider + bytes(8)


def test_what_the_proxy_prints_is_read() -> None:
    assert HotRestartVersion.parse(" 11.104\n") == VERSION
    assert str(VERSION) == "11.104"


@pytest.mark.parametrize("text", ["", "disabled", "11", "11.", ".104", "11.104.1", "eleven.104", "10.104", "12.104"])
def test_a_proxy_of_another_protocol_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="cannot hand sockets over"):
        HotRestartVersion.parse(text)


@pytest.mark.parametrize(
    ("size", "is_plausible"), [(62, False), (64, True), (103, False), (105, False), (4096, True), (4098, False)]
)
def test_a_segment_holds_two_mutexes_and_is_no_longer_than_a_page(size: int, is_plausible: bool) -> None:
    if is_plausible:
        assert HotRestartVersion.parse(f"11.{size}") == HotRestartVersion(11, size)
    else:
        with pytest.raises(BadInput, match=f"a shared memory of {size} bytes is implausible"):
            HotRestartVersion.parse(f"11.{size}")


def test_a_proxy_without_hot_restart_is_refused_as_such() -> None:
    with pytest.raises(BadInput, match="it was built without hot restart"):
        HotRestartVersion.parse("disabled\n")


@given(st.one_of(st.text(), st.integers(0, 100).map(lambda size: f"11.{size}"), st.just("11.99999999999999")))
def test_whatever_a_program_prints_is_a_version_with_an_image_or_refused(text: str) -> None:
    try:
        version = HotRestartVersion.parse(text)
    except AgentError:
        return
    assert len(version.image()) == version.size


def test_a_base_id_is_claimed_once(tmp_path: Path) -> None:
    segment = Segment(123, tmp_path)
    assert segment.path == tmp_path / "envoy_shared_memory_1230"
    assert segment.claim(VERSION)
    assert stat.S_IMODE(segment.path.stat().st_mode) == 0o600
    assert segment.path.read_bytes() == VERSION.image()
    assert not segment.claim(VERSION)
    segment.release()
    assert not segment.path.exists()
    segment.release()
    assert segment.claim(VERSION)


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("as it was")
    Segment(1, tmp_path).path.symlink_to(target)
    assert not Segment(1, tmp_path).claim(VERSION)
    assert target.read_text() == "as it was"


@pytest.mark.skipif(os.geteuid() != 0, reason="wants root")
def test_a_proxy_of_another_user_owns_its_segment(tmp_path: Path) -> None:
    segment = Segment(1, tmp_path)
    assert segment.claim(VERSION, (NOBODY, NOBODY))
    assert (segment.path.stat().st_uid, segment.path.stat().st_gid) == (NOBODY, NOBODY)


def test_a_segment_that_cannot_be_filled_is_removed(ordinary: Path) -> None:
    segment = Segment(1, ordinary)
    with pytest.raises(MachineError, match="cannot fill"):
        segment.claim(VERSION, (0, 0))
    assert not segment.path.exists()


def test_without_a_place_for_segments_the_next_step_is_named(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="writable /dev/shm"):
        Segment(1, tmp_path / "nowhere").claim(VERSION)


def test_segments_lie_where_shm_open_looks() -> None:
    assert Segment(7).path == Path("/dev/shm/envoy_shared_memory_70")
