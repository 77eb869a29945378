import math

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.duration import Span, SpanOrOff


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("10m", 600), ("1h30m", 5400), ("250ms", 0.25), ("1.5h", 5400), (" 2d ", 172800), ("1m1ms", 60.001)],
)
def test_a_span_is_read(text: str, seconds: float) -> None:
    assert Span().convert(text, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "45", "s", "-1s", "1 h", "1x", "1s,", "1s 2", "1e3s", "\u0661s2"])
def test_what_is_no_span_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a time span; write it like 45s"):
        Span().convert(text, None, None)


@given(st.text(max_size=20))
def test_whatever_is_written_is_a_span_or_refused(text: str) -> None:
    try:
        assert Span().convert(text, None, None) >= 0
    except click.BadParameter:
        return


def test_a_number_is_seconds() -> None:
    assert Span().convert(5, None, None) == 5.0


def test_off_is_for_ever_and_everything_else_a_positive_span() -> None:
    assert SpanOrOff().convert("off", None, None) == math.inf
    assert SpanOrOff().convert("45s", None, None) == 45
    for text in ("Off", "never", "0s", ""):
        with pytest.raises(click.BadParameter):
            SpanOrOff().convert(text, None, None)
