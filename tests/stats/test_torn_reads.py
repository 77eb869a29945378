"""Two reads of a counter, one of which may be torn: each of its bytes is from another moment."""

from itertools import accumulate

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.stats.torn_reads import at_least, settled

STEPS = st.sampled_from([0, 1, 2, 0x0F, 0xFF, 0x100, 0x101, 0xFF00, 0xFFFF, 0x10000, 0xFF_FFFF, 2**32 - 1, 2**32])


@st.composite
def reads(draw: st.DrawFn) -> tuple[list[int], int, int, int]:
    """The values of a counter over time, two reads of it in order, and which of them is whole."""
    start = draw(st.one_of(st.integers(0, 2**40), st.sampled_from([0, 0xFF, 0xFE, 0xFFFF, 0xFFFFFF])))
    life = list(accumulate(draw(st.lists(STEPS | st.integers(0, 2**24), max_size=8)), initial=start))
    between = draw(st.integers(0, len(life) - 1))
    spans = (life[: between + 1], life[between:])
    whole = draw(st.integers(0, 1))
    both = [draw(st.sampled_from(span)) if at == whole else _torn(draw, span) for at, span in enumerate(spans)]
    return life, both[0], both[1], whole


def _torn(draw: st.DrawFn, span: list[int]) -> int:
    moments = draw(st.lists(st.sampled_from(span), min_size=8, max_size=8))
    return int.from_bytes(bytes(value.to_bytes(8, "little")[place] for place, value in enumerate(moments)), "little")


@settings(max_examples=300)
@given(reads())
def test_what_two_reads_agree_on_was_there(case: tuple[list[int], int, int, int]) -> None:
    life, first, second, _ = case
    if settled(first, second):
        assert first in life


@settings(max_examples=300)
@given(reads())
def test_what_is_reached_for_sure_is_never_too_much(case: tuple[list[int], int, int, int]) -> None:
    _, first, second, whole = case
    assert at_least(first, second) <= (first, second)[whole]


def test_a_carry_between_two_bytes_is_not_believed() -> None:
    assert not settled(0x01FF, 0x0100)
    assert not settled(0x0000, 0x0100)
    assert at_least(0x01FF, 0x0100) == 0x0100
    assert at_least(0x0000, 0x0100) == 0
    assert at_least(7, 7) == 7
