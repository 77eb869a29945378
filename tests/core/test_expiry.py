"""The urgency of a renewal, by the time that is left and by the whole life."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.expiry import Expiry, expiry

END = datetime(2026, 11, 30, tzinfo=UTC)
DAY, HOUR, SECOND = timedelta(days=1), timedelta(hours=1), timedelta(seconds=1)
LIVES = st.timedeltas(timedelta(), 10_000 * DAY)


@pytest.mark.parametrize(
    ("life", "left", "found"),
    [
        (90 * DAY, 14 * DAY, Expiry.FAR),
        (90 * DAY, 14 * DAY - SECOND, Expiry.SOON),
        (90 * DAY, 2 * DAY, Expiry.SOON),
        (90 * DAY, 2 * DAY - SECOND, Expiry.URGENT),
        (90 * DAY, SECOND, Expiry.URGENT),
        (90 * DAY, timedelta(), Expiry.URGENT),
        (90 * DAY, -SECOND, Expiry.ENDED),
        (90 * DAY, -DAY, Expiry.ENDED),
        (30 * DAY, 6 * DAY, Expiry.FAR),
        (30 * DAY, 5 * DAY, Expiry.SOON),
        (24 * HOUR, 12 * HOUR, Expiry.FAR),  # an Istio workload renews here
        (24 * HOUR, 4 * HOUR, Expiry.SOON),
        (20 * HOUR, HOUR, Expiry.SOON),
        (20 * HOUR, HOUR - SECOND, Expiry.URGENT),
        (6 * DAY, 2 * DAY, Expiry.FAR),  # cert-manager renews here, at two thirds
        (timedelta(), SECOND, Expiry.FAR),  # X.509 allows dates that are equal; it is not valid yet
        (-DAY, SECOND, Expiry.FAR),
    ],
)
def test_a_certificate_is_as_urgent_as_its_rest_and_its_life_make_it(
    life: timedelta, left: timedelta, found: Expiry
) -> None:
    assert expiry(END - life, END, END - left) is found


@given(LIVES, LIVES, LIVES)
def test_it_never_gets_less_urgent(life: timedelta, one: timedelta, other: timedelta) -> None:
    order = list(Expiry)
    earlier, later = sorted((one, other))
    now = [order.index(expiry(END - life, END, END - life + passed)) for passed in (earlier, later)]
    assert now == sorted(now)


def test_the_words_are_those_that_the_page_and_the_output_show() -> None:
    assert [each.value for each in Expiry] == ["far", "soon", "urgent", "ended"]
