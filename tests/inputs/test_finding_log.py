import logging

import pytest

from agent.certificates.findings import Fallback, Fault, FileWarning, Rejection, WarningKind
from agent.inputs.finding_log import FindingLog


def refusal(path: str = "/certs/a", fault: Fault = Fault.EXPIRED, why: str = "why") -> Rejection:
    return Rejection(f"group of {path}", path, fault, why, "remedy", Fallback.LAST_GOOD)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The messages from level DEBUG up."""
    caplog.set_level(logging.DEBUG)
    return caplog


def names(said: pytest.LogCaptureFixture) -> list[object]:
    return [getattr(record, "event", None) for record in said.records]


def test_a_refusal_is_a_line_when_it_appears_and_a_line_when_it_is_gone(said: pytest.LogCaptureFixture) -> None:
    reports = FindingLog(2.0)
    for at in (0.0, 1.0, 5.0):
        assert reports.refuse([refusal()], at) is None
    assert names(said) == ["certificate.refused"]
    assert reports.refusals == [refusal()]
    reports.refuse([], 6.0)
    assert names(said) == ["certificate.refused", "certificate.repaired"]
    assert not reports.refusals
    reports.refuse([refusal()], 7.0)
    assert names(said)[-1] == "certificate.refused"


def test_half_of_a_rotation_is_not_yet_called_refused(said: pytest.LogCaptureFixture) -> None:
    reports = FindingLog(2.0)
    half = refusal(fault=Fault.MISMATCH)
    assert reports.refuse([half], 10.0) == 12.0
    assert reports.refuse([half], 11.0) == 12.0
    assert not said.records
    assert reports.refuse([half], 12.0) is None
    assert names(said) == ["certificate.refused"]


def test_half_of_a_rotation_that_completes_is_never_mentioned(said: pytest.LogCaptureFixture) -> None:
    reports = FindingLog(2.0)
    reports.refuse([refusal(fault=Fault.MISSING)], 0.0)
    reports.refuse([], 1.0)
    assert reports.refuse([refusal(fault=Fault.MISSING)], 3.0) == 5.0  # another rotation with its own delay
    assert not said.records


def test_each_file_and_each_fault_is_a_refusal_of_its_own(said: pytest.LogCaptureFixture) -> None:
    reports = FindingLog(0.0)
    reports.refuse([refusal("/a"), refusal("/b"), refusal("/a", Fault.EMPTY)], 0.0)
    assert len(said.records) == 3
    reports.refuse([refusal("/b")], 1.0)
    assert names(said)[3:] == ["certificate.repaired"] * 2


def test_the_same_fault_for_another_reason_is_said_as_well(said: pytest.LogCaptureFixture) -> None:
    reports = FindingLog(2.0)
    first, second = (refusal(fault=Fault.MISMATCH, why=why) for why in ("serial 1", "serial 2"))
    reports.refuse([first], 0.0)
    reports.refuse([first], 2.0)
    assert reports.refuse([second], 3.0) == 5.0  # possibly half of the repair
    assert reports.refusals == [first]
    assert reports.refuse([second], 5.0) is None
    assert reports.refusals == [second]
    assert names(said) == ["certificate.refused"] * 2


def test_a_file_that_is_damaged_repeatedly_is_reported_in_time(said: pytest.LogCaptureFixture) -> None:
    reports = FindingLog(2.0)
    for number in range(5):
        reports.refuse([refusal(fault=Fault.MISMATCH, why=f"serial {number}")], number / 2)
    assert names(said) == ["certificate.refused"]


def test_a_file_that_is_refused_for_something_else_now_is_not_called_repaired(said: pytest.LogCaptureFixture) -> None:
    reports = FindingLog(0.0)
    reports.refuse([refusal(fault=Fault.INCOMPLETE)], 0.0)
    reports.refuse([refusal(fault=Fault.MISMATCH)], 1.0)
    assert names(said) == ["certificate.refused"] * 2


def test_the_earliest_time_of_the_next_load_is_returned() -> None:
    reports = FindingLog(2.0)
    reports.refuse([refusal("/a", Fault.EMPTY)], 1.0)
    assert reports.refuse([refusal("/a", Fault.EMPTY), refusal("/b", Fault.EMPTY)], 2.0) == 3.0


def test_a_caution_is_said_while_it_is_new(said: pytest.LogCaptureFixture) -> None:
    reports = FindingLog(0.0)
    worry = FileWarning("group", "/a", WarningKind.OLDER, "older than what is served")
    for cautions in ([worry], [worry], [], [worry]):
        assert reports.caution(cautions, at=0.0) is None
    assert names(said) == ["certificate.caution"] * 2


def test_a_stray_may_be_half_of_a_pair_under_way(said: pytest.LogCaptureFixture) -> None:
    reports = FindingLog(2.0)
    stray = FileWarning("group", "/a", WarningKind.STRAY, "nothing uses /a")
    assert reports.caution([stray], at=10.0) == 12.0
    assert reports.caution([], at=11.0) is None
    assert reports.caution([stray], at=12.0) == 14.0
    assert not said.records
    assert reports.caution([stray], at=14.0) is None
    assert reports.caution([stray], at=15.0) is None
    assert names(said) == ["certificate.caution"]


def test_a_sentence_is_said_once_until_it_changes_or_is_forgotten(said: pytest.LogCaptureFixture) -> None:
    reports = FindingLog(0.0)
    for text in ("a", "a", "b", "", "b"):
        reports.once("x", text)
    assert [record.getMessage() for record in said.records] == ["a", "b", "b"]
