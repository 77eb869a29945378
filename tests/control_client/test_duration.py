import pytest

from agent.control_client.duration import seconds


@pytest.mark.parametrize(("text", "wanted"), [("30s", 30), ("1h30m", 5400), ("250ms", 0.25), ("1.5m1ms", 90.001),
                                              ("2d", 172_800), ("0h30m", 1800)])  # fmt: skip
def test_a_span_is_read(text: str, wanted: float) -> None:
    assert seconds(text) == pytest.approx(wanted)


@pytest.mark.parametrize("text", ["", "5", "s", "1.s", ".5s", "1..5s", "1 h", "1sm", "-1s", "0s", "\u0661s"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        seconds(text)


@pytest.mark.parametrize("text", ["0s", "0m0s", "0.0h"])
def test_a_span_of_nothing_is_refused_as_such(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}' is not a positive time span"):
        seconds(text)
