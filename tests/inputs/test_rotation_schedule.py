import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from agent.core.revision import Revision
from agent.core.schedule import Window
from agent.host import clock
from agent.inputs.revisions import LoadedRevision
from agent.inputs.rotation_schedule import RotationSchedule
from agent.inputs.settings import Settings
from agent.proxies.envoy.options import Flags
from agent.proxies.envoy.proxy import Envoy
from agent.status.model import Blocked

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
AT_ONCE = float("-inf")


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "calendar", lambda: NOON)
    monkeypatch.setattr(clock, "monotonic", lambda: 1000.0)


def settings(directory: Path, **more: object) -> Settings:
    plain = Settings("sidecar", Envoy(Flags(), 1.0), (), None, (), directory, "tcp://127.0.0.1:1", "tcp://127.0.0.1:2")
    return replace(plain, **more)  # type: ignore[arg-type]


def loaded(name: str, life: timedelta = timedelta(hours=10)) -> LoadedRevision:
    leaf = SimpleNamespace(not_before=NOON, not_after=NOON + life)
    selection = SimpleNamespace(leaves={"a": leaf})
    return cast("LoadedRevision", SimpleNamespace(revision=Revision(name, "shape"), selection=selection))


def local(hour: int) -> Window:
    """Return local time, `hour` hours after noon in UTC."""
    begin = (NOON + timedelta(hours=hour)).astimezone()
    return Window(begin.timetz().replace(tzinfo=None), (begin + timedelta(hours=1)).timetz().replace(tzinfo=None))


def test_without_a_wish_everything_goes_on_at_once(tmp_path: Path) -> None:
    timing = RotationSchedule(settings(tmp_path))
    assert [timing.not_before(loaded(name)) for name in "ab"] == [AT_ONCE, AT_ONCE]


def test_the_first_one_waits_for_nothing(tmp_path: Path) -> None:
    timing = RotationSchedule(settings(tmp_path, window=local(2), jitter=60.0))
    assert timing.not_before(loaded("a")) == AT_ONCE


@pytest.mark.parametrize(("wish", "why"), [({"window": local(2)}, "--rotate-window"), ({"jitter": 3600.0}, "--jitter")])
def test_a_wait_is_logged_once_with_its_end_and_its_reason(
    wish: dict[str, object], why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    timing = RotationSchedule(settings(tmp_path, **wish))
    timing.not_before(loaded("a"))
    second = loaded("b")
    wait = timing.not_before(second) - 1000.0
    assert timing.not_before(second) == 1000.0 + wait
    (record,) = caplog.records
    until = (NOON + timedelta(seconds=wait)).astimezone()
    assert vars(record)["event"] == "rotation.later"
    assert record.getMessage() == (f"revision {second.revision.name} starts at {until:%Y-%m-%d %H:%M:%S%z} ({why})")


def test_what_comes_outside_the_window_waits_for_it(tmp_path: Path) -> None:
    timing = RotationSchedule(settings(tmp_path, window=local(2)))
    timing.not_before(loaded("a"))
    second = loaded("b")
    assert timing.not_before(second) == 1000.0 + 7200
    assert timing.not_before(second) == 1000.0 + 7200
    assert timing.blocked is Blocked.WINDOW


def test_a_fleet_is_spread_by_the_life_of_the_certificate(tmp_path: Path) -> None:
    timing = RotationSchedule(settings(tmp_path, jitter=None))
    timing.not_before(loaded("a"))
    waits = timing.not_before(loaded("b")) - 1000.0
    assert 0 < waits < 360
    assert timing.blocked is Blocked.JITTER
    other = RotationSchedule(settings(tmp_path / "another", jitter=None))
    other.not_before(loaded("a"))
    assert other.not_before(loaded("b")) - 1000.0 != waits


def test_the_window_is_open_at_its_first_moment(tmp_path: Path) -> None:
    timing = RotationSchedule(settings(tmp_path, window=local(0)))
    timing.not_before(loaded("a"))
    assert timing.not_before(loaded("b")) == AT_ONCE


def test_a_choice_by_the_calendar_is_made_again_when_the_clock_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timing = RotationSchedule(settings(tmp_path, window=local(2)))
    first, second = loaded("a"), loaded("b")
    timing.not_before(first)
    assert timing.not_before(second) == pytest.approx(1000.0 + 2 * 3600)
    monkeypatch.setattr(clock, "calendar", lambda: NOON + timedelta(hours=1))
    assert timing.not_before(second) == pytest.approx(1000.0 + 2 * 3600), "time has only passed, as far as it knows"
    timing.clock_stepped()
    assert timing.not_before(second) == pytest.approx(1000.0 + 3600)


def test_what_waits_for_nothing_does_not_begin_to_when_the_calendar_is_set(tmp_path: Path) -> None:
    timing = RotationSchedule(settings(tmp_path, window=local(2)))
    only = loaded("a")
    timing.not_before(only)
    timing.clock_stepped()
    assert timing.not_before(only) == AT_ONCE
