from datetime import UTC, datetime, timedelta

import pytest

from agent.certificates.findings import Unusable
from agent.webhook.ca_bundle import Authorities, authorities, registered, renewed
from tests.pki import Authority

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FIRST, SECOND, THIRD = (authorities("ca.crt", Authority.create(name).pem) for name in ("first", "second", "third"))
EXPIRED = authorities("ca.crt", Authority.create("expired", not_after=NOW - timedelta(days=1)).pem)


def after(own: Authorities, present: Authorities, previous: Authorities = ()) -> Authorities:
    """Return the authorities that are registered after one look."""
    bundle = renewed("ca.crt", own, present, previous, NOW)
    return present if bundle is None else registered(bundle)


def test_the_first_registration_is_the_file() -> None:
    assert after(FIRST, ()) == FIRST


def test_what_is_registered_stays() -> None:
    assert renewed("ca.crt", FIRST, FIRST, (), NOW) is None
    assert renewed("ca.crt", FIRST, (*SECOND, *FIRST), (), NOW) is None


def test_a_rotation_keeps_the_authority_before_it_and_the_next_one_drops_that() -> None:
    one = after(SECOND, FIRST)
    assert one == (*SECOND, *FIRST)
    assert after(THIRD, one) == (*THIRD, *SECOND)


def test_a_replica_with_the_old_file_changes_nothing() -> None:
    assert renewed("ca.crt", FIRST, (*SECOND, *FIRST), (), NOW) is None


def test_a_rollback_keeps_what_was_in_the_file_before() -> None:
    assert after(THIRD, (*SECOND, *FIRST), previous=FIRST) == (*THIRD, *FIRST)


def test_expired_authorities_are_dropped() -> None:
    assert after(FIRST, (*FIRST, *EXPIRED)) == FIRST
    assert after((*FIRST, *EXPIRED), ()) == FIRST
    assert after(SECOND, EXPIRED, previous=EXPIRED) == SECOND


def test_an_authority_is_valid_to_the_end_of_its_last_second() -> None:
    last = authorities("ca.crt", Authority.create("last", not_after=NOW).pem)
    assert after(last, ()) == last


def test_a_file_of_expired_authorities_replaces_nothing() -> None:
    with pytest.raises(Unusable, match=r"^cannot use ca.crt: its authorities have expired; write"):
        renewed("ca.crt", EXPIRED, FIRST, (), NOW)


def test_a_file_of_several_authorities_keeps_as_many() -> None:
    assert after((*SECOND, *THIRD), FIRST) == (*SECOND, *THIRD, *FIRST)
    assert after(THIRD, (*SECOND, *FIRST), previous=(*FIRST, *SECOND)) == (*THIRD, *FIRST, *SECOND)


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\n"])
def test_a_registered_bundle_that_does_not_parse_is_replaced(content: bytes) -> None:
    assert registered(content) == ()
    assert after(FIRST, registered(content)) == FIRST
