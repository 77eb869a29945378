"""What is reported about certificate files: the closed sets, the messages, and what may resolve by itself."""

from datetime import UTC, datetime

import pytest

from agent.certificates.findings import Fallback, Fault, FileWarning, Rejection, Unusable, WarningKind
from agent.core.errors import BadInput

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def unusable(fault: Fault = Fault.MISMATCH, usable_from: datetime | None = None) -> Unusable:
    return Unusable("/c/tls.key", fault, "it does not fit", "write another", usable_from)


@pytest.mark.parametrize(
    "fault",
    [
        Fault.MISSING,
        Fault.UNREADABLE,
        Fault.EMPTY,
        Fault.INCOMPLETE,
        Fault.MISMATCH,
        Fault.LOST_OWN_CA,
        Fault.TIED,
    ],
)
def test_a_fault_that_a_half_written_group_shows_may_resolve(fault: Fault) -> None:
    assert fault.may_resolve
    assert Rejection.of("web", unusable(fault)).may_resolve


@pytest.mark.parametrize("fault", [Fault.UNPARSABLE, Fault.EXPIRED, Fault.NOT_YET_VALID, Fault.PROXY])
def test_a_fault_of_whole_files_does_not_resolve(fault: Fault) -> None:
    assert not fault.may_resolve
    assert not Rejection.of("web", unusable(fault)).may_resolve


def test_the_faults_are_the_values_of_a_label_that_alert_rules_name() -> None:
    assert [fault.value for fault in Fault] == [
        "missing", "unreadable", "empty", "incomplete", "unparsable", "mismatch", "expired", "not_yet_valid",
        "lost_own_ca", "tied", "proxy",
    ]  # fmt: skip


def test_the_kinds_of_warnings_are_the_values_of_a_field_that_log_queries_name() -> None:
    assert [kind.value for kind in WarningKind] == [
        "chain_order", "expired", "not_yet_valid", "soon_to_expire", "older", "expired_root", "stray",
    ]  # fmt: skip


def test_an_unusable_file_is_bad_input_and_says_what_why_and_what_next() -> None:
    error = unusable()
    assert isinstance(error, BadInput)
    assert str(error) == "cannot use /c/tls.key: it does not fit; write another"
    assert error.usable_from is None


def test_a_rejection_takes_everything_from_the_fault() -> None:
    rejection = Rejection.of("web", unusable(Fault.NOT_YET_VALID, NOON), Fallback.LAST_GOOD)
    assert rejection == Rejection(
        "web", "/c/tls.key", Fault.NOT_YET_VALID, "it does not fit", "write another", Fallback.LAST_GOOD, NOON
    )


def test_unless_there_is_a_fallback_nothing_is_started_without_the_file() -> None:
    assert Rejection.of("web", unusable()).meanwhile is Fallback.NOTHING


@pytest.mark.parametrize("fallback", Fallback)
def test_the_log_message_is_the_complaint_and_the_fallback(fallback: Fallback) -> None:
    rejection = Rejection.of("web", unusable(), fallback)
    assert rejection.complaint == "cannot use /c/tls.key: it does not fit; write another"
    assert rejection.message == f"{rejection.complaint}, {fallback.value}"


def test_a_rejected_file_that_nothing_uses_is_a_stray_which_may_be_removed() -> None:
    warning = FileWarning.of(Rejection.of("web", unusable()))
    assert (warning.group, warning.path, warning.worry) == ("web", "/c/tls.key", WarningKind.STRAY)
    assert warning.message.startswith("/c/tls.key is not used: it does not fit; write another")
    assert "remove" in warning.message
