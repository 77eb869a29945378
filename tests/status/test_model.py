"""The status snapshot in plain values: what becomes of each in JSON."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography import x509

from agent.certificates.x509 import Leaf, leaf_of_chain
from agent.status.model import (
    AttemptView,
    Blocked,
    Change,
    End,
    EpochView,
    Evidence,
    Facts,
    ListenerView,
    Phase,
    ProbeResult,
    Status,
    document,
    to_json,
)
from tests.pki import Authority
from tests.status.sample import NOW, overview


@pytest.mark.parametrize("value", [None, True, False, 0, -7, 1 << 70, 1.5, "", "ж\n\0"])
def test_a_plain_value_is_itself(value: object) -> None:
    assert to_json(value) is value


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 5, 4, 12, 0, tzinfo=UTC), "2026-05-04T12:00:00.000Z"),
        (datetime(2026, 5, 4, 12, 0, 0, 123_999, tzinfo=UTC), "2026-05-04T12:00:00.123Z"),
        (datetime(2026, 5, 4, 1, 30, tzinfo=timezone(timedelta(hours=2))), "2026-05-03T23:30:00.000Z"),
        (datetime(2026, 12, 31, 23, 30, tzinfo=timezone(timedelta(hours=-5, minutes=-45))), "2027-01-01T05:15:00.000Z"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00.000Z"),
        (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "9999-12-31T23:59:59.999Z"),
    ],
)
def test_a_moment_is_in_utc_with_milliseconds_and_a_z(moment: datetime, text: str) -> None:
    assert to_json(moment) == text


def test_the_reasons_of_a_wait_are_the_values_of_a_label_that_alert_rules_name() -> None:
    assert [reason.value for reason in Blocked] == [
        "refused_files", "refused_configuration", "refused_program", "refused_by_proxy", "retry", "drains", "memory",
        "paused", "window", "jitter",
    ]  # fmt: skip


def test_a_reason_of_the_closed_set_is_its_word() -> None:
    assert json.dumps(to_json((Blocked.REFUSED_FILES, Blocked.JITTER))) == '["refused_files", "jitter"]'


def test_tuples_are_lists_and_objects_have_their_fields_by_name() -> None:
    assert to_json(()) == []
    assert to_json(((1,), (None, "x"))) == [[1], [None, "x"]]
    assert to_json((ListenerView("tcp://[::]:443", 2, None),)) == [
        {"address": "tcp://[::]:443", "workers": 2, "queue": None}
    ]


def test_what_is_within_an_object_is_converted_too() -> None:
    evidence = Evidence(3, None, 0, (ProbeResult("tcp://1.2.3.4:5", None, False, "refused"),))
    attempt = AttemptView(
        8,
        "certificate",
        "serving",
        "",
        NOW,
        "2d",
        None,
        (Change("web", None, "1f"),),
        (Phase("start", 0.25),),
        evidence,
    )
    assert to_json(attempt) == {
        "epoch": 8,
        "trigger": "certificate",
        "outcome": "serving",
        "reason": "",
        "began_at": "2026-05-04T12:00:00.000Z",
        "revision": "2d",
        "before": None,
        "changes": [{"set": "web", "before": None, "after": "1f"}],
        "phases": [{"name": "start", "seconds": 0.25}],
        "evidence": {
            "queued": 3,
            "overflows": None,
            "drops": 0,
            "seen": [{"address": "tcp://1.2.3.4:5", "serial": None, "matches": False, "error": "refused"}],
            "cut": None,
            "cut_at_end": None,
        },
        "end": None,
        "changed_at": None,
        "push": 0,
    }


def test_the_reaction_is_from_the_change_to_the_service() -> None:
    noticed = NOW - timedelta(seconds=1)
    attempt = AttemptView(
        8, "certificate", "serving", "", NOW, "2d", None, (), (Phase("start", 0.25), Phase("drain", 9.0))
    )
    assert attempt.reaction is None
    assert replace(attempt, changed_at=noticed).reaction == 1.25
    assert replace(attempt, changed_at=noticed, outcome="failed").reaction is None


def test_what_a_reader_may_leave_out_has_a_value_that_says_nothing() -> None:
    view = to_json(EpochView(1, "candidate", "starting", "2d", None, NOW, NOW))
    assert {name: value for name, value in view.items() if value in (None, "", [])} == {
        "pid": None,
        "deadline": None,
        "connections": None,
        "connections_at_first": None,
        "memory": None,
        "serials": [],
        "awaits": "",
    }
    status = to_json(Status(NOW, "1", 1, NOW, False, "no epoch serves", "", None))
    assert (status["watch"], status["hung"], status["paused_until"], status["rotations"]) == (
        "inotify",
        False,
        None,
        [],
    )


def test_a_value_of_any_other_type_is_a_bug() -> None:
    for value in ([1], {1}, b"bytes", object()):
        with pytest.raises(AttributeError):
            to_json(value)


def test_a_document_is_one_line_without_blanks() -> None:
    text = document(overview())
    assert text.endswith(b"}\n")
    assert text.count(b"\n") == 1
    assert b'"epoch":7,"epochs":[{"number":5,' in text
    assert json.loads(text)["certificates"][1]["refused"].startswith("cannot use /etc/certs/api/tls.crt")


def test_a_document_is_in_ascii_whatever_the_names_are() -> None:
    """A path may have bytes that are no UTF-8; a reader gets what Python made of them."""
    status = Status(NOW, "1", 1, NOW, False, "cannot read /ж/\udcff\u2028", "", None)
    text = document(status)
    assert text.isascii()
    assert json.loads(text)["reason"] == "cannot read /ж/\udcff\u2028"


def leaf() -> Leaf:
    root = Authority.create("the root")
    below = root.intermediate("the one below", not_after=datetime(2040, 1, 1, tzinfo=UTC))
    issued = below.issue(["a.test", "192.0.2.7", "spiffe://a/b"], serial=0xABC)
    return leaf_of_chain(tuple(x509.load_pem_x509_certificates(issued.chain_pem)))


def test_the_facts_of_a_leaf_are_those_of_its_chain() -> None:
    known, facts = leaf(), Facts.of(leaf())
    assert (facts.subject, facts.issuer) == ("CN=a.test", "CN=the one below")
    assert facts.names == ("DNS:a.test", "IP:192.0.2.7", "URI:spiffe://a/b")
    assert (facts.spiffe_id, facts.serial, facts.key_type) == ("spiffe://a/b", known.serial_hex, "ECDSA P-256")
    assert int(facts.serial, 16) == 0xABC
    assert (facts.not_before.year, facts.not_after.year) == (2020, 2040)
    assert len(facts.fingerprint) == 64
    assert [len(each) for each in facts.issuers] == [64]
    assert facts.issuers[0] != facts.fingerprint


# Crashes


def ended(cause: str, seconds: float = 5) -> End:
    return End(NOW - timedelta(seconds=seconds), cause, "exited with 1", 8.5, "serving")


def attempt(number: int, end: End | None = None, outcome: str = "serving") -> AttemptView:
    return AttemptView(number, "certificate", outcome, "", NOW, "2d", None, end=end)


@pytest.mark.parametrize(
    ("view", "result"),
    [
        (attempt(7), "serving"),
        (attempt(6), "succeeded"),
        (attempt(6, ended("asked")), "succeeded"),
        (attempt(6, ended("killed")), "succeeded"),
        (attempt(7, ended("code")), "crashed"),
        (attempt(6, ended("signal")), "crashed"),
        (attempt(6, ended("memory")), "crashed"),
        (attempt(6, outcome="dropped"), "superseded"),
        (attempt(6, outcome="refused"), "refused"),
        (attempt(8, outcome="running"), "running"),
    ],
)
def test_an_attempt_has_a_result_for_people(view: AttemptView, result: str) -> None:
    assert view.result(7) == result


def test_crashes_are_those_of_the_last_hour_newest_first() -> None:
    ends = [ended("code", 3599), ended("signal", 1), ended("asked", 1), ended("code", 3600), None]
    shown = replace(overview(), at=NOW, rotations=tuple(attempt(n, end) for n, end in enumerate(ends, 1)))
    assert [each.epoch for each in shown.crashes] == [2, 1]
    assert shown.crash_loop
    assert not replace(shown, rotations=shown.rotations[1:]).crash_loop


def test_an_epoch_serves_from_the_end_of_its_opening() -> None:
    phases = (Phase("start", 2.0), Phase("open", 0.5), Phase("handover", 9.0), Phase("drain", 70.0))
    assert replace(attempt(7), phases=phases).served_at == NOW + timedelta(seconds=2.5)
