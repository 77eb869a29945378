"""Durations as Go and protobuf write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from agent.istio import go_durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("45s", 45.0),
        ("1m0s", 60.0),
        ("1h2m3.5s", 3723.5),
        ("500ms", 0.5),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("0", 0.0),
        ("0s", 0.0),
        ("+2s", 2.0),
        ("100us", 1e-4),
        ("100µs", 1e-4),
        ("1.s", 1.0),
        ("7ns", 7e-9),
        ("0.250s", 0.25),
    ],
)
def test_a_duration_is_read_as_go_reads_it(text: str, seconds: float) -> None:
    assert go_durations.seconds(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize("text", ["", "45", "s", "-1s", "1d", "1 s", "1s ", "1..5s", "٣s", "1m0", "+", "1e3s"])
def test_another_text_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write it like 45s, 1m0s or 500ms") as caught:
        go_durations.seconds(text)
    assert repr(text) in str(caught.value)


@given(some.integers(0, 10**12))
def test_what_is_written_is_read_again(milliseconds: int) -> None:
    span = milliseconds / 1000
    assert go_durations.seconds(go_durations.text(span)) == pytest.approx(span, rel=1e-12)


@pytest.mark.parametrize(
    ("span", "text"), [(1.0, "1s"), (0.25, "0.25s"), (300.0, "300s"), (0.0, "0s"), (0.001, "0.001s")]
)
def test_protobuf_reads_what_is_written(span: float, text: str) -> None:
    assert go_durations.text(span) == text
