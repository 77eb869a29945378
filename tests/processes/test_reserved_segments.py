"""Shared memory for the next epoch is there before it is needed, and fits it."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.core.errors import MachineError
from agent.handoff.segment import HotRestartVersion, Segment
from agent.handoff.socket_paths import BASE_ID_LIMIT
from agent.processes import reserved_segments
from agent.processes.reserved_segments import ReservedSegments

ONE, OTHER = HotRestartVersion(11, 104), HotRestartVersion(11, 208)


@pytest.fixture
def segments() -> Iterator[ReservedSegments]:
    made = ReservedSegments(None)
    yield made
    made.close()


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Choose the base ids that chance gives."""

    def choose(*base_ids: int) -> None:
        left = iter(base_ids)

        def below(limit: int) -> int:
            assert limit == BASE_ID_LIMIT - 1
            return next(left) - 1

        monkeypatch.setattr(secrets, "randbelow", below)

    return choose


def test_a_claimed_segment_has_the_image_that_the_proxy_expects(segments: ReservedSegments) -> None:
    claimed = segments.claim(OTHER)
    try:
        assert claimed.path.read_bytes() == OTHER.image()
        assert 1 <= claimed.base_id < BASE_ID_LIMIT
        assert segments.spare is None
    finally:
        claimed.release()


def test_the_spare_is_given_once(segments: ReservedSegments) -> None:
    segments.keep_one(ONE)
    spare = segments.spare
    assert spare is not None
    assert spare.path.exists()
    claimed, another = segments.claim(ONE), segments.claim(ONE)
    for each in (claimed, another):
        each.release()
    assert claimed == spare
    assert another != spare
    assert segments.spare is None


def test_one_spare_is_enough(segments: ReservedSegments) -> None:
    segments.keep_one(ONE)
    spare = segments.spare
    segments.keep_one(ONE)
    assert segments.spare == spare


def test_a_spare_for_another_program_is_kept_and_not_given_to_this_one(segments: ReservedSegments) -> None:
    segments.keep_one(ONE)
    spare = segments.spare
    claimed = segments.claim(OTHER)
    claimed.release()
    assert claimed != spare
    assert segments.spare == spare


def test_a_spare_for_a_program_that_is_no_longer_used_is_replaced(segments: ReservedSegments) -> None:
    segments.keep_one(ONE)
    before = segments.spare
    segments.keep_one(OTHER)
    after = segments.spare
    assert before is not None
    assert after is not None
    assert not before.path.exists()
    assert after.path.read_bytes() == OTHER.image()
    claimed = segments.claim(OTHER)
    claimed.release()
    assert claimed == after


def test_a_close_releases_the_spare_and_can_be_repeated(segments: ReservedSegments) -> None:
    segments.keep_one(ONE)
    spare = segments.spare
    assert spare is not None
    segments.close()
    segments.close()
    assert segments.spare is None
    assert not spare.path.exists()


def test_the_base_id_of_a_claim_is_known_before_it(segments: ReservedSegments) -> None:
    upcoming = segments.upcoming
    claimed = segments.claim(ONE)
    claimed.release()
    assert claimed == Segment(upcoming)
    upcoming = segments.upcoming
    segments.keep_one(ONE)
    assert segments.spare == Segment(upcoming)
    assert segments.upcoming != upcoming


def test_a_base_id_that_is_taken_is_passed_by(
    segments: ReservedSegments, numbers: Callable[..., None], base_id: int
) -> None:
    taken, free = Segment(base_id), base_id % (BASE_ID_LIMIT - 1) + 1
    assert taken.claim(OTHER)
    segments.upcoming = base_id
    numbers(base_id, free, free)
    claimed = segments.claim(ONE)
    claimed.release()
    untouched = taken.path.read_bytes()
    taken.release()
    assert claimed.base_id == free
    assert untouched == OTHER.image(), "it is another agent's"


@pytest.mark.parametrize("tries", [99, 100])
def test_a_hundred_taken_base_ids_are_enough_to_give_up(
    segments: ReservedSegments, numbers: Callable[..., None], base_id: int, tries: int
) -> None:
    taken, free = Segment(base_id), base_id % (BASE_ID_LIMIT - 1) + 1
    assert taken.claim(ONE)
    segments.upcoming = base_id
    numbers(*[base_id] * (tries - 1), free, free, free)
    try:
        if tries < 100:
            claimed = segments.claim(ONE)
            claimed.release()
            assert claimed.base_id == free
        else:
            with pytest.raises(MachineError, match=r"base id.*100.*/dev/shm"):
                segments.claim(ONE)
            segments.keep_one(ONE)
            assert segments.spare is not None, "the last number of those"
    finally:
        segments.close()
        taken.release()


def test_without_room_for_a_spare_there_is_none(
    segments: ReservedSegments, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(reserved_segments, "Segment", lambda number: Segment(number, tmp_path / "gone"))
    segments.keep_one(ONE)
    assert segments.spare is None
    with pytest.raises(MachineError, match="gone"):
        segments.claim(ONE)
    monkeypatch.undo()
    segments.keep_one(ONE)
    assert segments.spare is not None, "there is room again"


def test_the_memory_belongs_to_the_proxys_user(tmp_path: Path) -> None:
    (tmp_path / "own").touch()
    own = (tmp_path / "own").stat()
    segments = ReservedSegments((own.st_uid, own.st_gid))
    segments.keep_one(ONE)
    claimed = [segments.claim(ONE), segments.claim(ONE)]
    owners = [each.path.stat() for each in claimed]
    for each in claimed:
        each.release()
    assert [(each.st_uid, each.st_gid, each.st_mode & 0o777) for each in owners] == [
        (own.st_uid, own.st_gid, 0o600)
    ] * 2
